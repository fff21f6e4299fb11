"""What a gzip file (RFC 1952) inflates to, read from any place: forward, or from a place that was kept."""

import zlib
from typing import Final

from tasks.core.models import ArchiveState
from tasks.source.archive_file import ArchiveFault, OpenFile, require_no_bomb

_PACKED_BYTES: Final = 32 * 1024  # read at once; a kept place holds no more of them
_SKIPPED_BYTES: Final = 1 << 20
_GZIP: Final = zlib.MAX_WBITS | 16  # zlib checks CRC-32 and length


class GzipStream:
    """A place in it: `read` goes on from there, `copy` keeps it. One thread at a time."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._packed_at = 0  # of what is read next
        self._packed = b""  # read, not inflated yet
        self._inflater = zlib.decompressobj(_GZIP)
        self.position = 0
        self.is_at_end = False

    def copy(self) -> "GzipStream":
        """The same place once more."""
        other = GzipStream.__new__(GzipStream)
        other.__dict__ |= self.__dict__ | {"_inflater": self._inflater.copy()}
        return other

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end. Raises ArchiveFault where it is cut or damaged."""
        pieces = []
        while size and (piece := self._read(size)):
            size -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip_to(self, position: int) -> None:
        """Forward; not beyond the end."""
        while self.position < position and self.read(min(_SKIPPED_BYTES, position - self.position)):
            pass

    def _read(self, size: int) -> bytes:
        while not self.is_at_end:
            if self._inflater.eof:
                self._begin_next()
                continue
            packed = self._packed or self._more()
            try:
                data = self._inflater.decompress(packed, size)
            except zlib.error:
                raise ArchiveFault(ArchiveState.DAMAGED) from None
            self._packed = self._inflater.unconsumed_tail
            if data:
                self.position += len(data)
                require_no_bomb(self.position, self._packed_at)
                return data
            if not packed and not self._inflater.eof:
                raise ArchiveFault(ArchiveState.CUT)
        return b""

    def _more(self) -> bytes:
        data = self._file.read_at(self._packed_at, _PACKED_BYTES)
        self._packed_at += len(data)
        return data

    def _begin_next(self) -> None:
        """Of several gzip files one behind the other, as RFC 1952 allows; zeros behind them are padding."""
        packed = self._inflater.unused_data
        while not (packed := packed.lstrip(b"\0")):
            if not (packed := self._more()):
                self.is_at_end = True
                return
        if len(packed) < 2:
            packed += self._more()
        if not packed.startswith(b"\x1f\x8b"):
            raise ArchiveFault(ArchiveState.GOES_ON)
        self._packed, self._inflater = packed, zlib.decompressobj(_GZIP)
