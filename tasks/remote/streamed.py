"""A body too large to hold: read ahead in a thread of its own, where a slow disk stops nobody else."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pycurl

from tasks.concurrency.daemon_threads import DaemonThreads

if TYPE_CHECKING:
    import asyncio


class SentBody(Protocol):
    """As libcurl reads it, piece by piece."""

    size_bytes: int
    asks_first: bool  # of a large body the server may say before that it does not want it
    on_piece: Callable[[], None] | None  # lets libcurl go on; None: it wants no more

    @property
    def is_awaited(self) -> bool:
        """The next piece, by libcurl."""
        ...

    @property
    def is_held_up(self) -> bool:
        """By the rate that all bodies share."""
        ...

    @property
    def error(self) -> BaseException | None:
        """That the pieces raised."""
        ...

    def read(self, most_bytes: int) -> bytes | int:
        """READFUNCTION: the next bytes, empty at the end."""
        ...

    def close(self) -> None:
        """It was sent, or is not wanted any more."""
        ...


class HeldBody:
    """Of pieces that are held already: nobody has to wait for one, and they are never joined but as sent."""

    def __init__(self, pieces: Iterable[bytes], size_bytes: int, *, asks_first: bool = True) -> None:
        self.size_bytes = size_bytes
        self.asks_first = asks_first
        self.is_awaited = self.is_held_up = False
        self.error: BaseException | None = None
        self.on_piece: Callable[[], None] | None = None
        self._pieces: Iterator[bytes] = filter(None, pieces)
        self._piece = memoryview(b"")

    def read(self, most_bytes: int) -> bytes | int:
        """READFUNCTION: as many bytes as fit, of one piece or more."""
        taken: list[memoryview] = []
        left = most_bytes
        while left:
            if not self._piece:
                try:
                    self._piece = memoryview(next(self._pieces, b""))
                except Exception as error:  # noqa: BLE001 - libcurl's callback must not raise; the engine does
                    self.error = error
                    return int(pycurl.READFUNC_ABORT)
                if not self._piece:
                    break
            taken.append(self._piece[:left])
            self._piece = self._piece[left:]
            left -= len(taken[-1])
        return b"".join(taken)

    def close(self) -> None:
        """Lets go of the pieces."""
        self._pieces, self._piece = iter(()), memoryview(b"")


class StreamedBody:
    """Asked for once, from the first piece to the last, by libcurl: which pauses while there is none."""

    def __init__(self, pieces: Iterable[bytes], size_bytes: int, *, asks_first: bool = True) -> None:
        self.size_bytes = size_bytes
        self.asks_first = asks_first
        self.is_awaited = self.is_held_up = False
        self.error: BaseException | None = None
        self.on_piece: Callable[[], None] | None = None
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
