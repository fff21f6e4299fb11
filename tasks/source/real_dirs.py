"""Where study directories really are, with all links resolved: for millions of them, on a slow file server.

One lstat for each, in place of one for every directory in its path; and of memory hardly more than their
entries take: the real path of a directory that no link leads to is the one that its entry has.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import filterfalse, pairwise
from operator import attrgetter
from typing import Final

from tasks.core.models import StudyEntry
from tasks.core.store_urls import is_store_url

_MOST_PARENTS: Final = 10_000  # that are remembered: entries come directory by directory


class _Resolver:
    """Resolves links as `os.path.realpath` does, of paths whose parents are mostly the same."""

    def __init__(self) -> None:
        self._parents: dict[bytes, bytes] = {}

    def __call__(self, path: bytes) -> bytes:
        """The real path."""
        if is_store_url(os.fsdecode(path)):
            return path
        parent, name = os.path.split(path)
        if name in (b"", b".", b"..") or _is_link(path):
            return os.path.realpath(path)
        return os.path.join(self._real_parent(parent), name)  # noqa: PTH118

    def _real_parent(self, parent: bytes) -> bytes:
        real = self._parents.get(parent)
        if real is None:
            if len(self._parents) >= _MOST_PARENTS:
                self._parents.clear()
            real = self._parents[parent] = os.path.realpath(parent)
        return real


class RealDirs(Mapping[int, bytes]):
    """study_no to the real directory of its entry, in their order; without those that are not admitted."""

    def __init__(self, entries: Sequence[StudyEntry], admits: Callable[[bytes], bool] = bool) -> None:
        resolve = _Resolver()
        self._entries = _in_order(entries)
        self._elsewhere: dict[int, bytes] = {}  # those that are not where their entries say
        self._left_out: set[int] = set()
        self._places: dict[int, int] | None = None  # of study_nos that do not count from 1
        for place, entry in enumerate(self._entries):
            path = os.fsencode(entry.study_dir)
            real = resolve(path)
            if not admits(real):
                self._left_out.add(entry.study_no)
            elif real != path:
                self._elsewhere[entry.study_no] = real
            if entry.study_no != place + 1 and self._places is None:
                self._places = {each.study_no: at for at, each in enumerate(self._entries)}

    def __getitem__(self, study_no: int) -> bytes:
        if real := self._elsewhere.get(study_no):
            return real
        place = study_no - 1 if self._places is None else self._places[study_no]
        if study_no in self._left_out or not 0 <= place < len(self._entries):
            raise KeyError(study_no)
        return os.fsencode(self._entries[place].study_dir)

    def __iter__(self) -> Iterator[int]:
        numbers = map(attrgetter("study_no"), self._entries)
        return filterfalse(self._left_out.__contains__, numbers)

    def __len__(self) -> int:
        return len(self._entries) - len(self._left_out)


def _in_order(entries: Sequence[StudyEntry]) -> Sequence[StudyEntry]:
    numbers = map(attrgetter("study_no"), entries)
    is_sorted = all(one < other for one, other in pairwise(numbers))
    return entries if is_sorted else sorted(entries, key=attrgetter("study_no"))


def _is_link(path: bytes) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False
