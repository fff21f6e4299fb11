"""A run's own files, which are no part of what it sends: its ledger, and its report directory as a tree.

They are never opened by whoever reads the archive. Locks on a SQLite file are the process's, and go when the
process closes any descriptor of that file (POSIX): after that another process, one that only looked at the
ledger, may remove the log which has the newest rows. They are known by their paths and by device and inode:
an archive may show them by a second mount, and on some file systems an inode has no lasting number.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tasks.core.errors import UsageError

COMPANIONS: Final = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a ledger; they come and go

_Mark: TypeAlias = bytes | tuple[int, int]  # of a directory or file: its real path; its device and inode


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """What a walk leaves out."""

    directories: frozenset[_Mark] = frozenset()  # the report directories
    ledger_directory: frozenset[_Mark] = frozenset()
    ledger_names: frozenset[bytes] = frozenset()  # in that directory: the ledger, and its companions
    ledger: frozenset[_Mark] = frozenset()

    def names_in(self, real: bytes, status: os.stat_result | None) -> Collection[bytes] | None:
        """The names of a directory that are left out; None when all of it is. `status`: if it is known."""
        marks: tuple[_Mark, ...] = (real,) if status is None else (real, _identity(status))
        if not self.directories.isdisjoint(marks):
            return None
        return () if self.ledger_directory.isdisjoint(marks) else self.ledger_names

    def is_ledger(self, status: os.stat_result) -> bool:
        """Whether this is the ledger, by whatever name."""
        return _identity(status) in self.ledger

    def has(self, real: bytes) -> bool:
        """Whether a real path, as a link's target is one, belongs to them."""
        directory, name = os.path.split(real)
        if name in self.ledger_names and not self.ledger_directory.isdisjoint(_marks(directory)):
            return True
        return any(not self.directories.isdisjoint(_marks(each)) for each in upwards(real))


NONE_OWN: Final = OwnFiles()


def own_files(report_dirs: Iterable[Path], ledger: Path | None) -> OwnFiles:
    """Those of a run with these report directories and this ledger, if that is a file; they are there."""
    directories = frozenset(mark for each in report_dirs for mark in _marks_of(each))
    if ledger is None:
        return OwnFiles(directories)
    name = os.fsencode(ledger.name)
    names = frozenset({name, *(name + os.fsencode(companion) for companion in COMPANIONS)})
    return OwnFiles(directories, _marks_of(ledger.parent), names, _marks_of(ledger))


def require_none_in(real_dirs: Mapping[int, bytes], report_dirs: Iterable[Path]) -> None:
    """UsageError when a study directory, by its study_no, is a report directory of the run or lies in one."""
    ours = {os.path.realpath(os.fsencode(each)) for each in report_dirs}
    for study_no, real in real_dirs.items():
        if not ours.isdisjoint(upwards(real)):
            raise UsageError(
                f"The directory of study {study_no} is the report directory, or lies in it: what is there is "
                "the run's own, and is not sent. Nothing was sent. Name another --report-dir, or leave that "
                "study out."
            )


def upwards(real: bytes) -> Iterator[bytes]:
    """A real path, then each directory that holds it, up to `/`."""
    while True:
        yield real
        parent = os.path.dirname(real)  # noqa: PTH120 - pathlib has no paths of bytes
        if parent == real:
            return
        real = parent


def _marks_of(path: Path) -> frozenset[_Mark]:
    return frozenset(_marks(os.path.realpath(os.fsencode(path))))


def _marks(real: bytes) -> tuple[_Mark, ...]:
    try:
        return real, _identity(os.stat(real))  # noqa: PTH116 - pathlib has no paths of bytes
    except OSError:
        return (real,)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
