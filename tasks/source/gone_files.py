"""Files that an earlier run left without storing them, and that are gone now: a row each, in path order."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tasks.core.member_paths import is_member, split_member
from tasks.core.models import Listed, Reason, Status, Unwalked
from tasks.core.store_urls import is_store_url
from tasks.source.scan import Ownership
from tasks.source.stores import is_in_store


def with_gone(
    rows: Iterator[Listed | Unwalked],
    left: Iterable[tuple[str, bool]],
    study_no: int,
    ownership: Ownership,
) -> Iterator[Listed | Unwalked]:
    """The rows of a study's walk, and one for each path in `left` that is gone: missing, not_found.

    `left`: paths under the study's directory in bytewise order, each with whether it surely was a file. What
    lies in a directory that was not walked is not known to be gone, and that directory has its row: so has a
    study directory that is not there itself, as when its share is not mounted.
    """
    ahead = _Ahead(left, study_no, ownership)
    added, last_no = 0, 0
    for row in rows:
        for path in ahead.gone_before(row):
            added += 1
            yield _gone(study_no, row.file_no + added - 1, path)
        last_no = row.file_no
        yield replace(row, file_no=row.file_no + added) if added else row
    for path in ahead.gone_before(None):
        added += 1
        yield _gone(study_no, last_no + added, path)


def _gone(study_no: int, file_no: int, path: str) -> Unwalked:
    return Unwalked(study_no, file_no, path, Status.MISSING, Reason.NOT_FOUND, is_file=True)


class _Ahead:
    """The paths that were left, as far as the walk has not come to them."""

    def __init__(self, left: Iterable[tuple[str, bool]], study_no: int, ownership: Ownership) -> None:
        self._left = iter(left)
        self._next = next(self._left, None)
        self._study_no = study_no
        self._ownership = ownership
        self._not_walked: list[bytes] = []

    def gone_before(self, row: Listed | Unwalked | None) -> Iterator[str]:
        """Those before this row of the walk, or all, that are not there; the row's own is not among them."""
        if self._next is None:
            return
        until = None if row is None else os.fsencode(row.path)
        while self._next is not None and (until is None or os.fsencode(self._next[0]) <= until):
            path, was_read = self._next
            self._next = next(self._left, None)
            if os.fsencode(path) != until and self._is_any_gone(path, was_read):
                yield path
        if isinstance(row, Unwalked):
            self._not_walked.append(os.fsencode(row.path) + b"/")

    def _is_any_gone(self, path: str, was_read: bool) -> bool:
        if is_store_url(path):
            return is_in_store(path) is False
        is_gone = self._is_member_gone if is_member(path) else self._is_gone
        return is_gone(os.fsencode(path), was_read)

    def _is_gone(self, path: bytes, was_read: bool) -> bool:
        real = os.path.realpath(path)
        if path.startswith(tuple(self._not_walked)) or real in self._ownership.owners:
            return False
        if self._ownership.owner_of(real) not in (None, self._study_no):
            return False
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return True
        if stat.S_ISDIR(mode):
            return was_read  # else it may be a directory that could not be listed, and now can
        return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))  # another row has it, or it has come since

    def _is_member_gone(self, path: bytes, was_read: bool) -> bool:
        """With its archive, or out of it; what is in an archive that is not read now is not known to be."""
        archive = os.fsencode(split_member(os.fsdecode(path))[0])
        if not os.path.isfile(archive):  # noqa: PTH113 - a path of bytes
            return self._is_gone(archive, was_read)
        archives = self._ownership.archives
        return archives is not None and archives.has(os.fsdecode(path)) is False
