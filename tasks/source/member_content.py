"""One member's bytes: held when it is small, inflated anew for each PUT when it is too large to hold."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader, BytesIO
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Final

from tasks.core.errors import Fault, FaultKind
from tasks.core.file_times import kept_ns
from tasks.core.member_paths import is_member, split_member
from tasks.core.models import ArchiveState, Digests, Header, Reason, Rejected, Status
from tasks.core.store_urls import is_store_url
from tasks.source.archive_file import Archive, ArchiveFault, Member, OpenFile
from tasks.source.archives import HEAD_BYTES, Archives, state_of
from tasks.source.dicom_header import examine
from tasks.source.file_content import (
    HELD_BYTES,
    MAX_PUT_BYTES,
    Accepts,
    Content,
    Hashed,
    Held,
    Streamed,
    accepted,
    read_content,
    unreadable,
)
from tasks.source.header_reader import Examined
from tasks.source.store_content import read_stored
from tasks.source.stores import open_store_file

_READS: Final = 3  # of an archive that changes meanwhile
_LOOKED_BACK_BYTES: Final = 256 * 1024


def read_source(path: str, accepts: Accepts, archives: Archives | None) -> Content | Rejected:
    """A file's content, or a member's. `archives`: those of a run that reads them.

    In such a run an archive is no image, and says that its members have rows, or why they have none.
    """
    if is_member(path):
        return read_member(archives or Archives(), path, accepts)
    found = read_stored(path, accepts) if is_store_url(path) else read_content(path, accepts)
    if archives is None or not isinstance(found, Rejected):
        return found
    is_archive = found.reason is Reason.ARCHIVE
    if not is_archive and found.status is not Status.TOO_LARGE:
        return found
    state = _state_of(path)
    if state is ArchiveState.UNKNOWN and not is_archive:
        return found
    status = Status.NOT_DICOM if state is ArchiveState.READ else Status.UNREADABLE
    return replace(found, status=status, reason=Reason.ARCHIVE, detail=state)


def _state_of(path: str) -> ArchiveState:
    try:
        return state_of(path, OpenFile(path).read_at(0, HEAD_BYTES))
    except OSError:
        return ArchiveState.UNKNOWN


def read_member(archives: Archives, path: str, accepts: Accepts) -> Content | Rejected:
    """A member's content, or why it is not to be sent. No path raises: an archive may be gone, or changed."""
    for _ in range(_READS):
        try:
            opened = _opened(archives, path)
            if isinstance(opened, Rejected):
                return opened
            archive, member = opened
            content = _content(archive, member, accepts)
        except OSError as error:
            return unreadable(error)
        if not archive.file.is_changed():
            if not isinstance(content, Rejected):
                return content
            status = archive.file.status
            size = member.size_bytes if content.size_bytes is None else content.size_bytes
            return replace(content, size_bytes=size, mtime_ns=kept_ns(status.st_mtime_ns))
    return Rejected(Status.CHANGED, Reason.NONE)


def examine_member(archives: Archives, path: str) -> Examined:
    """What a run would find of it; its bytes."""
    try:
        opened = _opened(archives, path)
        if isinstance(opened, Rejected):
            return opened, 0
        archive, member = opened
        if member.size_bytes > MAX_PUT_BYTES:
            return Rejected(Status.TOO_LARGE, Reason.NONE), member.size_bytes
        return _judge(MemberFile(archive, member), member.size_bytes, member.name), member.size_bytes
    except ArchiveFault as fault:
        return _unreadable_member(fault), 0
    except OSError as error:
        return unreadable(error), 0


def member_digest(archives: Archives, path: str) -> str:
    """SHA-256 of its bytes; empty when they can't be read."""
    sha256 = hashlib.sha256()
    try:
        opened = _opened(archives, path)
        if isinstance(opened, Rejected):
            return ""
        for chunk in opened[0].chunks(opened[1]):
            sha256.update(chunk)
    except (ArchiveFault, OSError):
        return ""
    return sha256.hexdigest()


@contextmanager
def opened_source(archives: Archives, path: str, held_bytes: int) -> Iterator[BinaryIO]:
    """A file, or a member's bytes in one: in memory up to `held_bytes`, else on disk. Raises ArchiveFault."""
    if is_store_url(path):
        with BufferedReader(open_store_file(path)) as file:
            yield file
        return
    if not is_member(path):
        with open(path, "rb") as file:  # noqa: PTH123 - as text, it may be any
            yield file
        return
    opened = _opened(archives, path)
    if isinstance(opened, Rejected):
        raise OSError(errno.ENOENT, "the member is gone")
    with SpooledTemporaryFile(held_bytes) as copy:
        copy.writelines(opened[0].chunks(opened[1]))
        copy.seek(0)
        yield copy  # type: ignore[misc]


def _opened(archives: Archives, path: str) -> tuple[Archive, Member] | Rejected:
    archive_path, name = split_member(path)
    try:
        archive = archives.opened(archive_path)
        member = archive.find(name) if archive else None
    except ArchiveFault as fault:
        return _unreadable_member(fault)
    if archive is None or member is None:  # it was there when the archive was listed
        return Rejected(Status.CHANGED, Reason.NONE)
    return archive, member


