"""A body too large to hold: read ahead in a thread of its own, where a slow disk stops nobody else."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pycurl

from tasks.daemon_threads import DaemonThreads

if TYPE_CHECKING:
    import asyncio


class StreamedBody:
    """Asked for once, from the first piece to the last, by libcurl: which pauses while there is none."""

    def __init__(
        self, pieces: Iterable[bytes], size_bytes: int, progress: Callable[[int], None] | None
    ) -> None:
        """`progress` is called with how many bytes libcurl has taken."""
        self.size_bytes = size_bytes
        self.is_awaited = False  # the next piece, by libcurl
        self.error: BaseException | None = None  # that the pieces raised
        self.on_piece: Callable[[], None] | None = None  # lets libcurl go on; None: it wants no more
        self._pieces: Iterator[bytes] = filter(None, pieces)
        self._progress = progress
        self._thread = DaemonThreads(1, "streamed")
        self._piece: memoryview | None = memoryview(b"")  # None: there are no more
        self._taken_bytes = 0

    def read(self, most_bytes: int) -> bytes | int:
        """READFUNCTION: the next bytes, empty at the end."""
        if self.error:
            return int(pycurl.READFUNC_ABORT)
        if self._piece is None:
            return b""
        if not self._piece:
            if not self.is_awaited:  # libcurl may ask again before there is more
                self.is_awaited = True
                self._thread.run(partial(next, self._pieces, None)).add_done_callback(self._keep)
            return int(pycurl.READFUNC_PAUSE)
        data = bytes(self._piece[:most_bytes])
        self._piece = self._piece[most_bytes:]
        self._taken_bytes += len(data)
        if self._progress:
            self._progress(self._taken_bytes)
        return data

    def close(self) -> None:
        """Whatever the thread still reads is for nobody."""
        self._thread.close()
        self._pieces, self._piece, self.on_piece = iter(()), None, None

    def _keep(self, read: "asyncio.Future[bytes | None]") -> None:
        self.is_awaited = False
        self.error = read.exception()
        if self.on_piece is None:
            return
        piece = None if self.error else read.result()
        self._piece = memoryview(piece) if piece else None
        self.on_piece()
