"""Coroutines that wait for something of which there is not enough for all, the oldest first."""

import asyncio
from collections import deque
from contextlib import suppress


class Waiters:
    """For the event loop's thread alone. Who is woken looks again, and wakes the next while there is more."""

    def __init__(self) -> None:
        self._futures: deque[asyncio.Future[None]] = deque()
        self._woken = 0  # who have not run since

    def __bool__(self) -> bool:
        """Whether somebody who comes now has to wait, too, for the order's sake."""
        return bool(self._futures or self._woken)

    async def wait(self, at_most_s: float | None = None, *, first: bool = False) -> None:
        """Until it is woken, or the time is over. `first`: it was woken, and others came before it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._futures.appendleft if first else self._futures.append)(future)
        try:
            if at_most_s is None:
                await future
            else:
                await asyncio.wait([future], timeout=at_most_s)
        except asyncio.CancelledError:
            if _is_woken(future):
                self.wake()  # the next one, in its place
            raise
        finally:
            if _is_woken(future):
                self._woken -= 1
            else:
                with suppress(ValueError):
                    self._futures.remove(future)

    def wake(self) -> None:
        """The oldest one."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():  # it is being cancelled
                future.set_result(None)
                self._woken += 1
                return

    def wake_all(self) -> None:
        """All who wait now."""
        for _ in range(len(self._futures)):
            self.wake()


def _is_woken(future: "asyncio.Future[None]") -> bool:
    return future.done() and not future.cancelled()
