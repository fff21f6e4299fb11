"""The reader threads: what a file holds is read, parsed and hashed beside the event loop.

How much is held at once is bounded, not how many files are: a read begins while there is room.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from tasks.core.models import Rejected
from tasks.daemon_threads import DaemonThreads
from tasks.source.file_content import Content, read_content
from tasks.upload.waiters import Waiters

READERS: Final = 2  # hashing lets the interpreter go, parsing does not: more are slower
HELD_BYTES: Final = 64 * 1024 * 1024  # by all files under way; what is being read may come on top of it

_T = TypeVar("_T")


class Readers:
    """Reads files in the order in which they are asked for. For the event loop's thread alone."""

    def __init__(self, held_files: int, held_bytes: int = HELD_BYTES) -> None:
        """So many files may be held however large they are: a slot must not wait for one."""
        self._threads = DaemonThreads(READERS, "reader")
        self._most_bytes = held_bytes
        self._least_files = held_files
        self._bytes = self._files = 0  # that are held
        self._reading = 0
        self._waiting = Waiters()

    async def read(self, path: str, begun: Callable[[], None] = lambda: None) -> Content | Rejected:
        """The file's content, which is `release`d when it is not needed any more. `begun` by the thread."""
        if self._waiting or not self._has_room():
            await self._waiting.wait()
            while not self._has_room():
                await self._waiting.wait(first=True)
        self._reading += 1
        self._let_in()
        try:
            content = await self._run_to_its_end(partial(_read, path, begun))
        finally:
            self._reading -= 1
            self._let_in()
        if not isinstance(content, Rejected):
            self._bytes += content.held_bytes
            self._files += 1
        return content

    async def run(self, work: Callable[[], _T]) -> _T:
        """Other work on a small file, by a reader."""
        return await self._threads.run(work)

    def release(self, content: Content) -> None:
        """Closes it, and gives its room to others; once more does no harm."""
        if content.held_bytes:
            self._bytes -= content.held_bytes
            self._files -= 1
            content.close()
            self._let_in()

    def close(self) -> None:
        """No read follows."""
        self._threads.close()

    async def _run_to_its_end(self, work: Callable[[], Content | Rejected]) -> Content | Rejected:
        """Who is cancelled meanwhile leaves no file open."""
        reading = self._threads.run(work)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            reading.add_done_callback(_close)
            raise

    def _has_room(self) -> bool:
        is_little = self._bytes < self._most_bytes or self._files + self._reading < self._least_files
        return self._reading < READERS and is_little

    def _let_in(self) -> None:
        if self._has_room():
            self._waiting.wake()


def _read(path: str, begun: Callable[[], None]) -> Content | Rejected:
    begun()
    return read_content(path)


def _close(reading: "asyncio.Future[Content | Rejected]") -> None:
    if not reading.cancelled() and not reading.exception() and not isinstance(reading.result(), Rejected):
        reading.result().close()  # type: ignore[union-attr]
