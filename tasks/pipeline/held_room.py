"""Room for what is held: so many bytes, of so many objects. Who comes waits behind all who came before."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HeldRoom:
    """For the event loop's thread alone."""

    def __init__(self, most_bytes: int, most_objects: int) -> None:
        """An object that is larger enters when it is alone."""
        self._most_bytes = most_bytes
        self._most_objects = most_objects
        self._bytes = self._objects = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def entered(self, size_bytes: int) -> AsyncIterator[None]:
        """Room for an object."""
        await self._enter(size_bytes)
        try:
            yield
        finally:
            self._leave(size_bytes)

    async def _enter(self, size_bytes: int) -> None:
        if not self._waiting and self._has_room(size_bytes):
            self._count(size_bytes)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave(size_bytes)
            raise

    def _leave(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._objects -= 1
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, future = self._waiting.popleft()
            if not future.done():  # else its task was cancelled
                self._count(size)
                future.set_result(None)

    def _has_room(self, size_bytes: int) -> bool:
        fits = self._bytes + size_bytes <= self._most_bytes and self._objects < self._most_objects
        return fits or not self._objects

    def _count(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._objects += 1
