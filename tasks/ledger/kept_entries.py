"""Study entries as the ledger keeps them: one row of `study` each."""

import os
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.core.models import StudyEntry
from tasks.ledger.database import fetch
from tasks.ledger.schema import study

_AT_ONCE: Final = 1000  # rows read


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


class KeptEntries:
    """The entries of a run in the manifest's order, read page by page whenever they are gone through."""

    def __init__(self, engine: sa.Engine, run_id: str) -> None:
        self._engine = engine
        self._of_this_run = study.c.run_id == run_id

    def __iter__(self) -> Iterator[StudyEntry]:
        query = sa.select(study).where(self._of_this_run).order_by(study.c.study_no).limit(_AT_ONCE)
        after = 0
        while page := fetch(self._engine, query.where(study.c.study_no > after)):
            yield from map(_kept_entry, page)
            after = page[-1].study_no


def _kept_entry(row: "sa.Row[Any]") -> StudyEntry:
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
