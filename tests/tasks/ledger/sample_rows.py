"""What the tests of the ledger put in, and how they look at it."""

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tasks.core.models import (
    Digests,
    Header,
    Listed,
    Outcome,
    RunFacts,
    Status,
    StudyEntry,
    Todo,
    Unwalked,
)
from tasks.core.plan import Rules
from tasks.ledger.file_requests import FileRequest
from tasks.ledger.ledger import Ledger

ENTRIES = [
    StudyEntry(1, "/archive/one"),
    StudyEntry(2, "/archive/two", "1.2.3", 5, 7, "label", (("site", "é"),), 10**15 - 1),
]
Where = str | Path  # a SQLite file, or a URL


def listed(file_no: int, path: str = "", study_no: int = 1, size: int = 10, mtime: int = 1) -> Listed:
    return Listed(study_no, file_no, path or f"/archive/one/{file_no}.dcm", size, mtime)


def enrolled(ledger: Ledger, *rows: Listed | Unwalked, rules: Rules | None = None) -> list[Todo]:
    ledger.enrol(1, rows, [], rules or Rules())
    return list(ledger.todo(1))


def uploaded(uid: str, key: str, sha256: str = "ab" * 32) -> Outcome:
    return Outcome(
        Status.UPLOADED,
        header=Header(uid, "1.2", "1.3", "1.4", "1.5", "CT"),
        digests=Digests(sha256, "cd" * 16),
        size_bytes=10,
        mtime_ns=1,
        key=key,
        etag="cd" * 16,
        attempts=1,
        http_status=200,
        started_ns=1_000,
        finished_ns=2_000,
    )


def twin(uid: str, status: Status = Status.DUPLICATE, sha256: str = "ab" * 32) -> Outcome:
    return Outcome(status, header=Header(uid), digests=Digests(sha256, "cd" * 16), size_bytes=10, mtime_ns=1)


def store(ledger: Ledger, todo: Todo, uid: str, key: str, sha256: str = "ab" * 32) -> None:
    assert ledger.claim(todo, uid).mine
    assert ledger.issue(todo, uid, key, 1)
    ledger.settle(todo, uploaded(uid, key, sha256))


def report(ledger: Ledger) -> list[dict[str, Any]]:
    return [row._asdict() for row in ledger.report_rows()]


def upgrade(db: sa.Connection, to: str) -> None:
    """As an earlier version did."""
    config = Config()
    config.set_main_option("script_location", "tasks.ledger:migrations")
    config.attributes["connection"] = db
    command.upgrade(config, to)


def facts(run_id: str) -> RunFacts:
    return RunFacts(run_id, "default", 1, 2, peak_parallel=3, parallel_course=[(0.0, 20)], problems=["x"])


def answered(ledger: Ledger, requests: Sequence[FileRequest]) -> list[Any]:
    """Of many in one commit, or two, an answer or an exception for each."""
    replies: list[SimpleQueue[Any]] = [SimpleQueue() for _ in requests]
    for request, reply in zip(requests, replies, strict=True):
        ledger.post(request, reply.put)
    return [reply.get() for reply in replies]
