"""studies.csv: what became of each study, line by line as it becomes known."""

import codecs
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from tasks.core.completeness import StudyResult
from tasks.core.escape import escape, unescape
from tasks.core.models import StudyEntry

STUDY_COLUMNS: Final = (
    "study_no",
    "study_dir",
    "label",
    "study_instance_uid",
    "priority",
    "files",
    "bytes",
    "stored",
    "failed",
    "expected",
    "expected_bytes",
    "complete",
    "why",
    "seen_study_instance_uids",
    "modalities",
    "registered",
    "confirmed",
    "safe_to_delete",
    "overlaps",
)


class StudiesCsv:
    """Our columns, then the manifest's unknown ones."""

    def __init__(self, file: IO[bytes], carried: Iterable[str]) -> None:
        """`carried`: the unknown columns' names, each once."""
        self._carried = list(carried)
        self._rows = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        self._rows.writerow([*STUDY_COLUMNS, *_free_names(self._carried)])

    def add(self, study: StudyResult) -> None:
        """The next one."""
        extra = dict(study.extra)
        self._rows.writerow([*_cells(study), *(escape(extra.get(name, "")) for name in self._carried)])

    def add_again(self, study: "WrittenStudy") -> None:
        """One that was read."""
        self._rows.writerow([*(study.cells[name] for name in STUDY_COLUMNS), *study.carried])


@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """A row of studies.csv as it stands there: escaped. What an earlier version did not write is empty."""

    cells: dict[str, str]  # by STUDY_COLUMNS
    carried: list[str]

    def entry(self) -> StudyEntry:
        """What the manifest said of it, but for the unknown columns."""
        cells = self.cells
        return StudyEntry(
            int(cells["study_no"]),
            unescape(cells["study_dir"]),
            unescape(cells["study_instance_uid"]),
            int(cells["expected"]) if cells["expected"] else None,
            int(cells["priority"] or 0),
            unescape(cells["label"]),
            expected_bytes=int(cells["expected_bytes"]) if cells["expected_bytes"] else None,
        )


@dataclass(frozen=True, slots=True)
class WrittenStudies:
    """studies.csv as it was written. `carried`: the names of the manifest's unknown columns."""

    carried: list[str]
    rows: Iterator[WrittenStudy]


def read_studies(lines: Iterator[list[str]]) -> WrittenStudies:
    """Of the lines of a studies.csv, with its header. Raises ValueError for what is none."""
    header = next(lines, [])
    last = header.index(STUDY_COLUMNS[-1]) + 1  # what follows is the manifest's
    return WrittenStudies([unescape(name) for name in header[last:]], _studies(header[:last], lines, last))


def _studies(names: list[str], lines: Iterator[list[str]], last: int) -> Iterator[WrittenStudy]:
    for line in lines:
        cells = dict(zip(names, line[:last], strict=True))
        yield WrittenStudy({name: cells.get(name, "") for name in STUDY_COLUMNS}, line[last:])


def _free_names(names: Iterable[str]) -> list[str]:
    """The unknown columns' names, with `manifest_` before one that is in use."""
    used = list(STUDY_COLUMNS)
    for name in names:
        free = name
        while free in used:
            free = f"manifest_{free}"
        used.append(free)
    return [escape(name) for name in used[len(STUDY_COLUMNS) :]]


def _cells(study: StudyResult) -> list[Any]:
    return [
        study.study_no,
        escape(study.study_dir),
        escape(study.label),
        escape(study.study_instance_uid),
        study.priority,
        study.files,
        study.bytes,
        study.stored,
        study.failed,
        study.expected,
        study.expected_bytes,
        study.complete,
        study.why,
        study.seen_study_instance_uids,
        study.modalities,
        "",  # registered, confirmed and safe_to_delete: nobody has verified it yet
        "",
        "",
        study.overlaps,
    ]
