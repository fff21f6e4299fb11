"""Coroutines that wait for something of which there is not enough for all, the oldest first."""

import asyncio
from collections import deque
from contextlib import suppress


class Waiters:
    """For the event loop's thread alone. Who is woken looks again, and wakes the next while there is more."""

    def __init__(self) -> None:
        self._futures: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._futures)

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
            if future.done() and not future.cancelled():
                self.wake()  # the next one, in its place
            raise
        finally:
            with suppress(ValueError):
                self._futures.remove(future)

    def wake(self) -> None:
        """The oldest one."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():  # it is being cancelled
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """All who wait now."""
        for _ in range(len(self._futures)):
            self.wake()
