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
from dataclasses import dataclass, replace
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import Final, Protocol

from tasks.core.file_times import kept_ns
from tasks.core.models import Absence, ArchiveState, Listed, Reason, Status, StudyEntry, Unwalked
from tasks.core.number_table import NumberTable
from tasks.core.store_urls import is_store_url
from tasks.source.archive_rows import MemberStat, with_members
from tasks.source.archives import Archives
from tasks.source.dicomdir import absent_files, is_dicomdir_name
from tasks.source.own_files import NONE_OWN, OwnFiles, upwards
from tasks.source.real_dirs import RealDirs
from tasks.source.stores import StoreStat, store_rows

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

# A row to be: a path, marked when it is a directory's, and its file's size and times or why there are none.
_Kind = os.stat_result | MemberStat | StoreStat | Reason | ArchiveState | Absence
_Found = tuple[bytes, _Kind]


class Owners(Protocol):
    """Real directory to the study_no of the first entry there."""

    def get(self, real: bytes, /) -> int | None:
        """The study_no, if there is one."""

    def __contains__(self, real: object, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which entry owns a directory when study directories lie in one another: the first that holds it."""

    real_dirs: Mapping[int, bytes]  # study_no -> its real directory; not of one outside the root
    owners: Owners
    absorbed: frozenset[int]  # entries that lie in an earlier one whole, and so have no files of their own
    overlaps: Mapping[int, int]  # study_no -> the first earlier study_no that it shares files with
    real_root: bytes | None
    own: OwnFiles = NONE_OWN  # what the walk leaves out
    here: "Callable[[], Ownership] | None" = None  # what this machine says, where another one decided
    note: Callable[[int, bytes, os.stat_result], None] = lambda *_: None  # a directory that is listed next
    archives: Archives | None = None  # None: what is in them has no rows

    def covers(self, directory: bytes) -> bool:
        """Whether some entry's walk comes to this real directory without following a link."""
        is_covered = any(each in self.owners for each in upwards(directory))
        return is_covered or (self.here is not None and self.here().covers(directory))

    def owner_of(self, real: bytes) -> int | None:
        """The entry whose row what lies at this real path has: the first of those that hold it."""
        holding = (self.owners.get(directory) for directory in upwards(real))
        return min((study_no for study_no in holding if study_no is not None), default=None)

    def is_admitted_here(self, study_dir: bytes) -> bool:
        """Whether a study directory that was decided on elsewhere lies in the root on this machine, too."""
        if self.real_root is None or self.here is None:
            return True
        return _is_within(os.path.realpath(study_dir), self.real_root)

    def admits(self, real: bytes, *, is_covered: bool) -> bool:
        """Whether a link may lead there: into the root, or without one into any study directory."""
        return is_covered if self.real_root is None else _is_within(real, self.real_root)


def survey(entries: Sequence[StudyEntry], root: Path | str | None = None) -> Ownership:
    """Resolves the links of all study directories, and decides which entry of the manifest owns which."""
    real_root = None if root is None else os.path.realpath(os.fsencode(root))
    return _ownership(RealDirs(entries, lambda real: _is_within(real, real_root)), real_root)


def decided_ownership(
    real_dirs: Mapping[int, bytes], entries: Sequence[StudyEntry], root: Path | str | None = None
) -> Ownership:
    """The `survey` of these entries by another process, by its `real_dirs`: so all shards agree.

    Where links lead is looked up here all the same.
    """
    real_root = None if root is None else os.path.realpath(os.fsencode(root))
    return replace(_ownership(real_dirs, real_root), here=cache(lambda: survey(entries, root)))


def _ownership(real_dirs: Mapping[int, bytes], real_root: bytes | None) -> Ownership:
    owners = NumberTable[bytes](len(real_dirs), real_dirs.__getitem__)
    for study_no, real in real_dirs.items():
        owners.setdefault(real, study_no)
    absorbed, overlaps = _overlaps(real_dirs, owners)
    return Ownership(real_dirs, owners, absorbed, overlaps, real_root)


def walk_study(entry: StudyEntry, ownership: Ownership) -> Iterator[Listed | Unwalked]:
    """The rows of one study, lazily, in the order of whole paths as bytes.

    One row for each regular file that no earlier entry owns, and for each directory or link that can't be
    walked (a directory stands where its files would). Of links, one into some study directory has no row, for
    its target has one there; one into the root but no study directory is followed, each target once in a
    study; every other gets a row that says why, and so does a link to a directory that holds it.
    Behind an archive, where they are read, come its members, and a row that says why it isn't read, or not to
    its end; those of a gzipped tar in its own order, so that it need not be inflated for each.
    What a DICOMDIR lists and is absent has a row, too, where it would be.
    FIFOs, sockets and devices are passed over, and so are the run's own files: its report directory is not
    listed, and a link into it not followed. Depth is bounded by the system's longest path.
    """
    for file_no, found in enumerate(with_members(_rows(entry, ownership), ownership.archives), 1):
        yield _row(entry.study_no, file_no, *found)


@dataclass(frozen=True, slots=True)
class OneFile:
    """A walk that finds this one file, unless it is the run's own, and nothing else of its directory."""

    path: Path

    def __call__(self, entry: StudyEntry, ownership: Ownership) -> Iterator[Listed | Unwalked]:
        """Its row."""
        if ownership.own.has(os.path.realpath(os.fsencode(self.path))):
            return
        try:
            found = self.path.stat()
        except OSError as error:
            yield Unwalked(entry.study_no, 1, str(self.path), Status.UNREADABLE, _reason(error), is_file=True)
            return
        if not ownership.own.is_ledger(found):
            one = iter([(os.fsencode(self.path), found)])
            for file_no, row in enumerate(with_members(one, ownership.archives), 1):
                yield _row(entry.study_no, file_no, *row)


def just_file(path: Path) -> OneFile:
    """A walk of one file."""
    return OneFile(path)


def _row(study_no: int, file_no: int, path: bytes, found: _Kind) -> Listed | Unwalked:
    text = os.fsdecode(path.removesuffix(_DIRECTORY))
    if isinstance(found, ArchiveState):
        state = Status.UNREADABLE, Reason.ARCHIVE
        return Unwalked(study_no, file_no, text, *state, is_file=True, detail=found)
    if isinstance(found, Absence):
        said = Status.MISSING, Reason.NOT_FOUND
        return Unwalked(study_no, file_no, text, *said, detail=found)
    if isinstance(found, Reason):
        status = Status.MISSING if found in _MISSING else Status.UNREADABLE
        return Unwalked(study_no, file_no, text, status, found, is_file=not path.endswith(_DIRECTORY))
    times = kept_ns(found.st_mtime_ns), kept_ns(found.st_ctime_ns)
    return Listed(study_no, file_no, text, found.st_size, *times)


def _rows(entry: StudyEntry, ownership: Ownership) -> Iterator[_Found]:
    path, is_in_store = os.fsencode(entry.study_dir), is_store_url(entry.study_dir)
    real = ownership.real_dirs.get(entry.study_no)
    trouble = Reason.NONE if is_in_store else _trouble_at(path)
    if trouble in _MISSING:
        yield path + _DIRECTORY, trouble
    elif entry.study_no in ownership.absorbed:
        return
    elif trouble:
        yield path + _DIRECTORY, trouble
    elif real is None or not ownership.is_admitted_here(path):
        yield path + _DIRECTORY, Reason.LINK_OUTSIDE_ROOT
    elif is_in_store:
        ours = (None, entry.study_no)
        found = store_rows(entry.study_dir)
        yield from (each for each in found if ownership.owner_of(os.path.dirname(each[0])) in ours)
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
        self._absent: list[bytes] = []  # a heap: of what lies in directories that the walk is in

    def found_in(self, top: _Dir) -> Iterator[_Found]:
        """Everything in `top` that makes a row, and what is absent there though a DICOMDIR lists it."""
        for path, found in self._present_in(top):
            yield from self._absent_before(path)
            yield path, found
        yield from self._absent_before(None)

    def _absent_before(self, path: bytes | None) -> Iterator[_Found]:
        while self._absent and (path is None or self._absent[0] < path):
            absent = heappop(self._absent)
            if absent not in self._absent[:1]:  # else another DICOMDIR lists it, too
                yield absent + _DIRECTORY, Absence.LISTED

    def _present_in(self, top: _Dir) -> Iterator[_Found]:
        """A directory's names are held while the walk is in it."""
        stack: list[_Level] = []
        yield from self._enter(top, stack)
        while stack:
            directory, names = stack[-1]
            if not names:
                stack.pop()
                continue
            name = names.pop()
            path = _join(directory.path, name.rstrip(_MARKS))
            found = self._look_at(name, path, directory)
            if isinstance(found, _Dir):
                yield from self._enter(found, stack)
            elif found is not None:
                yield path, found

    def _enter(self, directory: _Dir, stack: list[_Level]) -> Iterator[_Found]:
        status = None if self._ownership.own is NONE_OWN else _status(directory.path)
        own = self._ownership.own.names_in(directory.real, status)
        if own is None:
            return
        if status:  # none where nobody asks, and of one that can't be listed either: a row says so
            self._ownership.note(self._study_no, directory.path, status)
        names, reason = _listing(directory.path)
        for name in filter(is_dicomdir_name, names):
            for path in absent_files(directory.path, name):
                heappush(self._absent, path)
        stack.append((directory, [name for name in names if name not in own] if own else names))
        if reason:
            yield directory.path + _DIRECTORY, reason

    def _look_at(self, name: bytes, path: bytes, parent: _Dir) -> _Dir | os.stat_result | Reason | None:
        """A directory to go on with, a file, a reason why neither, or None: it has no row here."""
        if name.endswith(_LINK):
            return self._link(path, parent)
        if name.endswith(_DIRECTORY):
            return self._directory(path, parent)
        if parent.is_linked and _join(parent.real, name) in self._followed:
            return None
        found = _file_stat(path)
        return None if isinstance(found, os.stat_result) and self._ownership.own.is_ledger(found) else found

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
        is_directory = stat.S_ISDIR(target.st_mode)
        # A file is no entry's for being one itself: it has a row where a directory is walked that holds it.
        is_covered = self._ownership.covers(real if is_directory else os.path.dirname(real))
        if not self._ownership.admits(real, is_covered=is_covered):
            return Reason.LINK_OUTSIDE_ROOT
        if _is_inside(parent.real, real):
            return Reason.LINK_LOOP
        if is_covered or self._has_followed(real):
            return None
        if self._ownership.own.has(real) or self._ownership.own.is_ledger(target):
            return None
        self._followed.add(real)
        if is_directory:
            return _Dir(path, real, is_linked=True)
        return target if stat.S_ISREG(target.st_mode) else None

    def _has_followed(self, real: bytes) -> bool:
        return bool(self._followed) and any(directory in self._followed for directory in upwards(real))


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


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _file_stat(path: bytes) -> os.stat_result | Reason:
    try:
        found = os.lstat(path)
    except OSError as error:
        return _reason(error)
    return found if stat.S_ISREG(found.st_mode) else Reason.IO_ERROR  # it was a file when it was listed


def _overlaps(real_dirs: Mapping[int, bytes], owners: Owners) -> tuple[frozenset[int], dict[int, int]]:
    """The entries that lie in an earlier one, and for every later entry of a pair the earliest."""
    absorbed: set[int] = set()
    overlaps: dict[int, int] = {}
    for study_no, real in real_dirs.items():
        for directory in upwards(real):
            other = owners.get(directory)
            if other in (None, study_no):
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


def _is_within(real: bytes, root: bytes | None) -> bool:
    return root is None or _is_inside(real, root)


def _is_inside(real: bytes, directory: bytes) -> bool:
    return real == directory or real.startswith(directory.rstrip(b"/") + b"/")
