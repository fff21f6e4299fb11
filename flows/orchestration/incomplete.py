"""What a run did not store, and which studies are not complete and why, for a terminal and for Prefect's UI.

Counts, study numbers, labels and closed words alone: no path of a file, no UID.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tasks.core.completeness import not_stored
from tasks.core.errors import IngestError
from tasks.core.models import Summary
from tasks.core.words import counted
from tasks.report.reader import NotComplete, read_not_complete

LINES_SHOWN: Final = 10  # on a terminal


def not_complete(summary: Summary, report_dir: Path, most: int) -> NotComplete:
    """The studies that are not complete; studies.csv is read where there are any.

    One that can't be read costs these words, never the end of a run whose report is there.
    """
    missing = summary.studies - summary.complete_studies
    if missing:
        with suppress(IngestError):
            return read_not_complete(report_dir, most)
    return NotComplete(incomplete=missing, without_image=0, first=[])


def in_words(summary: Summary, found: NotComplete) -> list[str]:
    """What was not stored, when anything was not, and how many studies are complete."""
    without = f", {found.without_image:,} without an image" if found.without_image else ""
    excepted = f", {found.with_exceptions:,} with exceptions" if found.with_exceptions else ""
    studies = counted(summary.studies, "study")
    complete = f"{summary.complete_studies:,} of {studies} complete{excepted}{without}"
    return [*filter(None, [not_stored(summary.by_status, summary.accepted)]), complete]


def lines(found: NotComplete) -> Iterator[str]:
    """The first incomplete studies, by number and label, and what keeps each from being complete."""
    for study in found.first:
        label = f" ({study['label']})" if study["label"] else ""
        yield f"  study {study['study_no']}{label}: {study['why']}"
    if more := found.incomplete - len(found.first):
        yield f"  and {more:,} more: studies.csv"
