"""Whether study directories hold now exactly the report's files, unchanged: each is walked once more.

Size and mtime are held against the ledger's, from when the file was last looked at. The bytes are hashed
where that says too little: without a ledger, of a file that it does not know with these bytes, that was
written as it was read, or whose ctime is another. Of one that was never hashed, as text is not, size and
times have to do: without a ledger an mtime from before the run's start.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks.core.escape import unescape
from tasks.core.file_times import is_racy
from tasks.core.models import Listed, StudyEntry
from tasks.ledger.verified_objects import KnownFile, VerifiedObjects
from tasks.source.own_files import upwards
from tasks.source.scan import Ownership, walk_study

CELLS: Final = ("study_no", "path", "size_bytes", "sha256")
_AT_ONCE: Final = 1000


class Reported(NamedTuple):
    """A row of the report, as far as it is looked for."""

    path: str
    size_bytes: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class FreshLook:
    """At the directories of some studies. `own`: real directories that may not go: report's and ledger's."""

    ownership: Ownership
    ledger: VerifiedObjects | None
    started_ns: int  # of the run
    own: Sequence[bytes] = ()
    hashed: Callable[[str], str] = lambda path: sha256_of(path)

    def is_unchanged(self, entry: StudyEntry, reported: Iterator[Reported]) -> bool:
        """Whether the walk finds the report's rows of a study, in their order, and nothing else."""
        if entry.study_no in self.ownership.overlaps or self._holds_own(entry):
            return False
        walk = walk_study(entry, self.ownership)
        while True:
            rows = _some(reported)
            listed = _some(walk, len(rows) or 1)
            if len(rows) != len(listed):
                return False
            if not rows:
                return True
            if not self._are_the_same(rows, listed):
                return False

    def _are_the_same(self, rows: Sequence[Reported], listed: Sequence[Any]) -> bool:
        names = [row.path for row in rows]
        if names != [each.path for each in listed] or not all(isinstance(each, Listed) for each in listed):
            return False
        known = self.ledger.files(names) if self.ledger else {}
        return all(
            self._is_the_same(row, each, known.get(row.path)) for row, each in zip(rows, listed, strict=True)
        )

    def _is_the_same(self, row: Reported, listed: Listed, known: KnownFile | None) -> bool:
        if row.size_bytes is not None and row.size_bytes != listed.size_bytes:
            return False
        if known is None or known.sha256 != row.sha256 or known.mtime_ns is None:
            if row.sha256:
                return self.hashed(row.path) == row.sha256
            return row.size_bytes is not None and listed.mtime_ns < self.started_ns
        if (known.size_bytes, known.mtime_ns) != (listed.size_bytes, listed.mtime_ns):
            return False
        is_touched = known.ctime_ns not in (None, listed.ctime_ns)
        if row.sha256 and (is_touched or is_racy(known.mtime_ns, known.read_ns)):
            return self.hashed(row.path) == row.sha256
        return not is_touched

    def _holds_own(self, entry: StudyEntry) -> bool:
        """Whether it holds the report's or the ledger's directory: they would go with it."""
        real = self.ownership.real_dirs.get(entry.study_no)
        return real is None or any(real in upwards(each) for each in self.own)


def by_study(cells: Iterator[list[Any]]) -> Iterator[tuple[int, Iterator[Reported]]]:
    """The report's rows, with `CELLS`, study by study."""
    for study_no, rows in groupby(cells, key=itemgetter(0)):
        yield study_no, (Reported(unescape(path), size, sha256) for _, path, size, sha256 in rows)


def sha256_of(path: str) -> str:
    """Of a file's bytes; empty when they can't be read."""
    with suppress(OSError), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _some(items: Iterator[Any], most: int = _AT_ONCE) -> list[Any]:
    return [*islice(items, most)]


def real_path(path: Path) -> bytes:
    """With all links resolved."""
    return os.path.realpath(os.fsencode(path))
