"""The study directories of an archive that has no manifest."""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH100, PTH110, PTH118, PTH119

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path
from typing import Final

from tasks.core.manifest import is_inside
from tasks.core.models import Rejected
from tasks.source.header_reader import read_header

_FILES_PROBED: Final = 8  # in a directory, until one has a Study Instance UID


@dataclass(frozen=True, slots=True)
class StudyDir:
    """A study directory. `is_whole`: all below it is its own, else only the files that lie in it directly."""

    path: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """What may become a row: a directory, and the only Study Instance UID known of in it, or nothing."""

    path: str
    uid: str


@dataclass(slots=True)
class _Branch:
    """A directory that the walk is in, and what it has found there so far."""

    path: str
    holds_files: bool
    uid: str
    subdirs: list[bytes]  # names still to come, last first
    waiting: list[_Found] = field(default_factory=list)  # rows, unless all proves to be one study
    is_several: bool = False


class StudyDirFinder:
    """Finds study directories under `roots`, in path order.

    What is a study directory, by one DICOM header per directory:
    - a directory that holds files is one: a study, or a series of its own;
    - but where directories of one Study Instance UID, and none of another, lie in a directory, that one is;
    - and files beside directories of several studies make their directory one too. It comes after those, so
      that each of them keeps its own row (a run names that an overlap).
    So each regular file below the roots belongs to exactly one row; only `own_files`, the manifest's, are
    left out, and `report_dir`, which a run leaves out. A directory counts as one that holds files, too, when
    it can't be listed or has a link that is broken or leads out of the roots: the run's report says so. Links
    are not followed. Memory: one path's names.
    """

    def __init__(
        self, roots: Iterable[Path], own_files: frozenset[str], report_dir: Path | None = None
    ) -> None:
        self._roots = _outermost(roots)
        self.real_roots = [os.path.realpath(root) for root in self._roots]
        self._own_files = own_files
        self._own_names = {os.path.basename(path) for path in own_files}
        self._left_out = os.path.realpath(report_dir) if report_dir else ""

    def __iter__(self) -> Iterator[StudyDir]:
        for root in self._roots:
            yield from self._below(root)

    def is_own(self, path: str) -> bool:
        """Whether it is a file of this manifest."""
        return os.path.basename(path) in self._own_names and os.path.realpath(path) in self._own_files

    def _is_own(self, entry: "os.DirEntry[str]") -> bool:
        return entry.name in self._own_names and self.is_own(entry.path)

    def _is_left_out(self, entry: "os.DirEntry[str]") -> bool:
        is_named_so = bool(self._left_out) and entry.name == os.path.basename(self._left_out)
        return is_named_so and os.path.realpath(entry.path) == self._left_out

    def _below(self, root: str) -> Iterator[StudyDir]:
        stack = [self._branch(root)]
        while stack:
            if stack[-1].subdirs:
                stack.append(self._branch(os.path.join(stack[-1].path, os.fsdecode(stack[-1].subdirs.pop()))))
            else:
                yield from _settle(stack.pop(), stack)

    def _branch(self, path: str) -> _Branch:
        files: list[bytes] = []
        subdirs: list[bytes] = []
        holds_more = False
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        if not self._is_left_out(entry):
                            subdirs.append(os.fsencode(entry.name))
                    elif entry.is_file(follow_symlinks=False) and not self._is_own(entry):
                        files.append(os.fsencode(entry.name))
                    elif entry.is_symlink() and self._leads_away(entry.path):
                        holds_more = True
        except OSError:
            holds_more = True
        subdirs.sort(key=_in_path_order, reverse=True)
        first = [os.path.join(path, os.fsdecode(name)) for name in nsmallest(_FILES_PROBED, files)]
        uid = next(filter(None, map(_study_instance_uid, first)), "")
        return _Branch(path, bool(files) or holds_more, uid, subdirs)

    def _leads_away(self, link: str) -> bool:
        real = os.path.realpath(link)
        return not os.path.exists(real) or not any(is_inside(real, root) for root in self.real_roots)


def _settle(branch: _Branch, above: list[_Branch]) -> Iterator[StudyDir]:
    """Adds what a finished directory amounts to to the one above, and yields what is a row for sure.

    Below a directory of several studies, all that holds files is a row: it has only its own files itself.
    """
    found = _as_one(branch)
    if branch.is_several:
        if branch.holds_files:
            yield StudyDir(branch.path, is_whole=False)
    elif found is None:
        if branch.waiting:
            yield from _release([*above, branch])
    elif not above:
        yield StudyDir(found.path, is_whole=True)
    else:
        parent = above[-1]
        parent.waiting.append(found)
        if parent.is_several or (found.uid and parent.uid and found.uid != parent.uid):
            yield from _release(above)
        parent.uid = parent.uid or found.uid


def _as_one(branch: _Branch) -> _Found | None:
    if branch.holds_files or sum(1 for found in branch.waiting if found.uid) > 1:
        return _Found(branch.path, branch.uid)
    return branch.waiting[0] if len(branch.waiting) == 1 else None


def _release(branches: Iterable[_Branch]) -> Iterator[StudyDir]:
    """What waits in these becomes rows: several studies in one directory are several in all above it, too."""
    for branch in branches:
        yield from (StudyDir(found.path, is_whole=True) for found in branch.waiting)
        branch.waiting.clear()
        branch.is_several = True


def _outermost(roots: Iterable[Path]) -> list[str]:
    """Absolute paths in path order, without those that lie in another."""
    paths = {os.path.realpath(root): os.path.abspath(root) for root in roots}
    kept: list[str] = []
    for real in sorted(paths, key=lambda real: _in_path_order(os.fsencode(real))):
        if not kept or not is_inside(real, kept[-1]):
            kept.append(real)
    return sorted((paths[real] for real in kept), key=lambda path: _in_path_order(os.fsencode(path)))


def _in_path_order(directory: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/"


def _study_instance_uid(path: str) -> str:
    """The UID in a DICOM file; empty when it is none or can't be read: the run will say why."""
    found, _ = read_header(path)
    header = found.header if isinstance(found, Rejected) else found
    return header.study_instance_uid if header else ""
