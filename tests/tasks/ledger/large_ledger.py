"""Ledgers of any size, made by a few statements: what a run left that sent so many files.

Every 50th file has the SOP Instance UID and the bytes of another, every 100th its UID and other bytes.
"""

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tasks.core.escape import escape
from tasks.ledger.database import connect, prepare
from tests.tasks.ledger.sample_rows import Where

RUN_ID = "large"
STUDY_FILES = 50

_STATUS = "CASE WHEN i % 50 = 0 THEN 'duplicate' WHEN i % 100 = 1 THEN 'conflict' ELSE 'uploaded' END"
_IS_STORED = "NOT (i % 50 = 0 OR i % 100 = 1)"
_STUDY = f"((i - 1) / {STUDY_FILES} + 1)"
_KEY = "'uploads/2026-01-01/00000000-0000-4000-8000-' || i || '.dcm'"


def fill(where: Where, files: int, report_dir: Path) -> None:
    """Makes the ledger of a run that has ended, into this report directory. `files` is a multiple of 50."""
    engine = connect(where)
    prepare(engine)
    with engine.execution_options(writes=True).begin() as db:
        for statement in _statements(files, escape(str(report_dir))):
            db.exec_driver_sql(statement.replace("%", "%%") if _is_postgresql(engine) else statement)
        if _is_postgresql(engine):
            db.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('file', 'file_id'), {files})")
    engine.dispose()


def _is_postgresql(engine: sa.Engine) -> bool:
    return engine.dialect.name == "postgresql"


def _statements(files: int, report_dir: str) -> Iterator[str]:
    owner = f"(CAST(i AS BIGINT) * 7919 % {files} - CAST(i AS BIGINT) * 7919 % {files} % 50 + 7)"
    of = f"CASE WHEN {_IS_STORED} THEN i ELSE {owner} END"  # the number in its UID
    same = f"CASE WHEN i % 50 = 0 THEN {owner} ELSE i END"  # the number in its SHA-256
    sha256, uid = f"'{'ab' * 27}' || ({same})", f"'1.2.840.113619.2.55.3.2831868886.' || ({of})"
    sent = f"'{'cd' * 16}', 1, 200, 1000, 2000"

    def insert(into: str, values: str, where: str = "true", rows: int = files) -> str:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        return f"{numbers} INSERT INTO {into} SELECT {values} FROM n WHERE {where}"

    yield insert(
        "run (run_id, campaign, started_ns, heartbeat_s, report_dir)",
        f"'{RUN_ID}', 'default', 1, 0, '{report_dir}'",
        rows=1,
    )
    yield insert(
        "study (run_id, study_no, study_dir, study_instance_uid, priority, label, extra, scanned)",
        f"'{RUN_ID}', i, '/archive/' || i, '', 0, '', '[]', true",
        rows=files // STUDY_FILES,
    )
    yield insert(
        "file (file_id, campaign, path, size_bytes, mtime_ns, status, reason, key, sop_instance_uid,"
        " study_instance_uid, series_instance_uid, sop_class_uid, transfer_syntax_uid, sha256, md5, etag,"
        " attempts, http_status, started_ns, finished_ns, run_id, modality)",
        f"i, 'default', '/archive/' || {_STUDY} || '/1.2.840.113619.2.55.3.' || i || '.dcm', 526336, 1,"
        f" {_STATUS}, '', CASE WHEN {_IS_STORED} THEN {_KEY} ELSE '' END, {uid}, '1.2.3.' || {_STUDY},"
        f" '1.2.3.4.' || {_STUDY}, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', {sha256},"
        f" '{'cd' * 16}', {sent}, '{RUN_ID}', 'CT'",
    )
    yield insert(
        "listing (run_id, study_no, file_no, file_id, batch_no, settled)",
        f"'{RUN_ID}', {_STUDY}, (i - 1) % {STUDY_FILES} + 1, i, i / 5000 + 1, true",
    )
    yield insert(
        "instance (campaign, sop_instance_uid, file_id, run_id, sha256, key, etag, attempts, http_status,"
        " started_ns, finished_ns)",
        f"'default', {uid}, i, '{RUN_ID}', {sha256}, {_KEY}, {sent}",
        _IS_STORED,
    )
    yield insert(
        "issued_key (campaign, key, file_id, run_id, issued_ns, sop_instance_uid)",
        f"'default', {_KEY}, i, '{RUN_ID}', 1, {uid}",
        _IS_STORED,
    )
