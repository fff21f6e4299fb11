"""What a terminal, and Prefect's UI, show of an ingest in the end: its counts, and where the report is.

Counts alone, and the report's directory: no key of an object, no UID.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.object_outcomes import DONE
from tasks.core.registration_rows import REGISTRATION_CSV, RegistrationSummary
from tasks.core.words import counted


def counts(summary: RegistrationSummary) -> dict[str, Any]:
    """What the flow's state, and its event, carry."""
    return {
        "run_id": summary.run_id,
        "exit_code": summary.exit_code,
        "objects": summary.objects,
        "by_status": summary.by_status,
    }


def in_words(summary: RegistrationSummary) -> str:
    """The counts in a sentence."""
    statuses = ", ".join(f"{count:,} {status}" for status, count in summary.by_status.items())
    return f"{counted(summary.objects, 'object')}: {statuses or 'none'}"


def why_failed(summary: RegistrationSummary) -> str:
    """The message of the state that a run ends in whose exit code is not 0."""
    bad = sum(count for status, count in summary.by_status.items() if status not in DONE)
    early = "" if summary.exit_code == 1 else f"stopped early (exit code {summary.exit_code}): "
    objects = counted(summary.objects, "object")
    return f"{early}{bad:,} of {objects} not registered, see {REGISTRATION_CSV}"


def lines(summary: RegistrationSummary, report_dir: Path) -> Iterator[str]:
    """For a terminal."""
    yield from summary.problems
    yield in_words(summary)
    if summary.not_seen:
        objects = counted(summary.not_seen, "object")
        yield f"not registered by earlier runs, and not seen by this one: {objects}"
    mib_per_s = summary.bytes_per_s / 1024 / 1024
    yield f"{summary.wall_s:.1f} s, {summary.objects_per_s:,.0f} objects/s, {mib_per_s:,.1f} MiB/s"
    yield f"Report: {report_dir.absolute() / REGISTRATION_CSV}"


def markdown(summary: RegistrationSummary, report_dir: Path) -> str:
    """For a person who looks at the UI."""
    rows = [f"| {status} | {count:,} |" for status, count in summary.by_status.items()]
    return "\n".join(
        [
            f"# {summary.campaign}: exit code {summary.exit_code}",
            f"{in_words(summary)}.",
            f"In {summary.wall_s:,.0f} s, {summary.objects_per_s:,.0f} objects/s registered.",
            "",
            "| status | objects |",
            "| --- | ---: |",
            *rows,
            "",
            f"The report is in `{report_dir.absolute()}` on the machine that ran it, run {summary.run_id}.",
            *(f"- {problem}" for problem in summary.problems),
        ]
    )
