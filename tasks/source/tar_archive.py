"""Tar archives, plain and gzipped: read by `tarfile` header by header, none of them kept.

A gzipped one is inflated once by the scan, and once more by whoever reads its members in its order, which is
that of their rows. Who comes back, or jumps, goes on from the nearest place that was kept.
"""

import tarfile
import threading
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Protocol

from tasks.core.models import ArchiveState
from tasks.source.archive_file import (
    CHUNK_BYTES,
    ArchiveFault,
    Member,
    Names,
    OpenFile,
    Unlisted,
    of_size,
    slices,
)
from tasks.source.gzip_stream import GzipStream

_BLOCK: Final = 512
_MOST_HEADER_BYTES: Final = 1 << 20  # of one member's long names and attributes
_MOST_AT_ONCE: Final = 8 << 20
_FIRST_SPACING: Final = 4 << 20  # between places that are kept
_MOST_KEPT: Final = 64
_RECENT: Final = 32  # members whose places are kept: reads may overtake each other
# What a header that is none makes `tarfile` raise.
_FAULTS: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError, TypeError, IndexError)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive: its first header's checksum is right."""
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
    except _FAULTS:
        return False
    return True


class _Headers(Protocol):
    """What `tarfile` reads headers from: it never asks for data of members, nor goes back."""

    def read(self, size: int) -> bytes: ...
    def seek(self, position: int) -> object: ...
    def tell(self) -> int: ...


class _PlainHeaders:
    """Of a tar file itself, in blocks: headers of small members stand close to each other."""

    def __init__(self, file: OpenFile) -> None:
        self._file, self._at = file, 0
        self._held, self._held_at = b"", 0

    def read(self, size: int) -> bytes:
        _require_header_size(size)
        start = self._at - self._held_at
        if start < 0 or start + size > len(self._held):
            self._held, self._held_at, start = self._file.read_at(self._at, max(size, 8192)), self._at, 0
        data = self._held[start : start + size]
        self._at += len(data)
        return data

    def seek(self, position: int) -> object:
        self._at = position
        return position

    def tell(self) -> int:
        return self._at


class _PackedHeaders:
    """Of a gzipped one: what lies between headers is inflated and forgotten."""

    def __init__(self, stream: GzipStream) -> None:
        self.stream = stream
        self._at = 0
        self._last, self._last_at = b"", 0  # what was read last: of that a part may be read once more

    def read(self, size: int) -> bytes:
        _require_header_size(size)
        if not self._last_at <= self._at < self._last_at + len(self._last):
            if self._at < self.stream.position:
                raise ArchiveFault(ArchiveState.DAMAGED)
            self.stream.skip_to(self._at)
            self.take(size)
        start = self._at - self._last_at
        data = self._last[start : start + size] if start >= 0 else b""
        self._at += len(data)
        return data

    def take(self, size: int) -> bytes:
        """What comes next in the stream, be it a header or a member's data."""
        self._last_at, self._last = self.stream.position, self.stream.read(size)
        return self._last

    def seek(self, position: int) -> object:
        self._at = position
        return position

    def tell(self) -> int:
        return self._at


def _require_header_size(size: int) -> None:
    if size > _MOST_HEADER_BYTES:
        raise ArchiveFault(ArchiveState.DAMAGED)


class _Reader:
    """The members of a tar, one after the other, in its order."""

    def __init__(self, headers: _Headers) -> None:
        self._headers = headers
        self._names = Names()

    def members(self) -> Iterator[Member | Unlisted]:
        """Each regular file, then what is wrong with the archive, if something is."""
        try:
            yield from self._members()
        except ArchiveFault as fault:
            yield Unlisted("", fault.state)
        except EOFError:
            yield Unlisted("", ArchiveState.CUT)
        except _FAULTS as error:
            is_cut = "unexpected end" in str(error) or "truncated" in str(error)
            yield Unlisted("", ArchiveState.CUT if is_cut else ArchiveState.DAMAGED)

    def _members(self) -> Iterator[Member | Unlisted]:
        tar = tarfile.TarFile(
            fileobj=self._headers,  # type: ignore[arg-type]
            encoding="utf-8",
            errors="surrogateescape",
            ignore_zeros=False,
        )
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it holds all of them
            if (found := self._found(info)) is not None:
                yield found
        self._require_end(tar.offset)

    def _found(self, info: tarfile.TarInfo) -> Member | Unlisted | None:
        """None: what is no file has no row; nor has a link to a member, which has its own."""
        if info.size < 0:
            raise ArchiveFault(ArchiveState.DAMAGED)
        if info.islnk() and info.linkname in self._names:
            return None
        if not (info.isreg() or info.islnk()):
            return None
        name = self._names.unique(info.name.encode("utf-8", "surrogateescape"))
        if info.islnk() or info.issparse():
            return Member(name, info.size, info.offset_data, state=ArchiveState.COMPRESSION)
        return Member(name, info.size, info.offset_data)

    def _require_end(self, at: int) -> None:
        """`tarfile` takes a header that is none for the end; and archives are joined one behind the other."""
        self._headers.seek(at)
        is_first = True
        while block := self._headers.read(_BLOCK):
            if block.strip(b"\0"):
                raise ArchiveFault(ArchiveState.DAMAGED if is_first else ArchiveState.GOES_ON)
            is_first = False
            at += len(block)
            self._headers.seek(at)


