"""Study entries as the ledger keeps them: one row of `study` each."""

import os
from typing import TYPE_CHECKING, Any

from tasks.core.escape import escape, unescape
from tasks.core.models import StudyEntry

if TYPE_CHECKING:
    import sqlalchemy as sa


def entry_values(
    run_id: str, entry: StudyEntry, overlaps: int | None, real_dir: bytes | None
) -> dict[str, Any]:
    """The row of an entry that nobody has walked yet."""
    return {
        "run_id": run_id,
        "study_no": entry.study_no,
        "study_dir": escape(entry.study_dir),
        "study_instance_uid": entry.study_instance_uid,
        "expected_instances": entry.expected_instances,
        "expected_bytes": entry.expected_bytes,
        "priority": entry.priority,
        "label": entry.label,
        "extra": [list(pair) for pair in entry.extra],
        "overlaps": overlaps,
        "real_dir": None if real_dir is None else escape(os.fsdecode(real_dir)),
        "scanned": False,
    }


def kept_entry(row: "sa.Row[Any]") -> StudyEntry:
    """The entry of a row."""
    return StudyEntry(
        row.study_no,
        unescape(row.study_dir),
        row.study_instance_uid,
        row.expected_instances,
        row.priority,
        row.label,
        tuple((name, text) for name, text in row.extra),
        row.expected_bytes,
    )
