"""What zip and tar have in common: an open file, its members, and what keeps one from being read."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tasks.core.models import ArchiveState

CHUNK_BYTES: Final = 256 * 1024
MOST_MEMBERS: Final = 500_000  # of one archive: their names are held
_MOST_RATIO: Final = 500  # of what is in an archive to its size ...
_NEVER_A_BOMB: Final = 64 << 30  # ... beyond so much


class ArchiveFault(Exception):  # noqa: N818 - a value of one file, caught where it is read
    """Why an archive, or a member, can't be read."""

    def __init__(self, state: ArchiveState) -> None:
        super().__init__(state)
        self.state = state


class OpenFile:
    """A descriptor that is read at any place, from any thread, and closed once nobody has it any more."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: opening a FIFO would wait for its writer
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.status = os.fstat(self._descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read_at(self, offset: int, count: int) -> bytes:
        """So many bytes, fewer only at the end: one read may give less."""
        data = os.pread(self._descriptor, count, offset)
        while 0 < len(data) < count and (
            more := os.pread(self._descriptor, count - len(data), offset + len(data))
        ):
            data += more
        return data

    def is_changed(self) -> bool:
        """Whether it was written since it was opened."""
        now, then = os.fstat(self._descriptor), self.status
        return (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive. `name` is its own, with a number where others have that."""

    name: str
    size_bytes: int
    offset: int  # in the archive, or in what that inflates to
    packed_bytes: int = 0
    method: int = 0
    checksum: int | None = None  # CRC-32
    state: ArchiveState = ArchiveState.NONE  # why it can't be read


@dataclass(frozen=True, slots=True)
class Unlisted:
    """What of an archive can't be listed, and why; or a link in it that leads to nothing there."""

    name: str
    state: ArchiveState


class Archive(Protocol):
    """One that is open."""

    file: OpenFile

    def members(self) -> Iterator[Member | Unlisted]:
        """All of them, and what is wrong with the archive. Raises ArchiveFault where nothing can be read."""
        ...

    def find(self, name: str) -> Member | None:
        """The member of this name."""
        ...

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its bytes from their start. Raises ArchiveFault, at the end at the latest, when they are wrong."""
        ...


class Names:
    """Gives members of one name different ones, and a name to those without."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._taken

    def unique(self, raw: bytes) -> str:
        """A member's own name, with a number behind it where another has that."""
        if len(self._taken) >= MOST_MEMBERS:
            raise ArchiveFault(ArchiveState.TOO_MANY)
        name = os.fsdecode(raw.partition(b"\0")[0]).rstrip("/")
        if not name or name in self._taken:
            self._repeats[name] = self._repeats.get(name, 1) + 1
            name = f"{name}\0{self._repeats[name]}"  # no other has a NUL
        self._taken.add(name)
        return name


def require_no_bomb(inflated_bytes: int, packed_bytes: int) -> None:
    """ArchiveFault when an archive holds more than anything does that is worth packing."""
    if inflated_bytes > _NEVER_A_BOMB and inflated_bytes > _MOST_RATIO * packed_bytes:
        raise ArchiveFault(ArchiveState.BOMB)


def slices(file: OpenFile, start: int, size_bytes: int) -> Iterator[bytes]:
    """A part of a file, chunk by chunk; it ends early where the file does."""
    end = start + size_bytes
    while start < end and (chunk := file.read_at(start, min(CHUNK_BYTES, end - start))):
        start += len(chunk)
        yield chunk


def of_size(chunks: Iterable[bytes], size_bytes: int, fault: ArchiveState) -> Iterator[bytes]:
    """The same chunks; ArchiveFault when they are more bytes or fewer."""
    left = size_bytes
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise ArchiveFault(fault)
        yield chunk
    if left:
        raise ArchiveFault(fault)
