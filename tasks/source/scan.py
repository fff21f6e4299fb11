"""Scan: each study directory listed and statted once, lazily, in path order. No file is opened.

Paths are bytes in here, as the operating system has them, so that order and comparison are bytewise; rows
carry text (PEP 383). Beside a path as the manifest gives it, the walk keeps the real one, with all links
resolved: the real one says which entry owns a directory, the given one goes into the rows.
"""

# pathlib has no paths of bytes:
# ruff: noqa: PTH112, PTH116, PTH119, PTH120

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.core.models import Listed, Reason, Status, StudyEntry, Unwalked
from tasks.source.real_dirs import Owners, RealDirs

_MISSING: Final = frozenset({Reason.NOT_FOUND, Reason.NOT_A_DIRECTORY})
_REASONS: Final = {
    errno.EACCES: Reason.PERMISSION,
    errno.EPERM: Reason.PERMISSION,
    errno.ELOOP: Reason.LINK_LOOP,
}
_NO_SUCH_PATH: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

# A listing is one list of names, each followed by a mark of its kind (a name holds neither byte). Sorted as
# they are, the marks put a directory where its files belong in the order of whole paths.
_DIRECTORY: Final = b"/"
_LINK: Final = b"\0"
_DIRECTORY_LINK: Final = b"/\0"
_MARKS: Final = b"/\0"

# A row to be: a path, and its file's stat or why there is none.
_Found = tuple[bytes, os.stat_result | Reason]


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which entry owns a directory when study directories lie in one another: the first that holds it."""

    real_dirs: Mapping[int, bytes]  # study_no -> its real directory
    owners: Mapping[bytes, int]  # real directory -> study_no of the first entry there
    absorbed: frozenset[int]  # entries that lie in an earlier one whole, and so have no files of their own
    overlaps: Mapping[int, int]  # study_no -> the first earlier study_no that it shares files with
    real_root: bytes | None

    def covers(self, real: bytes) -> bool:
        """Whether some entry's walk comes to this real path without following a link."""
        return any(directory in self.owners for directory in _upwards(real))

    def admits(self, real: bytes) -> bool:
        """Whether a link may lead there: into the root, or without one into any study directory."""
        return self.covers(real) if self.real_root is None else _is_inside(real, self.real_root)


def survey(entries: Sequence[StudyEntry], root: Path | str | None = None) -> Ownership:
    """Resolves the links of all study directories, and decides which entry of the manifest owns which."""
    real_root = None if root is None else os.path.realpath(os.fsencode(root))
    real_dirs = RealDirs(entries)
    owners = Owners(real_dirs)
    for study_no, real in real_dirs.items():
        if real_root is None or _is_inside(real, real_root):  # an entry outside the root is not walked
            owners.setdefault(real, study_no)
    absorbed, overlaps = _overlaps(real_dirs, owners)
    return Ownership(real_dirs, owners, absorbed, overlaps, real_root)


def walk_study(entry: StudyEntry, ownership: Ownership) -> Iterator[Listed | Unwalked]:
    """The rows of one study, lazily, in the order of whole paths as bytes.

    One row for each regular file that no earlier entry owns, and for each directory or link that can't be
    walked (a directory stands where its files would). Of links, one into some study directory has no row, for
    its target has one there; one into the root but no study directory is followed, each target once in a
    study; every other gets a row that says why, and so does a link to a directory that holds it.
    FIFOs, sockets and devices are passed over. Depth is bounded by the system's longest path.
    """
    for file_no, (path, found) in enumerate(_rows(entry, ownership), 1):
        text = os.fsdecode(path)
        if isinstance(found, Reason):
            status = Status.MISSING if found in _MISSING else Status.UNREADABLE
            yield Unwalked(entry.study_no, file_no, text, status, found)
        else:
            yield Listed(entry.study_no, file_no, text, found.st_size, found.st_mtime_ns)


def just_file(path: Path) -> Callable[[StudyEntry, Ownership], Iterator[Listed | Unwalked]]:
    """A walk that finds this one file, and nothing else of its directory."""

    def walk(entry: StudyEntry, ownership: Ownership) -> Iterator[Listed | Unwalked]:
        del ownership
        try:
            found = path.stat()
        except OSError as error:
            yield Unwalked(entry.study_no, 1, str(path), Status.UNREADABLE, _reason(error))
        else:
            yield Listed(entry.study_no, 1, str(path), found.st_size, found.st_mtime_ns)

    return walk


def _rows(entry: StudyEntry, ownership: Ownership) -> Iterator[_Found]:
    path = os.fsencode(entry.study_dir)
    real = ownership.real_dirs[entry.study_no]
    trouble = _trouble_at(path)
    if trouble in _MISSING:
        yield path, trouble
    elif entry.study_no in ownership.absorbed:
        return
    elif trouble:
        yield path, trouble
    elif ownership.real_root is not None and not _is_inside(real, ownership.real_root):
        yield path, Reason.LINK_OUTSIDE_ROOT
    else:
        yield from _Walk(entry.study_no, ownership).found_in(_Dir(path, real))


def _trouble_at(study_dir: bytes) -> Reason:
    try:
        mode = os.stat(study_dir).st_mode
    except OSError as error:
        return Reason.NOT_FOUND if error.errno in _NO_SUCH_PATH else _reason(error)
    return Reason.NONE if stat.S_ISDIR(mode) else Reason.NOT_A_DIRECTORY


