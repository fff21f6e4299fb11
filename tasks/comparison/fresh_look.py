"""Whether study directories hold now exactly the report's files, unchanged: each is walked once more.

Size and mtime are held against the ledger's, from when the file was last looked at. The bytes are hashed
where that says too little: without a ledger, of a file that it does not know with these bytes, that was
written as it was read, or whose ctime is another. Of one that was never hashed, as text is not, size and
times have to do: without a ledger an mtime from before the run's start. Members of an archive are unchanged
while it is; where that says too little their bytes are hashed, too.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from tasks.core.escape import unescape
from tasks.core.file_times import is_racy
from tasks.core.member_paths import is_member, split_member
from tasks.core.models import Listed, StudyEntry, Unwalked
from tasks.core.store_urls import is_store_url
from tasks.ledger.verified_objects import KnownFile, VerifiedObjects
from tasks.source.archives import Archives
from tasks.source.member_content import member_digest
from tasks.source.own_files import upwards
from tasks.source.scan import Ownership, walk_study
from tasks.source.store_content import stored_digest

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
    archives: Archives = field(default_factory=Archives)

    def is_unchanged(self, entry: StudyEntry, reported: Iterator[Reported]) -> bool:
        """Whether the walk finds the report's rows of a study, in their order, and nothing else."""
        if entry.study_no in self.ownership.overlaps or self._holds_own(entry):
            return False
        walk = walk_study(entry, self.ownership)
        pairs = _pairs(reported, walk)
        while some := _some(pairs):
            if not self._are_the_same(some):
                return False
        return next(walk, None) is None

    def _are_the_same(self, pairs: Sequence[tuple[Reported, Listed | None]]) -> bool:
        if any(listed is None for _, listed in pairs):
            return False
        known = self.ledger.files([row.path for row, _ in pairs]) if self.ledger else {}
        return all(listed and self._is_the_same(row, listed, known.get(row.path)) for row, listed in pairs)

    def _is_the_same(self, row: Reported, listed: Listed, known: KnownFile | None) -> bool:
        if row.size_bytes is not None and row.size_bytes != listed.size_bytes:
            return False
        if known is None or known.sha256 != row.sha256 or known.mtime_ns is None:
            if row.sha256:
                return self._hash(row.path) == row.sha256
            return row.size_bytes is not None and listed.mtime_ns < self.started_ns
        if (known.size_bytes, known.mtime_ns) != (listed.size_bytes, listed.mtime_ns):
            return False
        is_touched = known.ctime_ns not in (None, listed.ctime_ns)
        if row.sha256 and (is_touched or is_racy(known.mtime_ns, known.read_ns)):
            return self._hash(row.path) == row.sha256
        return not is_touched

    def _hash(self, path: str) -> str:
        if is_store_url(path):
            return stored_digest(path)
        return member_digest(self.archives, path) if is_member(path) else self.hashed(path)

    def _holds_own(self, entry: StudyEntry) -> bool:
        """Whether it holds the report's or the ledger's directory: they would go with it."""
        real = self.ownership.real_dirs.get(entry.study_no)
        return real is None or any(real in upwards(each) for each in self.own)


def by_study(cells: Iterator[list[Any]]) -> Iterator[tuple[int, Iterator[Reported]]]:
    """The report's rows, with `CELLS`, study by study."""
    for study_no, rows in groupby(cells, key=itemgetter(0)):
        yield study_no, (Reported(unescape(path), size, sha256) for _, path, size, sha256 in rows)


def _pairs(
    reported: Iterator[Reported], walk: Iterator[Listed | Unwalked]
) -> Iterator[tuple[Reported, Listed | None]]:
    """Each row of the report, and what is there of it now: of a member, its archive, in its own size."""
    archive: Listed | None = None
    for row in reported:
        if is_member(row.path):
            is_its = archive is not None and archive.path == split_member(row.path)[0]
            yield row, replace(archive, size_bytes=row.size_bytes or 0) if archive and is_its else None
            continue
        found = next(walk, None)
        archive = found if isinstance(found, Listed) and found.path == row.path else None
        yield row, archive


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
