"""A stream as a file for who reads it from element to element: mostly forwards, by another thread.

Kept are its beginning and what has come last. Whoever feeds it waits for a reader who is about to read what
would be let go; a reader who wants what has been let go learns that, and so does who asked for the verdict.
"""

import threading
from collections import deque
from typing import Final

HEAD_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 8 << 20
_LOOK_UP_S: Final = 0.5
_PATIENCE: Final = 120  # times that, for a reader who is slow


class LetGoError(Exception):
    """What was to be read is not kept any more, or nobody feeds the stream any more."""


class StreamWindow:
    """One thread feeds it, another reads it by `seek` and `read` as a file."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._changed = threading.Condition()
        self._head = bytearray()
        self._pieces: deque[bytes] = deque()
        self._begin = self._end = 0  # of what is kept, besides the head
        self._at = 0
        self._is_read = True  # somebody does, or is about to
        self._is_over = False  # nothing more comes

    # -- who feeds it ----------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        with self._changed:
            for _ in range(_PATIENCE):
                if not self._is_read or self._at + _KEPT_BYTES > self._end:
                    break
                self._changed.wait(_LOOK_UP_S)
            self._head += piece[: HEAD_BYTES - len(self._head)]
            self._pieces.append(piece)
            self._end += len(piece)
            while self._end - self._begin - len(self._pieces[0]) >= _KEPT_BYTES:
                self._begin += len(self._pieces.popleft())
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    # -- who reads it ----------------------------------------------------------------------------------------

    def seek(self, at: int, whence: int = 0) -> int:
        """From the start alone."""
        assert not whence
        with self._changed:
            self._at = at
            self._changed.notify_all()
        return at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """So many bytes, once they have come; fewer only at the end. Raises LetGoError."""
        with self._changed:
            end = self.size_bytes if size < 0 else min(self._at + size, self.size_bytes)
            while self._end < end and not self._is_over:
                self._changed.wait(_LOOK_UP_S)
            data = self._kept(self._at, end) if self._at < end else b""
            self._at += len(data)
            self._changed.notify_all()
            return data

    def end_reading(self) -> None:
        """Nobody reads any more: who feeds it does not wait."""
        with self._changed:
            self._is_read = False
            self._changed.notify_all()

    def _kept(self, begin: int, end: int) -> bytes:
        if self._end < end:
            raise LetGoError
        if end <= len(self._head):
            return bytes(self._head[begin:end])
        if begin < self._begin:
            raise LetGoError
        found, at = bytearray(), self._begin
        for piece in self._pieces:
            if at < end and at + len(piece) > begin:
                found += piece[max(0, begin - at) : end - at]
            at += len(piece)
        return bytes(found)