@dataclass(frozen=True, slots=True)
class _Dir:
    """A directory that the walk enters. `is_linked`: by a link, outside of every study directory."""

    path: bytes
    real: bytes
    is_linked: bool = False


_Level = tuple[_Dir, list[bytes]]  # a directory and its marked names still to come, last first


class _Walk:
    """The walk of one study. Without recursion: the tree may be deeper than Python's stack."""

    def __init__(self, study_no: int, ownership: Ownership) -> None:
        self._study_no = study_no
        self._ownership = ownership
        self._followed: set[bytes] = set()  # real targets of the links that this walk has followed

    def found_in(self, top: _Dir) -> Iterator[_Found]:
        """Everything in `top` that makes a row. A directory's names are held while the walk is in it."""
        stack: list[_Level] = []
        yield from _enter(top, stack)
        while stack:
            directory, names = stack[-1]
            if not names:
                stack.pop()
                continue
            name = names.pop()
            path = _join(directory.path, name.rstrip(_MARKS))
            found = self._look_at(name, path, directory)
            if isinstance(found, _Dir):
                yield from _enter(found, stack)
            elif found is not None:
                yield path, found

    def _look_at(self, name: bytes, path: bytes, parent: _Dir) -> _Dir | os.stat_result | Reason | None:
        """A directory to go on with, a file, a reason why neither, or None: it has no row here."""
        if name.endswith(_LINK):
            return self._link(path, parent)
        if name.endswith(_DIRECTORY):
            return self._directory(path, parent)
        if parent.is_linked and _join(parent.real, name) in self._followed:
            return None
        return _file_stat(path)

    def _directory(self, path: bytes, parent: _Dir) -> _Dir | None:
        """The directory to enter; None when another walk, or this one by a link, comes there."""
        real = _join(parent.real, os.path.basename(path))
        owner = self._ownership.owners.get(real)
        if owner is not None and (parent.is_linked or owner < self._study_no):
            return None
        if parent.is_linked and real in self._followed:
            return None
        return _Dir(path, real, parent.is_linked)

    def _link(self, path: bytes, parent: _Dir) -> _Dir | os.stat_result | Reason | None:
        try:
            real = os.path.realpath(path, strict=True)
            target = os.stat(real)
        except OSError as error:
            return Reason.BROKEN_LINK if error.errno in _NO_SUCH_PATH else _reason(error)
        if not self._ownership.admits(real):
            return Reason.LINK_OUTSIDE_ROOT
        if _is_inside(parent.real, real):
            return Reason.LINK_LOOP
        if self._ownership.covers(real) or self._has_followed(real):
            return None
        self._followed.add(real)
        if stat.S_ISDIR(target.st_mode):
            return _Dir(path, real, is_linked=True)
        return target if stat.S_ISREG(target.st_mode) else None

    def _has_followed(self, real: bytes) -> bool:
        return bool(self._followed) and any(directory in self._followed for directory in _upwards(real))


def _enter(directory: _Dir, stack: list[_Level]) -> Iterator[_Found]:
    names, reason = _listing(directory.path)
    stack.append((directory, names))
    if reason:
        yield directory.path, reason


def _listing(path: bytes) -> tuple[list[bytes], Reason]:
    """Marked names, last first (to be popped), and why it is not the whole directory, if it isn't."""
    names: list[bytes] = []
    reason = Reason.NONE
    try:
        with os.scandir(path) as listing:
            for entry in listing:
                name = _marked(entry)
                if name is not None:
                    names.append(name)
    except OSError as error:
        reason = _reason(error)
    names.sort(reverse=True)
    return names, reason


def _marked(entry: "os.DirEntry[bytes]") -> bytes | None:
    try:
        if entry.is_file(follow_symlinks=False):
            return entry.name
        if entry.is_dir(follow_symlinks=False):
            return entry.name + _DIRECTORY
        if not entry.is_symlink():
            return None
    except OSError:  # its kind takes a stat here, and that fails: the row will say why
        return entry.name
    return entry.name + (_DIRECTORY_LINK if os.path.isdir(entry.path) else _LINK)


def _file_stat(path: bytes) -> os.stat_result | Reason:
    try:
        found = os.lstat(path)
    except OSError as error:
        return _reason(error)
    return found if stat.S_ISREG(found.st_mode) else Reason.IO_ERROR  # it was a file when it was listed


def _overlaps(
    real_dirs: Mapping[int, bytes], owners: Mapping[bytes, int]
) -> tuple[frozenset[int], dict[int, int]]:
    """The entries that lie in an earlier one, and for every later entry of a pair the earliest."""
    absorbed: set[int] = set()
    overlaps: dict[int, int] = {}
    for study_no, real in real_dirs.items():
        if real not in owners:
            continue
        for directory in _upwards(real):
            other = owners.get(directory, study_no)
            if other == study_no:
                continue
            earlier, later = sorted((other, study_no))
            overlaps[later] = min(earlier, overlaps.get(later, earlier))
            if later == study_no:
                absorbed.add(study_no)
    return frozenset(absorbed), overlaps


def _reason(error: OSError) -> Reason:
    return _REASONS.get(error.errno or 0, Reason.IO_ERROR)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory.endswith(b"/") else directory + b"/" + name


def _upwards(real: bytes) -> Iterator[bytes]:
    """A real path, then each directory that holds it, up to `/`."""
    while True:
        yield real
        parent = os.path.dirname(real)
        if parent == real:
            return
        real = parent


def _is_inside(real: bytes, directory: bytes) -> bool:
    return real == directory or real.startswith(directory.rstrip(b"/") + b"/")
