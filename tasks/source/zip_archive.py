"""Zip archives (APPNOTE.TXT 6.3): their directory, zip64 included, and members deflated or not.

The directory is read here, record by record: zipfile holds an object of a kilobyte for each member, and takes
what overlaps, as a bomb's members do, for members.
"""

import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from struct import Struct
from typing import Final, NamedTuple

from tasks.core.models import ArchiveState
from tasks.source.archive_file import (
    CHUNK_BYTES,
    ArchiveFault,
    Member,
    Names,
    OpenFile,
    Unlisted,
    of_size,
    require_no_bomb,
    slices,
)

_END: Final = Struct("<4s4H2LH")  # 4.3.16
_END_LOCATOR: Final = Struct("<4sLQL")  # 4.3.15
_END64: Final = Struct("<4sQ2H2L4Q")  # 4.3.14
_RECORD: Final = Struct("<4s4B4HL2L5H2L")  # 4.3.12
_LONGEST_RECORD: Final = _RECORD.size + 3 * 0xFFFF
_DIRECTORY_BLOCK: Final = 1 << 20
_LOCAL: Final = Struct("<4s5H3L2H")  # 4.3.7
_NUMBER: Final = Struct("<Q")
_MOST_COMMENT: Final = 0xFFFF
_STORED, _DEFLATED, _DEFLATE64 = 0, 8, 9
_ENCRYPTED: Final = 0x1  # of the flags
_UNIX: Final = 3  # who wrote it
_SMALL_READ: Final = 4096  # of Deflate64, which inflates as much of it as there is


class _Directory(NamedTuple):
    start: int
    size_bytes: int
    shift: int  # how much stands before the archive, as a program that unpacks itself does