def _content(archive: Archive, member: Member, accepts: Accepts) -> Content | Rejected:
    if member.size_bytes > MAX_PUT_BYTES:
        return Rejected(Status.TOO_LARGE, Reason.NONE)
    try:
        data = _held(archive, member)
        if data is None:
            return _streamed(archive, member, accepts)
        found = _judge(BytesIO(data), len(data), member.name)
    except ArchiveFault as fault:
        return _unreadable_member(fault)
    if isinstance(found, Rejected):
        found = replace(found, size_bytes=len(data))
    return accepted(found, accepts, lambda header: Held(data, header, _times_ns(archive)))


def _held(archive: Archive, member: Member) -> bytes | None:
    """Its bytes; None when they are too many."""
    if member.size_bytes > HELD_BYTES:
        return None
    pieces, size = [], 0
    for chunk in archive.chunks(member):
        size += len(chunk)
        if size > HELD_BYTES:  # only a gzip file does not know how much it inflates to
            return None
        pieces.append(chunk)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _streamed(archive: Archive, member: Member, accepts: Accepts) -> Content | Rejected:
    """Its bytes are hashed first: that they are whole is only known behind the last of them."""
    hashed = Hashed()
    for chunk in archive.chunks(member):
        hashed.update(chunk)
        if hashed.size_bytes > MAX_PUT_BYTES:
            return Rejected(Status.TOO_LARGE, Reason.NONE, size_bytes=hashed.size_bytes)
    found = _judge(MemberFile(archive, member), hashed.size_bytes, member.name)
    if isinstance(found, Rejected):
        found = replace(found, size_bytes=hashed.size_bytes)
    return accepted(found, accepts, lambda header: StreamedMember(archive, member, header, hashed))


def _judge(file: "BytesIO | MemberFile", size_bytes: int, name: str) -> Header | Rejected:
    found = examine(file, size_bytes, os.path.basename(name))  # type: ignore[arg-type]  # noqa: PTH119
    if isinstance(found, Rejected) and found.reason is Reason.ARCHIVE:
        return _unreadable_member(ArchiveFault(ArchiveState.NESTED))
    return found


def _unreadable_member(fault: ArchiveFault) -> Rejected:
    return Rejected(Status.UNREADABLE, Reason.ARCHIVE, detail=fault.state)


def _times_ns(archive: Archive) -> tuple[int, int]:
    """The archive's: a member has none of its own that say whether it changed."""
    return kept_ns(archive.file.status.st_mtime_ns), kept_ns(archive.file.status.st_ctime_ns)


class MemberFile:
    """A member as a file that is read from front to back, and seldom from an earlier place."""

    def __init__(self, archive: Archive, member: Member) -> None:
        self._archive, self._member = archive, member
        self._at = 0
        self._begin()

    def _begin(self) -> None:
        self._chunks = self._archive.chunks(self._member)
        self._held, self._held_at = b"", 0

    def seek(self, position: int) -> int:
        """For the next read."""
        self._at = position
        return position

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        if self._at < self._held_at:
            self._begin()
        end = self._at + size
        while self._held_at + len(self._held) < end and (chunk := next(self._chunks, b"")):
            kept_from = min(self._at, self._held_at + len(self._held) - _LOOKED_BACK_BYTES)
            drop = max(0, kept_from - self._held_at)
            self._held, self._held_at = self._held[drop:] + chunk, self._held_at + drop
        start = self._at - self._held_at
        data = self._held[start : start + size]
        self._at += len(data)
        return data


class StreamedMember(Streamed):
    """A member too large to hold: known to be whole, and inflated once more for each PUT."""

    def __init__(self, archive: Archive, member: Member, header: Header, hashed: Hashed) -> None:
        self._archive, self._member = archive, member
        self.header = header
        self.size_bytes = hashed.size_bytes
        self.held_bytes = _LOOKED_BACK_BYTES
        self.mtime_ns, self.ctime_ns = _times_ns(archive)
        self.digests: Digests | None = hashed.digests()
        self.rejected: Rejected | None = None

    def body(self, *, with_md5: bool = False) -> Iterator[bytes]:
        """Chunks; other bytes than were hashed end in a Fault before the last of them is sent."""
        hashed, last = Hashed(with_md5=with_md5), b""
        try:
            for chunk in self._archive.chunks(self._member):
                hashed.update(chunk)
                if last:
                    yield last
                last = chunk
        except ArchiveFault:
            raise _changed() from None
        found = hashed.digests()
        assert self.digests is not None
        if found.sha256 != self.digests.sha256 or self._archive.file.is_changed():
            raise _changed()
        if found.md5:
            self.digests = found
        yield last

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        """Reads it once more where the MD5 is not known."""
        assert self.digests is not None
        if with_md5 and not self.digests.md5:
            for _ in self.body(with_md5=True):
                pass
        return self.digests

    def close(self) -> None:
        """Its archive stays open for others."""
        self.held_bytes = 0


def _changed() -> Fault:
    return Fault(FaultKind.CHANGED, "the archive changed while a member of it was sent")
