"""What is to be done: which listed files an earlier run has settled, and what makes a batch, and a shard."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from tasks.core.file_times import is_racy
from tasks.core.models import EXIT_ONE, Listed, Status, Unwalked
from tasks.core.progress import Found, is_bad

_SETTLED: Final = frozenset({Status.UPLOADED, Status.DUPLICATE})
_FIRST_BATCH: Final = 500
_LARGEST_BATCH: Final = 50_000
_DOUBLED_EVERY: Final = 20


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has of a path from earlier runs; a new path has an empty status."""

    file_id: int
    status: str
    size_bytes: int | None
    mtime_ns: int | None
    ctime_ns: int | None = None  # None: an earlier version looked at it
    read_ns: int | None = None  # when it was looked at


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator asked for."""

    rehash: bool = False  # read also what is stored
    changed_before_ns: int = 2**63 - 1  # leave alone what changed later, ...
    changed_until_ns: int = 2**63 - 1  # ... but not what no clock can have said yet
    trust_ctime: bool = True  # a file whose ctime differs may have changed


class Enrolled(NamedTuple):
    """What is to be done of some rows of the scan: how many files, and of them for their ctime alone."""

    to_do: int
    touched: int
    found: Found = Found()  # the same for whoever shows it

    def beside(self, other: "Enrolled") -> "Enrolled":
        """Both together."""
        found = self.found.beside(other.found)
        return Enrolled(self.to_do + other.to_do, self.touched + other.touched, found)


@dataclass(slots=True)
class Finding:
    """What rows of the scan come to, row by row."""

    to_do: int = 0
    _size_bytes: int = 0
    _to_do_bytes: int = 0
    _held_back: int = 0
    _again: dict[int, str] = field(default_factory=dict)

    def count(self, row: Listed | Unwalked, its: Known, status: Status | None, *, is_to_do: bool) -> None:
        """One more; `status` is what settles it at once, if that is new."""
        size = row.size_bytes if isinstance(row, Listed) else 0
        self._size_bytes += size
        if is_to_do:
            self.to_do += 1
            self._to_do_bytes += size
            if is_bad(its.status):
                self._again[its.file_id] = its.status
        elif status in EXIT_ONE:
            self._held_back += 1

    def found(self, files: int) -> Found:
        """All of them, which are so many rows."""
        return Found(files, self.to_do, self._size_bytes, self._to_do_bytes, self._held_back, self._again)


class Standing(StrEnum):
    """What is to be done about a listed file."""

    SETTLED = "settled"  # stored, it or the file it duplicates; size and mtime are the same
    TOO_YOUNG = "too_young"
    TO_DO = "to_do"
    TOUCHED = "touched"  # to do, too: stored, and of size, mtime and ctime only the last differs


def standing(known: Known, listed: Listed, rules: Rules) -> Standing:
    """Where a listed file stands before anyone opens it.

    | stored, same size and mtime | rehash | ctime          | mtime when read | changed lately | standing  |
    | --------------------------- | ------ | -------------- | --------------- | -------------- | --------- |
    | yes                         | no     | differs        | any             | any            | touched   |
    | yes                         | no     | same           | within 2 s      | any            | to_do     |
    | yes                         | no     | same           | older           | any            | settled   |
    | otherwise                            |                |                 | yes            | too_young |
    | otherwise                            |                |                 | no             | to_do     |

    A ctime that is not known yet, or is not trusted, is the same. A time that lies in the future by more than
    clocks may differ is no sign that a file changed lately.
    """
    unchanged = (known.size_bytes, known.mtime_ns) == (listed.size_bytes, listed.mtime_ns)
    if known.status in _SETTLED and unchanged and not rules.rehash:
        if rules.trust_ctime and known.ctime_ns not in (None, listed.ctime_ns):
            return Standing.TOUCHED
        return Standing.TO_DO if is_racy(known.mtime_ns, known.read_ns) else Standing.SETTLED
    is_young = rules.changed_before_ns < listed.mtime_ns <= rules.changed_until_ns
    return Standing.TOO_YOUNG if is_young else Standing.TO_DO


def batch_target(batch_no: int) -> int:
    """How many files to do make the batch of this number (from 1) full.

    Batches grow, so that their number, and Prefect's task runs with it, stays in the hundreds: 20 batches of
    500 files, 20 of 1000, and so on: 160 carry two million files, 300 ten million.
    """
    return int(min(_LARGEST_BATCH, _FIRST_BATCH * 2 ** ((batch_no - 1) // _DOUBLED_EVERY)))


def cut(weights: Mapping[int, int], shards: int) -> list[list[int]]:
    """Balanced shards of whole studies: the heaviest study first, each to the shard that has least so far.

    `weights`: study_no to files or bytes. No shard weighs more than the fairest cut's heaviest by more than a
    third (Graham 1969). Each shard's studies are in the manifest's order; a shard without any is left out.
    """
    lightest = [(0, number) for number in range(shards)]
    cut: list[list[int]] = [[] for _ in range(shards)]
    for study_no, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0])):
        total, number = heapq.heappop(lightest)
        cut[number].append(study_no)
        heapq.heappush(lightest, (total + max(1, weight), number))  # empty studies are spread, too
    return [sorted(study_nos) for study_nos in cut if study_nos]
