"""Archives in study directories: which of them are read, what is in them, and who has one open.

A few stay open, with what is known of their members: a run reads one member after the other.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from tasks.core.member_paths import is_archive_name, split_member
from tasks.core.models import ArchiveState
from tasks.source.archive_file import Archive, ArchiveFault, Member, OpenFile, Unlisted
from tasks.source.gzip_archive import GzipFile
from tasks.source.tar_archive import PackedTar, TarArchive, is_packed_tar, is_tar
from tasks.source.zip_archive import ZipArchive

_MOST_OPEN: Final = 4
HEAD_BYTES: Final = 512


class Archives:
    """Those of one run. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Archive, tuple[int, ...]]] = OrderedDict()

    def members(self, path: str) -> Iterator[Member | Unlisted]:
        """What is in a file; nothing, when it is no archive that is read. OSError where it is gone."""
        if not is_archive_name(path):
            return
        try:
            archive = self.opened(path)
            yield from archive.members() if archive else ()
        except ArchiveFault as fault:
            yield Unlisted("", fault.state)

    def opened(self, path: str) -> Archive | None:
        """An archive as it is now; None when the file is none. Raises ArchiveFault and OSError."""
        identity = _identity(os.stat(path))  # noqa: PTH116 - a tenth of what Path costs
        with self._lock:
            archive, as_it_was = self._open.get(path, (None, ()))
            if archive and as_it_was == identity and not archive.file.is_changed():
                self._open.move_to_end(path)
                return archive
            archive = _opened(path)
            if archive:
                self._open[path] = archive, _identity(archive.file.status)
                while len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            return archive

    def has(self, path: str) -> bool | None:
        """Whether a member is in its archive, which is there; None when that can't be known."""
        archive_path, name = split_member(path)
        try:
            archive = self.opened(archive_path)
            if archive is None or not name:
                return None
            return archive.find(name) is not None
        except (ArchiveFault, OSError):
            return None


def state_of(path: str, head: bytes) -> ArchiveState:
    """What is said of a file that is an archive by its content."""
    if not _kind(head):
        return ArchiveState.UNKNOWN
    return ArchiveState.READ if is_archive_name(path) else ArchiveState.UNNAMED


def _kind(head: bytes) -> str:
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "tar" if is_tar(head) else ""


def _opened(path: str) -> Archive | None:
    file = OpenFile(path)
    match _kind(file.read_at(0, HEAD_BYTES)):
        case "zip":
            return ZipArchive(file)
        case "tar":
            return TarArchive(file)
        case "gzip":
            return PackedTar(file) if is_packed_tar(file) else GzipFile(file, path)
    return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