class TarArchive:
    """A plain one: all its members are known from the start, and come in the order of their names."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self._members: dict[str, Member] = {}
        self._wrong: list[Unlisted] = []
        found: list[Member] = []
        for each in _Reader(_PlainHeaders(file)).members():
            if isinstance(each, Member):
                found.append(each)
            else:
                self._wrong.append(each)
        found.sort(key=lambda each: each.name.encode("utf-8", "surrogateescape"))
        self._members = {each.name: each for each in found}

    def members(self) -> Iterator[Member | Unlisted]:
        """By their names; first what is wrong with the archive."""
        yield from self._wrong
        yield from self._members.values()

    def find(self, name: str) -> Member | None:
        """The member of this name."""
        return self._members.get(name)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its bytes: a tar has no checksum of them."""
        if member.state:
            raise ArchiveFault(member.state)
        part = slices(self.file, member.offset, member.size_bytes)
        return of_size(part, member.size_bytes, ArchiveState.CUT)


class _Places:
    """Places in a stream from which it can be read again: the newest, and others at equal distances."""

    def __init__(self, first: GzipStream) -> None:
        self._kept = [first]
        self._recent: deque[GzipStream] = deque(maxlen=_RECENT)
        self._spacing = _FIRST_SPACING

    def keep(self, stream: GzipStream) -> None:
        """This one, too."""
        place = stream.copy()
        self._recent.append(place)
        if place.position - self._kept[-1].position >= self._spacing:
            self._kept.append(place)
        if len(self._kept) > _MOST_KEPT:
            self._kept, self._spacing = self._kept[::2], self._spacing * 2

    def before(self, position: int) -> GzipStream:
        """The nearest place before a position, to go on from."""
        before = (each for each in (*self._kept, *self._recent) if each.position <= position)
        return max(before, key=attrgetter("position")).copy()


class PackedTar:
    """A gzipped one: its members are known as far as it has been read, and come in its own order."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._places = _Places(GzipStream(file))
        self._known: dict[str, Member] = {}
        self._headers = _PackedHeaders(GzipStream(file))
        self._rest = _Reader(self._headers).members()

    def members(self) -> Iterator[Member | Unlisted]:
        """From its start, by a pass of its own."""
        return _Reader(_PackedHeaders(GzipStream(self.file))).members()

    def find(self, name: str) -> Member | None:
        """The member of this name: reads on until it comes."""
        with self._lock:
            while name not in self._known:
                found = next(self._rest, None)
                if not isinstance(found, Member):
                    return None
                self._known[found.name] = found
                self._places.keep(self._headers.stream)
            return self._known[name]

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its bytes: a small one's by who reads on, where he is at them, or else from a place before them."""
        if member.state:
            raise ArchiveFault(member.state)
        with self._lock:
            is_next = self._headers.stream.position == member.offset
            if is_next and member.size_bytes <= _MOST_AT_ONCE:
                data = self._headers.take(member.size_bytes)
                return of_size([data], member.size_bytes, ArchiveState.CUT)
            stream = self._places.before(member.offset)
        stream.skip_to(member.offset)
        return of_size(self._read(stream, member.size_bytes), member.size_bytes, ArchiveState.CUT)

    @staticmethod
    def _read(stream: GzipStream, left: int) -> Iterator[bytes]:
        while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def is_packed_tar(file: OpenFile) -> bool:
    """Whether a gzip file begins as a gzipped tar does."""
    try:
        return is_tar(GzipStream(file).read(_BLOCK))
    except ArchiveFault:
        return False
