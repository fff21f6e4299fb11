"""The reader threads: what a file holds is read, parsed and hashed beside the event loop.

How much is held at once is bounded, not how many files are: a read begins while there is room.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tasks.core.models import Rejected
from tasks.source.file_content import Content, read_content

READERS: Final = 2  # hashing lets the interpreter go, parsing does not: more are slower
HELD_BYTES: Final = 64 * 1024 * 1024  # by all files under way; two more files may be read at that moment


class Readers:
    """Reads files in the order in which they are asked for. To be used in the event loop's thread alone."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._most = held_bytes
        self._held = 0
        self._idle = READERS
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def read(self, path: str, begun: Callable[[], None] = lambda: None) -> Content | Rejected:
        """The file's content, which is `release`d when it is not needed any more. `begun` by the thread."""
        await self._may_begin()
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._pool, _read, path, begun)
        finally:
            self._idle += 1
            self._let_in()
        if not isinstance(content, Rejected):
            self._held += content.held_bytes
        return content

    async def run(self, work: Callable[[], None]) -> None:
        """Other work on a file, by a reader."""
        await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def release(self, content: Content) -> None:
        """Closes it, and gives its room to others; once more does no harm."""
        self._held -= content.held_bytes
        content.close()
        self._let_in()

    def close(self) -> None:
        """No read follows."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _may_begin(self) -> None:
        if self._waiting or not self._has_room():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # it had been let in
                    self._idle += 1
                    self._let_in()
                raise
        else:
            self._idle -= 1

    def _has_room(self) -> bool:
        return self._idle > 0 and self._held < self._most

    def _let_in(self) -> None:
        while self._waiting and self._has_room():
            future = self._waiting.popleft()
            if not future.done():
                self._idle -= 1
                future.set_result(None)


def _read(path: str, begun: Callable[[], None]) -> Content | Rejected:
    begun()
    return read_content(path)
