"""studies.csv: what became of each study, line by line as it becomes known."""

import codecs
import csv
from collections.abc import Iterable
from typing import IO, Any, Final

from tasks.core.completeness import StudyResult
from tasks.core.escape import escape

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
        "",  # registered and confirmed: nobody has asked the registry yet
        "",
        study.overlaps,
    ]
