"""What a ledger has of files and SOP Instance UIDs, for somebody who plans a run: nothing is made or changed.

Unlike a run it has no part in the ledger. What is claimed and not stored counts as free: by the time that the
planned run comes, its claimant has settled it or is dead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.core.models import StoredContent
from tasks.core.plan import Known
from tasks.ledger.database import connect, fetch, has_ledger, retry_while_busy, sqlite_file
from tasks.ledger.files import IS_LOST, STORED_CONTENT, stored_content
from tasks.ledger.known_runs import read_only
from tasks.ledger.left_files import LeftFile, LeftFiles
from tasks.ledger.schema import HEAD, file, instance, other_content, revision, run, stored_file
from tasks.ledger.statements import Scope, known_select

_OF_A_FILE: Final = (
    "status",
    "last_status",
    "sop_instance_uid",
    "study_instance_uid",
    "sha256",
    "modality",
    "transfer_syntax_uid",
)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is known of a path."""

    known: Known
    stored: StoredContent | None
    status: str  # of its row as it is
    last_status: str  # of what is gone
    sop_instance_uid: str
    study_instance_uid: str
    sha256: str
    modality: str
    transfer_syntax_uid: str


class Holder(NamedTuple):
    """The file whose bytes are stored under a SOP Instance UID."""

    path: str
    sha256: str
    is_lost: bool = False
    stored_uid: str = ""  # of what is stored of its path by now


class EarlierPace(NamedTuple):
    """How fast the campaign's newest run that sent something was."""

    files_per_s: float
    bytes_per_s: float
    slots: int


class KnownFiles:
    """A campaign's part of a ledger that is only read; of one that is not there nothing is known."""

    def __init__(self, engine: sa.Engine | None, campaign: str) -> None:
        self._engine = engine
        self._campaign = campaign
        self._scope = Scope(engine.dialect.name if engine else "sqlite", campaign, run_id="", dead_after_s=0)
        left = LeftFiles(engine, self._scope) if engine else None
        self._left = left if left and left.are_any() else None
        self._paths = _paths_select(self._scope)

    def of(self, paths: Sequence[str]) -> dict[str, KnownFile]:
        """Those of some paths that are known."""
        if not self._engine or not paths:
            return {}
        escaped = [escape(path) for path in paths]
        found = {}
        for row in fetch(self._engine, self._paths, self._scope.named(escaped)):
            path, known, rest = row[0], Known(*row[1:7]), row[7:]
            stored, of_file = stored_content(*rest[:6]), rest[6:]
            found[unescape(path)] = KnownFile(known, stored, *of_file)
        return found

    def holders(self, uids: Sequence[str]) -> dict[str, Holder]:
        """Whose bytes are stored under these SOP Instance UIDs."""
        rows = self._held(instance, uids)
        return {row.sop_instance_uid: _holder(row) for row in rows}

    def other_holders(self, uids: Sequence[str]) -> dict[tuple[str, str], Holder]:
        """The same for other bytes that are stored beside them, by their SHA-256, too."""
        rows = self._held(other_content, uids)
        return {(row.sop_instance_uid, row.sha256): _holder(row) for row in rows}

    def left_under(self, directory: str) -> Iterator[LeftFile]:
        """What an earlier run left without storing it."""
        if self._left:
            yield from self._left.under(directory)

    def pace(self) -> EarlierPace | None:
        """Of the newest run that ended and sent enough to say something; None when there is none."""
        if not self._engine:
            return None
        query = (
            sa.select(run.c.started_ns, run.c.end, run.c.progress)
            .where(run.c.campaign == self._campaign, run.c.end.is_not(None))
            .order_by(run.c.serial.desc())
            .limit(20)
        )
        return next(filter(None, map(_pace, fetch(self._engine, query))), None)

    def _held(self, table: sa.Table, uids: Sequence[str]) -> "Sequence[sa.Row[Any]]":
        if not self._engine or not uids:
            return []
        columns = (table.c.sop_instance_uid, table.c.sha256, table.c.key, table.c.lost_key, file.c.path)
        stored_uid = sa.func.coalesce(STORED_CONTENT[2], "").label("stored_uid")
        query = (
            sa.select(*columns, stored_uid)
            .join(file, file.c.file_id == table.c.file_id)
            .outerjoin(stored_file, stored_file.c.file_id == file.c.file_id)
            .where(table.c.campaign == self._campaign, table.c.sop_instance_uid.in_(uids), table.c.key != "")
        )
        return fetch(self._engine, query)


@contextmanager
def known_files(url: str | Path, campaign: str) -> Iterator[KnownFiles]:
    """The ledger's, or nobody's when there is none, or none of this version: see `is_of_this_version`."""
    engine = _reading(url) if has_ledger(url) and is_of_this_version(url) else None
    try:
        yield KnownFiles(engine, campaign)
    finally:
        if engine:
            engine.dispose()


def is_of_this_version(url: str | Path) -> bool:
    """Whether its tables are those that this version reads; the next run brings older ones there."""
    engine = _reading(url)
    if engine is None:
        return True
    try:
        return retry_while_busy(lambda: _revision(engine)) in (HEAD, "")
    finally:
        engine.dispose()


def _revision(engine: sa.Engine) -> str:
    """Empty where there is no ledger yet."""
    with engine.connect() as db:
        if not sa.inspect(db).has_table(revision.name):
            return ""
        return str(db.scalar(sa.select(revision.c.version_num)))


def _reading(url: str | Path) -> sa.Engine | None:
    path = sqlite_file(url)
    return read_only(path) if path else connect(url)


def _paths_select(scope: Scope) -> "sa.Select[Any]":
    """`known_select`, and besides what is stored of the path and what its row says."""
    of_file = (file.c[name] for name in _OF_A_FILE)
    return (
        known_select(scope)
        .add_columns(*STORED_CONTENT, IS_LOST, *of_file)
        .select_from(file)
        .outerjoin(stored_file, stored_file.c.file_id == file.c.file_id)
    )


def _holder(row: "sa.Row[Any]") -> Holder:
    return Holder(unescape(row.path), row.sha256, row.key == row.lost_key, row.stored_uid)


_LEAST_S: Final = 5.0  # of a run that says how fast the next one will be
_LEAST_FILES: Final = 100


def _pace(row: "sa.Row[Any]") -> EarlierPace | None:
    end, progress = row.end or {}, row.progress or {}
    files, size_bytes = progress.get("files_stored", 0), progress.get("bytes_stored", 0)
    took_s = (end.get("finished_ns", 0) - row.started_ns) / 1e9
    slots = end.get("peak_parallel", 0)
    if took_s < _LEAST_S or files < _LEAST_FILES or not slots:
        return None
    return EarlierPace(files / took_s, size_bytes / took_s, slots)
