"""The directories that a run has listed, and which of them have changed since: files came, or went."""

# Millions of directories, whose paths are bytes as in scan.py:
# ruff: noqa: PTH116

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final

from tasks.core.words import counted

_RECORD: Final = struct.Struct("<qqI")  # study_no, its times, the length of the path that follows
_IN_MEMORY: Final = 1024 * 1024  # bytes; what is more is on disk: there may be millions of directories
_AT_ONCE: Final = 4096
_THREADS: Final = 8  # that wait for a file server
_STUDIES_NAMED: Final = 20

_NOT_KEPT: Final = "whether directories changed after being listed is not known: the disk was full"

_Noted = tuple[int, int, bytes]  # study_no, times, path


@dataclass(slots=True)
class _Changed:
    """How many directories have, of how many studies, and which these are, as far as they are named."""

    directories: int = 0
    studies: int = 0
    study_nos: list[int] | None = None
    last: int = 0

    def add(self, study_no: int) -> None:
        self.directories += 1
        if study_no == self.last:  # those of one study come together
            return
        self.last = study_no
        self.studies += 1
        if self.studies <= _STUDIES_NAMED:
            self.study_nos = [*(self.study_nos or []), study_no]

    def sentence(self) -> str:
        named = ", ".join(str(study_no) for study_no in self.study_nos or [])
        more = self.studies - _STUDIES_NAMED
        return (
            f"{counted(self.directories, 'directory')} changed after being listed, of study {named}"
            f"{f' and {more:,} more' if more > 0 else ''}: what came or went since is not in this report. "
            "Run the same command again"
        )


class ListedDirectories:
    """Each directory's modification and change time from before it was listed. Not thread-safe.

    A directory of the run's own (`own`: report and ledger, which may lie in a study) is left out. Kept in a
    file without a name in `home`.
    """

    def __init__(self, home: Path, own: frozenset[tuple[int, int]] = frozenset()) -> None:
        self._own = own
        self._file = SpooledTemporaryFile(_IN_MEMORY, dir=str(home))  # noqa: SIM115 - until `close`
        self._is_kept = True

    def note(self, study_no: int, path: bytes, found: os.stat_result) -> None:
        """A directory that is listed next, as it was before that."""
        if not self._is_kept or (found.st_dev, found.st_ino) in self._own:
            return
        try:
            self._file.write(_RECORD.pack(study_no, _times(found), len(path)) + path)
        except OSError:  # the disk is full: the run goes on without
            self._is_kept = False

    def problems(self) -> list[str]:
        """What to say of those that have changed; looks at each once more."""
        changed = _Changed()
        try:
            for study_no in self._changed() if self._is_kept else ():
                changed.add(study_no)
        except OSError:
            self._is_kept = False
        sentences = [changed.sentence()] if changed.directories else []
        return sentences if self._is_kept else [*sentences, _NOT_KEPT]

    def close(self) -> None:
        """Nothing of it stays."""
        self._file.close()

    def _changed(self) -> Iterator[int]:
        """The study_no of each directory that has."""
        self._file.seek(0)
        noted = self._noted()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="directories") as pool:
            while page := list(islice(noted, _AT_ONCE)):
                for (study_no, _, _), is_same in zip(page, pool.map(_is_same, page), strict=True):
                    if not is_same:
                        yield study_no

    def _noted(self) -> Iterator[_Noted]:
        while head := self._file.read(_RECORD.size):
            study_no, times, length = _RECORD.unpack(head)
            yield study_no, times, self._file.read(length)


def own_directories(*paths: Path) -> frozenset[tuple[int, int]]:
    """Device and inode of those that are there."""
    found = set()
    for path in paths:
        try:
            its = path.stat()
        except OSError:
            continue
        found.add((its.st_dev, its.st_ino))
    return frozenset(found)


def _is_same(noted: _Noted) -> bool:
    _, times, path = noted
    try:
        return _times(os.stat(path)) == times
    except OSError:  # it is gone, or nobody may enter what holds it any more
        return False


def _times(found: os.stat_result) -> int:
    """Both in one number: file systems have times that no integer of a fixed size holds."""
    return hash((found.st_mtime_ns, found.st_ctime_ns))