class ZipArchive:
    """All members are known from the start, in the order of their names."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self._directory = _directory(file)
        found = sorted(self._read_directory(), key=attrgetter("offset"))
        _require_apart(found, self._directory.start)
        require_no_bomb(sum(each.size_bytes for each in found), file.status.st_size)
        found.sort(key=lambda each: each.name.encode("utf-8", "surrogateescape"))
        self._members = {each.name: each for each in found}

    def members(self) -> Iterator[Member | Unlisted]:
        """By their names."""
        yield from self._members.values()

    def find(self, name: str) -> Member | None:
        """The member of this name."""
        return self._members.get(name)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its bytes, held against its size and CRC-32."""
        if member.state:
            raise ArchiveFault(member.state)
        checksum = 0
        for chunk in of_size(self._inflated(member), member.size_bytes, ArchiveState.OTHER_SIZE):
            checksum = zlib.crc32(chunk, checksum)
            yield chunk
        if checksum != member.checksum:
            raise ArchiveFault(ArchiveState.CHECKSUM)

    def _inflated(self, member: Member) -> Iterator[bytes]:
        local = self.file.read_at(member.offset, _LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\3\4"):
            raise ArchiveFault(ArchiveState.DAMAGED)
        *_, name_bytes, extra_bytes = _LOCAL.unpack(local)
        start = member.offset + _LOCAL.size + name_bytes + extra_bytes
        packed = slices(self.file, start, member.packed_bytes)
        if member.method == _STORED:
            return packed
        return _inflate(packed) if member.method == _DEFLATED else _inflate64(packed)

    def _read_directory(self) -> Iterator[Member]:
        names = Names()
        at, end = self._directory.start, self._directory.start + self._directory.size_bytes
        block, block_at = b"", at
        while at < end:
            if block_at + len(block) < min(end, at + _LONGEST_RECORD):
                block, block_at = self.file.read_at(at, min(end - at, _DIRECTORY_BLOCK)), at
            record = block[at - block_at : at - block_at + _LONGEST_RECORD]
            if len(record) < _RECORD.size or not record.startswith(b"PK\1\2"):
                raise ArchiveFault(ArchiveState.DAMAGED)
            fields = _RECORD.unpack_from(record)
            name_end = _RECORD.size + fields[12]
            at += name_end + fields[13] + fields[14]
            name = record[_RECORD.size : name_end]
            member = self._member(fields, record[name_end : name_end + fields[13]])
            is_link = fields[2] == _UNIX and stat.S_ISLNK(fields[17] >> 16)
            if is_link or (name.endswith(b"/") and not member.size_bytes):
                continue  # the target of a link is a member itself, or nothing of this archive
            yield replace(member, name=names.unique(name))

    def _member(self, fields: tuple[int, ...], extra: bytes) -> Member:
        flags, method, checksum, packed_bytes, size_bytes = (fields[each] for each in (5, 6, 9, 10, 11))
        offset = fields[18]
        if 0xFFFFFFFF in (packed_bytes, size_bytes, offset):
            size_bytes, packed_bytes, offset = _of_zip64(extra, size_bytes, packed_bytes, offset)
        state = ArchiveState.ENCRYPTED if flags & _ENCRYPTED else ArchiveState.NONE
        if method not in (_STORED, _DEFLATED, _DEFLATE64):
            state = state or ArchiveState.COMPRESSION
        at = offset + self._directory.shift
        return Member("", size_bytes, at, packed_bytes, method, checksum, state)


def _directory(file: OpenFile) -> _Directory:
    """Where it is, by the record at the end of the file."""
    size = file.status.st_size
    tail_at = max(0, size - _END.size - _MOST_COMMENT)
    tail = file.read_at(tail_at, size - tail_at)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise ArchiveFault(ArchiveState.CUT)
    _, disk, *_, size_bytes, start, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    locator = file.read_at(end - _END_LOCATOR.size, _END_LOCATOR.size) if end >= _END_LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        end64 = end - _END_LOCATOR.size - _END64.size  # where nothing stands before the archive
        record = file.read_at(end64, _END64.size)
        if not record.startswith(b"PK\6\6"):
            end64 = _END_LOCATOR.unpack(locator)[2]
            record = file.read_at(end64, _END64.size)
        if not record.startswith(b"PK\6\6") or len(record) < _END64.size:
            raise ArchiveFault(ArchiveState.DAMAGED)
        disk, size_bytes, start, end = _END64.unpack(record)[4], *_END64.unpack(record)[8:10], end64
    if disk or size_bytes > end:  # one of several parts; or what can't be
        raise ArchiveFault(ArchiveState.DAMAGED)
    return _Directory(end - size_bytes, size_bytes, end - size_bytes - start)


def _of_zip64(extra: bytes, *values: int) -> list[int]:
    """4.5.3: of size, packed size and offset, in this order, those that are too large for their field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = (int.from_bytes(extra[at + i : at + i + 2], "little") for i in (0, 2))
        if kind == 1:
            numbers = iter(_NUMBER.iter_unpack(extra[at + 4 : at + 4 + length // 8 * 8]))
            return [next(numbers, (value,))[0] if value == 0xFFFFFFFF else value for value in values]
        at += 4 + length
    raise ArchiveFault(ArchiveState.DAMAGED)


def _require_apart(by_offset: list[Member], end: int) -> None:
    """ArchiveFault when members share bytes, as those of a bomb do, or lie outside of the archive."""
    following = [*(each.offset for each in by_offset), end][1:]  # an empty one has no members
    for member, beyond in zip(by_offset, following, strict=True):
        if member.offset < 0 or member.offset + _LOCAL.size + member.packed_bytes > beyond:
            raise ArchiveFault(ArchiveState.OVERLAPPING)


def _inflate(packed: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not inflater.eof:
            deflated = inflater.unconsumed_tail or next(packed, b"")
            chunk = inflater.decompress(deflated, CHUNK_BYTES)
            if not chunk and not deflated:
                raise ArchiveFault(ArchiveState.DAMAGED)
            if chunk:
                yield chunk
    except zlib.error:
        raise ArchiveFault(ArchiveState.DAMAGED) from None


def _inflate64(packed: Iterator[bytes]) -> Iterator[bytes]:
    """As Windows writes it. Little is passed on at once: what it inflates to comes in one piece."""
    import inflate64  # takes its time

    inflater = inflate64.Inflater()
    for chunk in packed:
        for start in range(0, len(chunk), _SMALL_READ):
            try:
                data = inflater.inflate(chunk[start : start + _SMALL_READ])
            except Exception:  # noqa: BLE001 - the library has no kinds of its own
                raise ArchiveFault(ArchiveState.DAMAGED) from None
            yield data
    if not inflater.eof:
        raise ArchiveFault(ArchiveState.DAMAGED)
