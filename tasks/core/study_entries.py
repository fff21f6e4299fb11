"""The entries of a manifest, however many: a million take 100 MB as their bytes, and 250 as objects."""

import marshal
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Final, overload

from tasks.core.models import StudyEntry
from tasks.core.number_table import NumberTable

_packed: Final = attrgetter(*StudyEntry.__slots__)


class StudyEntries(Sequence[StudyEntry]):
    """Study entries, each made anew when it is asked for. Equal to any sequence of the same ones.

    `sha256`: of the very bytes that the manifest was read from, in hex; empty for entries that are of none.
    """

    __slots__ = ("_bytes", "_ends", "sha256")

    def __init__(self, entries: Iterable[StudyEntry], sha256: str = "") -> None:
        self.sha256 = sha256
        self._bytes = bytearray()
        self._ends = array("Q", [0])
        for entry in entries:
            self._bytes += marshal.dumps(_packed(entry))
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[StudyEntry]:
        return (self._unpacked(start, end) for start, end in pairwise(self._ends))

    @overload
    def __getitem__(self, at: int) -> StudyEntry: ...

    @overload
    def __getitem__(self, at: slice) -> list[StudyEntry]: ...

    def __getitem__(self, at: int | slice) -> StudyEntry | list[StudyEntry]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        index = range(len(self))[at]
        return self._unpacked(self._ends[index], self._ends[index + 1])

    def _unpacked(self, start: int, end: int) -> StudyEntry:
        return StudyEntry(*marshal.loads(self._bytes[start:end]))  # noqa: S302 - bytes of our own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def of_the_same_directory(self) -> Iterator[tuple[StudyEntry, StudyEntry]]:
        """Each entry whose directory an earlier one has, and the first of those.

        Their directories are not held: these would take more than all entries do.
        """
        table = NumberTable[str](len(self), lambda place: self[place - 1].study_dir)
        for place, entry in enumerate(self, 1):
            first = table.setdefault(entry.study_dir, place)
            if first != place:
                yield entry, self[first - 1]


class _Reordered(Sequence[StudyEntry]):
    """Entries in another order than the one in which they are packed."""

    def __init__(self, entries: Sequence[StudyEntry], places: Iterable[int]) -> None:
        self._entries = entries
        self._places = array("L", places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> StudyEntry: ...

    @overload
    def __getitem__(self, at: slice) -> list[StudyEntry]: ...

    def __getitem__(self, at: int | slice) -> StudyEntry | list[StudyEntry]:
        if isinstance(at, slice):
            return [self._entries[place] for place in self._places[at]]
        return self._entries[self._places[at]]


def in_order(
    entries: Sequence[StudyEntry], keys: Sequence[int], first: Collection[str] = ()
) -> Sequence[StudyEntry]:
    """The smallest key first, and as in the manifest where that is equal; `first`: directories before all."""
    is_first = bytearray(len(entries))
    if first:
        is_first = bytearray(entry.study_dir in first for entry in entries)
    if not any(is_first) and all(one <= other for one, other in pairwise(keys)):
        return entries  # as they are packed
    places = sorted(range(len(entries)), key=keys.__getitem__)
    places.sort(key=is_first.__getitem__, reverse=True)
    return _Reordered(entries, places)


def priorities(entries: Iterable[StudyEntry]) -> list[int]:
    """The keys of the manifest's own order: the highest priority first."""
    return [-entry.priority for entry in entries]


def manifest_sha256(entries: Sequence[StudyEntry]) -> str:
    """That of the manifest; empty for entries that are of none."""
    return entries.sha256 if isinstance(entries, StudyEntries) else ""
