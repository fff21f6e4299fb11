"""What Prefect's UI shows of a run: its progress while it lasts, and in the end its counts.

Counts, study numbers, labels and the report's directory alone: no path of a file, no UID. A server that does
not take an artifact costs that artifact, never the run.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.orchestration.background import running_beside
from flows.orchestration.incomplete import in_words, not_complete
from flows.orchestration.run_progress import Sampler, sentence
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.errors import IngestError
from tasks.core.models import Summary
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.report.reader import NotComplete, read_not_complete
from tasks.report.report_page import page_link

log = logging.getLogger("dicom_ingest")

_UPDATE_S: Final = 15.0  # an update is a request to the server: hundreds in an hour, whatever the files
_MOST_STUDIES: Final = 50
_STUDY_CELLS: Final = ("study_no", "label", "files", "stored", "failed", "expected", "why")


def publish_progress(
    flow: str, progress: Progress, every_s: float = _UPDATE_S
) -> AbstractContextManager[None]:
    """Keeps a progress artifact up to date until the block ends."""
    return running_beside(lambda ended: _publish(flow, progress, ended, every_s), "artifact")


def publish_summary(flow: str, summary: Summary, report_dir: Path) -> None:
    """The counts as text, and the first studies that are incomplete as a table."""
    found = not_complete(summary, report_dir, _MOST_STUDIES)
    description = "What became of the files, and where the report is."
    text = markdown(summary, found, report_dir)
    _try(lambda: create_markdown_artifact(text, f"{flow}-summary", description))
    if found.first:
        of_which = f"The first {_MOST_STUDIES} at most, by their rows in the manifest."
        _try(lambda: create_table_artifact(_cells(found), f"{flow}-incomplete-studies", of_which))


def publish_text(text: str, key: str, description: str) -> None:
    """An artifact of Markdown."""
    _try(lambda: create_markdown_artifact(text, key, description))


def publish_comparison(
    flow: str, progress: ComparisonProgress, every_s: float = _UPDATE_S
) -> AbstractContextManager[None]:
    """As `publish_progress`, of a verification."""

    def publish(ended: threading.Event) -> None:
        artifact_id = _try(lambda: create_progress_artifact(0.0, f"{flow}-progress", progress.sentence()))
        while artifact_id is not None:
            last = ended.wait(every_s)
            percent = 100.0 if last else progress.percent()
            _try(partial(update_progress_artifact, artifact_id, percent, progress.sentence()))
            if last:
                return

    return running_beside(publish, "artifact")


def markdown(summary: Summary, found: NotComplete, report_dir: Path) -> str:
    """One run for a person who looks at the UI."""
    rate = f"{summary.files_per_s:,.0f}"
    lines = [
        f"# {summary.campaign}: exit code {summary.exit_code}",
        *(f"{sentence}." for sentence in in_words(summary, found)),
        f"{counted(summary.files, 'file')} in {summary.wall_s:,.0f} s, {rate} files/s stored.",
        "",
        "| status | files |",
        "| --- | ---: |",
        *(f"| {status} | {count:,} |" for status, count in summary.by_status.items()),
        "",
        f"The report is in `{report_dir.absolute()}` on the machine that ran it, under run {summary.run_id}.",
        f"To look at, there: {page_link(report_dir)}.",
        *(f"- {problem}" for problem in summary.problems),
    ]
    return "\n".join(lines)


def incomplete_studies(report_dir: Path) -> list[dict[str, Any]]:
    """The first of them, by their numbers in the manifest; the whole list is studies.csv."""
    with suppress(IngestError):  # what can't be read costs its table, never the run
        return _cells(read_not_complete(report_dir, _MOST_STUDIES))
    return []


def _cells(found: NotComplete) -> list[dict[str, Any]]:
    return [{name: row[name] for name in _STUDY_CELLS} for row in found.first]


def _publish(flow: str, progress: Progress, ended: threading.Event, every_s: float) -> None:
    sampler = Sampler(progress)
    artifact_id = _try(
        lambda: create_progress_artifact(0.0, f"{flow}-progress", sentence(sampler.snapshot()))
    )
    while artifact_id is not None:
        last = ended.wait(every_s)
        seen = sampler.counts() if last else sampler.snapshot()
        _try(partial(update_progress_artifact, artifact_id, _percent(progress), sentence(seen)))
        if last:
            return


def _percent(progress: Progress) -> float:
    """Of what is listed; never whole while the scan goes on."""
    done = 100 * progress.files_done / (progress.files_listed or 1)
    return round(min(done, 99.0 if progress.scanning else 100.0), 1)


def _try(request: Callable[[], Any]) -> Any:
    try:
        return request()
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect's server did not take an artifact (%s)", type(error).__name__)
        return None
