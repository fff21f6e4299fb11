"""Of what has one UID, one at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext


class UidLocks:
    """For the event loop's thread alone. What nobody has takes no room."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # by UID, with how many have it or wait

    @asynccontextmanager
    async def alone(
        self, uid: str, waiting: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> AsyncIterator[None]:
        """Waits within `waiting()`, where it has to."""
        lock, count = self._locks.get(uid, (asyncio.Lock(), 0))
        self._locks[uid] = lock, count + 1
        try:
            if lock.locked():
                with waiting():
                    await lock.acquire()
            else:
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        lock, count = self._locks[uid]
        if count > 1:
            self._locks[uid] = lock, count - 1
        else:
            del self._locks[uid]
