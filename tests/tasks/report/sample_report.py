"""Rows of a report as the ledger gives them, written and looked at."""

import csv
import io
import stat
from pathlib import Path
from typing import Any

from tasks.core.escape import escape
from tasks.core.models import RunFacts, StudyEntry, Summary
from tasks.core.report_columns import ReportRow
from tasks.report.directory import write_report

STUDY = "/archive/Müller Ä"
STARTED_NS = 1_700_000_000_123_456_789
UPLOADED: dict[str, Any] = {
    "study_no": 1,
    "file_no": 1,
    "study_dir": STUDY,
    "path": f"{STUDY}/IM0001",
    "status": "uploaded",
    "reason": "",
    "key": "uploads/0001.dcm",
    "sop_instance_uid": "1.2.840.1",
    "study_instance_uid": "1.2",
    "series_instance_uid": "1.10",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    "size_bytes": 1000,
    "sha256": "0" * 63 + "1",
    "md5": "1e10" * 8,
    "etag": '"1e101e10"',
    "attempts": 1,
    "superseded_keys": "",
    "http_status": 200,
    "started_at": STARTED_NS,
    "finished_at": STARTED_NS + 250_000_000,
    "duration_s": None,
    "run_id": "run-1",
    "crc64nvme": "+e1e10e1e10=",
    "detail": "",
    "same_uid_path": "",
    "modality": "CT",
    "proof": "etag",
    "file_id": 1,
    "decision": "",
    "objects_left": 0,
}
UNSENT: dict[str, Any] = UPLOADED | {
    **dict.fromkeys(("sop_instance_uid", "study_instance_uid", "series_instance_uid", "sop_class_uid"), ""),
    **dict.fromkeys(("transfer_syntax_uid", "key", "sha256", "md5", "etag", "run_id", "modality"), ""),
    **dict.fromkeys(("crc64nvme", "proof"), ""),
    **dict.fromkeys(("size_bytes", "http_status", "started_at", "finished_at")),
    "attempts": 0,
}


def row(base: dict[str, Any] = UPLOADED, **cells: Any) -> ReportRow:
    """A row as the ledger gives it, from paths as the operating system has them."""
    line = base | cells
    line |= {name: escape(line[name]) for name in ("study_dir", "path", "same_uid_path")}
    return ReportRow(**line)


def facts(run_id: str = "run-1", **changes: Any) -> RunFacts:
    return RunFacts(
        **{
            "run_id": run_id,
            "campaign": "default",
            "started_ns": STARTED_NS,
            "finished_ns": STARTED_NS + 2_000_000_000,
            "peak_parallel": 20,
            **changes,
        }
    )


def write(
    report_dir: Path,
    rows: list[ReportRow],
    studies: list[StudyEntry] | None = None,
    overlaps: dict[int, int] | None = None,
    run: RunFacts | None = None,
) -> Summary:
    entries = studies if studies is not None else [StudyEntry(1, STUDY)]
    return write_report(report_dir, run or facts(), entries, overlaps or {}, iter(rows)).summary


def contents(report_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in report_dir.iterdir() if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
