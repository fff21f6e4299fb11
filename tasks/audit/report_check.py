"""Whether a report says the same as the trails: of each stored row, and of every key that was issued."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks.audit.audited import Audited
from tasks.audit.findings import Findings
from tasks.audit.key_table import KeyTable
from tasks.audit.other_trails import Origin, OtherTrails
from tasks.core.audit_chain import Event
from tasks.core.errors import UsageError
from tasks.core.models import Status, Summary
from tasks.report.directory import REPORT_CSV, SUMMARY_JSON
from tasks.report.reader import read_report, read_summary
from tasks.report.regular_file import sha256_of

_HAVE_KEYS: Final = (Status.UPLOADED, Status.ALREADY_UPLOADED)
_UNKNOWN_KEY: Final = "the trail does not know its key"
_OTHER_BYTES: Final = "the trail says that other bytes were stored"


def check_report(audited: Audited) -> None:
    """Adds each disagreement between the report's rows and the trails to what was found."""
    keys, found, trail = audited.keys, audited.found, audited.trail
    try:
        summary = read_summary(audited.report_dir)
    except UsageError as error:
        found.add_fault(f"The report was not held against the trail: {error}")
        return
    run_id = str(summary.run_id)
    if run_id not in trail.runs:
        found.add_fault(f"The trail does not know run {run_id}, whose report {REPORT_CSV} is.")
    elif trail.report_sha256.get(run_id) != _sha256_or_none(audited.report_dir / REPORT_CSV):
        found.add_fault(f"{REPORT_CSV} is not the one whose SHA-256 the trail has at the end of its run.")
    others = OtherTrails(audited.trail_dir, run_id, audited.ledger, trail.runs, keys, found)
    others.add_lost({each.run_id for each in audited.certificates.values()})
    _check_rows(audited, others)
    _check_unused(summary, keys, found)
    _check_all_reported([run_id, *others.shards], keys, found)
    if count := keys.count_unreported(trail.killed.keys() - {run_id}):
        found.add_unchecked(
            f"Runs that were killed before this report have {count:,} keys that it does not name: an earlier "
            "report may, and the trail has them."
        )


def _check_rows(audited: Audited, others: OtherTrails) -> None:
    keys, found = audited.keys, audited.found
    try:
        for row in read_report(audited.report_dir):
            for sentence in _disagreements(row, keys, others, found):
                found.add_fault(f"study {row['study_no']} file {row['file_no']}: {sentence}")
            keys.mark_reported(row["key"], *row["superseded_keys"].split(";"))
    except UsageError as error:
        found.add_fault(f"The report was not held against the trail to its end: {error}")
    except KeyError:
        found.add_fault(f"{REPORT_CSV} lacks columns that every report has.")
    for study_no, file_no in keys.unknown_duplicates():
        found.add_fault(f"study {study_no} file {file_no}: {_UNKNOWN_KEY}")


def _disagreements(
    row: dict[str, str], keys: KeyTable, others: OtherTrails, found: Findings
) -> Iterator[str]:
    if row["status"] == Status.DUPLICATE:
        yield from _disagreements_of_duplicate(row, keys)
    if row["status"] not in _HAVE_KEYS:
        return
    origin = others.origin(row["run_id"])
    found.elsewhere += origin in (Origin.ELSEWHERE, Origin.UNSEEN)
    if origin is Origin.UNSEEN:
        found.unseen += 1
        keys.add_unseen(row["key"], row["sha256"])
        return
    known = keys.get(row["key"])
    if origin is Origin.LOST:
        yield "a run into this directory stored it, and the trail does not know that run"
    elif known is None:
        yield _UNKNOWN_KEY
    elif origin is Origin.HERE and known.state != Event.STORED:
        yield f"its key is {known.state} in the trail, not stored"
    elif known.sha256 != row["sha256"]:
        yield _OTHER_BYTES


def _disagreements_of_duplicate(row: dict[str, str], keys: KeyTable) -> Iterator[str]:
    """Its key is another file's, whose row may follow, or may be of a run whose trail is not here."""
    known = keys.get(row["key"])
    if known is None:
        keys.add_pending(row)
    elif known.sha256 != row["sha256"]:
        yield _OTHER_BYTES


def _check_unused(summary: Summary, keys: KeyTable, found: Findings) -> None:
    """Nothing was sent to an unused key. Those that shards were given are in the trails of the shards."""
    unused_keys = [str(key) for key in summary.unused_keys or ()]
    for key in unused_keys:
        known = keys.get(key)
        if known and known.sha256:
            found.add_fault(
                f"A key is in unused_keys of {SUMMARY_JSON}, and the trail has what was stored there."
            )
    keys.mark_reported(*unused_keys)


def _check_all_reported(run_ids: list[str], keys: KeyTable, found: Findings) -> None:
    for run_id in run_ids:
        for state, study_no, file_no in keys.unreported(run_id):
            if state == Event.KEY_UNUSED:
                found.add_fault(
                    f"A key was handed out at the start that unused_keys of {SUMMARY_JSON} does not name."
                )
            else:
                found.add_fault(
                    f"study {study_no} file {file_no}: a key was issued for it that the report does not name"
                )


def _sha256_or_none(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
