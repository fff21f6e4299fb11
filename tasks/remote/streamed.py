"""A body too large to hold: read ahead in a thread of its own, where a slow disk stops nobody else."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pycurl

from tasks.concurrency.daemon_threads import DaemonThreads

if TYPE_CHECKING:
    import asyncio


class StreamedBody:
    """Asked for once, from the first piece to the last, by libcurl: which pauses while there is none."""

    def __init__(self, pieces: Iterable[bytes], size_bytes: int, *, asks_first: bool = True) -> None:
        self.size_bytes = size_bytes
        self.asks_first = asks_first  # of a large body the server may say before that it does not want it
        self.is_awaited = False  # the next piece, by libcurl
        self.error: BaseException | None = None  # that the pieces raised
        self.on_piece: Callable[[], None] | None = None  # lets libcurl go on; None: it wants no more
        self._pieces: Iterator[bytes] = filter(None, pieces)
        self._thread = DaemonThreads(1, "streamed")
        self._piece = memoryview(b"")
        self._next: asyncio.Future[bytes | None] | None = None  # is read ahead; it gives None at the end

    def read(self, most_bytes: int) -> bytes | int:
        """READFUNCTION: the next bytes, empty at the end."""
        if not self._piece:
            self._next = self._next or self._read_ahead()
            if not self._next.done():
                self.is_awaited = True
                return int(pycurl.READFUNC_PAUSE)
            self.error = self._next.exception()
            if self.error:
                return int(pycurl.READFUNC_ABORT)
            piece = self._next.result()
            if piece is None:
                return b""
            self._piece, self._next = memoryview(piece), self._read_ahead()
        data = bytes(self._piece[:most_bytes])
        self._piece = self._piece[most_bytes:]
        return data

    def close(self) -> None:
        """Whatever the thread still reads is for nobody."""
        self._thread.close()
        self._pieces, self._piece, self._next = iter(()), memoryview(b""), None

    def _read_ahead(self) -> "asyncio.Future[bytes | None]":
        piece = self._thread.run(partial(next, self._pieces, None))
        piece.add_done_callback(self._go_on)
        return piece

    def _go_on(self, read: "asyncio.Future[bytes | None]") -> None:
        read.exception()  # is seen, also when nobody waits any more
        if self.is_awaited and self.on_piece:
            self.is_awaited = False
            self.on_piece()
