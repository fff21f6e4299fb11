"""Directories for their owner alone; those that a run which attempted nothing has made are removed again."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryFile

from tasks.core.errors import UsageError

log = logging.getLogger("dicom_ingest")


def make_private(report_dir: Path) -> list[Path]:
    """A report that can't be written is known before anything is sent. Gives the directories that it made."""
    made: list[Path] = []
    try:
        made = make_directories(report_dir)
        with TemporaryFile(dir=report_dir):
            mode = report_dir.stat().st_mode
    except OSError as error:
        remove_empty(made)
        raise UsageError(
            f"The report directory can't be written: {error.strerror}. Nothing was sent. Name another "
            "--report-dir."
        ) from None
    if mode & 0o077:
        log.warning(
            "The report directory is open to other users of this machine: chmod 700 keeps it private."
        )
    return made


def make_directories(directory: Path) -> list[Path]:
    """Makes what is missing of a path, with mode 0700; gives what it made, the outermost first.

    Raises OSError; nothing that it made is left then.
    """
    made: list[Path] = []
    try:
        for each in reversed(_missing(directory)):
            made += _make(each)
    except OSError:
        remove_empty(made)
        raise
    return made


def _missing(directory: Path) -> list[Path]:
    """What is not there, or is no directory, the innermost first."""
    upwards = (directory, *directory.parents)
    return list(takewhile(lambda each: not each.is_dir(), upwards))


def _make(directory: Path) -> list[Path]:
    """The directory, if it was made here; nothing when another process was first."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise
        return []
    return [directory]


def remove_empty(directories: Sequence[Path]) -> None:
    """Removes the directories, the last first; one that is not empty stays, and all that hold it."""
    with suppress(OSError):
        for directory in reversed(directories):
            directory.rmdir()
