"""The reader threads: what a file holds is read, parsed and hashed beside the event loop.

How much is held at once is bounded, not how many files are: a read begins while there is room.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from tasks.concurrency.daemon_threads import DaemonThreads
from tasks.concurrency.gates import Gate
from tasks.core.models import Rejected
from tasks.source.file_content import Content

# Each reader more takes the interpreter from the loop, a dozen times for each file, so small files have one.
READERS: Final = 1
_READERS_OF_LARGE: Final = 2  # while one hashes, which lets the interpreter go, another can parse
MOST_READERS: Final = 4  # where they wait for the disk
_LARGE_BYTES: Final = 128 * 1024
_SLOW_S: Final = 0.01  # a read that takes longer than this has waited, or hashed for long
_SMOOTHING: Final = 0.1  # weight of the newest read in the moving average
HELD_BYTES: Final = 64 * 1024 * 1024  # by all files under way; what is being read may come on top of it

_T = TypeVar("_T")


class Readers:
    """Reads files in the order in which they are asked for. For the event loop's thread alone."""

    def __init__(self, held_files: int, held_bytes: int = HELD_BYTES) -> None:
        """So many files may be held however large they are: a slot must not wait for one."""
        self._threads = DaemonThreads(MOST_READERS, "reader")
        self._most_bytes = held_bytes
        self._least_files = held_files
        self._bytes = self._files = 0  # that are held
        self._usual_s = self._usual_bytes = 0.0  # of a read: moving averages
        self._began: dict[object, float] = {}  # reads, by the loop's clock
        self._gate = Gate(self._has_room)

    async def read(self, read: Callable[[], Content | Rejected]) -> Content | Rejected:
        """What a reader makes of a file; who is cancelled meanwhile leaves none open.

        A content is to be `release`d when it is not needed any more.
        """
        async with self._gate.entered():
            reading = self._threads.run(read)
            self._began[reading] = self._now()
            try:
                content = await asyncio.shield(reading)
            except asyncio.CancelledError:
                reading.add_done_callback(_close)
                raise
            finally:
                took_s = self._now() - self._began.pop(reading)
                self._usual_s += _SMOOTHING * (took_s - self._usual_s)
            if not isinstance(content, Rejected):
                self._usual_bytes += _SMOOTHING * (content.held_bytes - self._usual_bytes)
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
            self._gate.look()

    def look(self) -> None:
        """To be called now and then: files that are read for long leave others' reads room."""
        if self._began and self._now() - min(self._began.values()) > 1:
            self._usual_s = 1.0
            self._gate.look()

    def close(self) -> None:
        """No read follows."""
        self._threads.close()

    def _has_room(self, reading: int) -> bool:
        is_little = self._bytes < self._most_bytes or self._files + reading < self._least_files
        return reading < self._readers() and is_little

    def _readers(self) -> int:
        if self._usual_s > _SLOW_S:
            return MOST_READERS
        return _READERS_OF_LARGE if self._usual_bytes > _LARGE_BYTES else READERS

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _close(reading: "asyncio.Future[Content | Rejected]") -> None:
    with suppress(Exception, asyncio.CancelledError):
        content = reading.result()
        if not isinstance(content, Rejected):
            content.close()
