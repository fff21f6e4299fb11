"""Listing a study and reading its headers: ours beside pydicom's own minimal read of the same files.

Ours must stay within 1.2 times; it also finds files that were cut, which pydicom's does not.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom

from tasks.core.models import Listed, StudyEntry
from tasks.source.dicom_header import examine
from tasks.source.scan import survey, walk_study
from tests.benchmarks.archives import scratch
from tests.benchmarks.senders import rounds
from tests.benchmarks.table import Row

COUNT, ROUNDS = 10_000, 3
TAGS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"]


def rows(scale: float) -> Iterator[Row]:
    count = max(50, int(COUNT * scale))
    with scratch() as directory:
        _fill(directory, count)
        ours, theirs = float("inf"), float("inf")
        for _ in range(rounds(ROUNDS, scale)):
            ours = min(ours, _cpu_s(_read_ours, directory))
            theirs = min(theirs, _cpu_s(_read_pydicom, directory))
    figure = f"{ours / count * 1e3:.3f} ms per file"
    beside = f"pydicom {theirs / count * 1e3:.3f}"
    yield Row(f"listing and headers of {count:,} files", figure, beside, ours / theirs, "at most 1.2")


def _fill(directory: Path, count: int) -> None:
    """The header of pydicom's real CT image, before pixels of 33 KB."""
    dataset = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm")
    uid = str(dataset.SOPInstanceUID)
    file = directory / "template"
    dataset.save_as(file)
    body = file.read_bytes()
    file.unlink()
    for number in range(count):
        other = f"{uid[: len(uid) - 6]}{100000 + number % 900000:06}".encode()
        (directory / f"{number:06}.dcm").write_bytes(body.replace(uid.encode(), other))


def _read_ours(directory: Path) -> None:
    entry = StudyEntry(1, str(directory))
    for row in walk_study(entry, survey([entry])):
        assert isinstance(row, Listed)
        with open(row.path, "rb") as file:
            examine(file, row.size_bytes, "file")


def _read_pydicom(directory: Path) -> None:
    for path in sorted(os.scandir(directory), key=lambda entry: entry.name):
        pydicom.dcmread(path.path, stop_before_pixels=True, specific_tags=TAGS)


def _cpu_s(read: Callable[[Path], None], directory: Path) -> float:
    began = time.process_time()
    read(directory)
    return time.process_time() - began
