"""Which runs a ledger knows, and where their reports are: for whoever holds an audit trail against it.

It only reads, also a ledger of an earlier version, and makes nothing: neither a database nor, beside one of
SQLite that nobody has open, a file.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa

from tasks.core.escape import unescape
from tasks.ledger.database import connect, plain_errors, retry_while_busy, sqlite_file
from tasks.ledger.schema import issued_key, listing, run
from tasks.ledger.statements import NO_FILE

_Read = TypeVar("_Read")
_BEGUN: Final = (run.c.run_id, run.c.report_dir, run.c.started_ns, sa.cast(run.c.end, sa.Text).label("end"))
# Of a run that was killed before it had a row: a migration that weighs its studies.
_WITH_UNUSED_KEY: Final = sa.select(issued_key.c.run_id).where(issued_key.c.file_id == NO_FILE)


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run, and the report directory that it named."""

    run_id: str
    report_dir: Path
    started_ns: int  # 0: a shard that nobody has begun
    has_ended: bool
    serial: int = 0  # grows with each run that begins, whatever clocks say; 0: of an earlier version's ledger


@dataclass(frozen=True, slots=True)
class KnownRuns:
    """The runs of a ledger."""

    by_id: dict[str, KnownRun]
    run_ids: frozenset[str]  # of these, and of runs that came no further than to a key
    _url: str | Path

    @property
    def is_on_disk(self) -> bool:
        """SQLite: its runs are of one machine, so that a path is the same directory for all of them."""
        return sqlite_file(self._url) is not None

    def lies_in(self, report_dir: Path) -> bool:
        """Whether it goes when the directory goes."""
        file = sqlite_file(self._url)
        return file is not None and file.parent.resolve() == report_dir.resolve()

    def into(self, report_dir: Path) -> list[KnownRun]:
        """The runs into this directory, under whatever name it was given; the oldest first."""
        at = report_dir.resolve()
        same: dict[Path, bool] = {}
        for each in self.by_id.values():
            if each.report_dir not in same:
                same[each.report_dir] = each.report_dir.resolve() == at
        found = [each for each in self.by_id.values() if each.started_ns and same[each.report_dir]]
        return sorted(found, key=lambda each: (each.serial, each.started_ns))

    def into_since(self, report_dir: Path, first_run_id: str, first_ns: float) -> list[KnownRun]:
        """The runs into this directory that began no earlier than its trail, whose first run this is.

        A directory may have been removed, and made anew, since the others: unless the ledger lies in it, they
        are no runs of this trail. `first_ns`: when that run began, for one that the ledger does not know.
        """
        runs = self.into(report_dir)
        if self.lies_in(report_dir):
            return runs
        first = self.by_id.get(first_run_id)
        if first and first.serial:
            return [each for each in runs if each.serial >= first.serial]
        return [each for each in runs if each.started_ns >= first_ns]

    def has_lines(self, each: KnownRun) -> bool:
        """Whether a run cannot but have lines in its trail: it came to its end, or had a key for a file."""
        return each.has_ended or bool(reading(self._url, lambda db: _has_issued(db, each.run_id)))


def read_known_runs(url: str | Path, *, is_patient: bool = False) -> KnownRuns:
    """None known when there is no ledger. Raises IngestError when it can't be read.

    `is_patient`: waits for a database that is locked, or whose server restarts.
    """
    known = reading(url, lambda db: _known_runs(db, url), is_patient=is_patient)
    return known or KnownRuns({}, frozenset(), url)


def reading(
    url: str | Path, read: Callable[[sa.Connection], _Read], *, is_patient: bool = False
) -> _Read | None:
    """What `read` gives; None when there is no database."""
    file = sqlite_file(url)
    engine = read_only(file) if file else connect(url)
    if engine is None:
        return None

    def work() -> _Read:
        with plain_errors(), engine.connect() as db:
            return read(db.execution_options(postgresql_readonly=True))

    try:
        return retry_while_busy(work) if is_patient else work()
    finally:
        engine.dispose()


def _known_runs(db: sa.Connection, url: str | Path) -> KnownRuns | None:
    inspector = sa.inspect(db)
    if not {run.name, issued_key.name} <= set(inspector.get_table_names()):
        return None
    has_serial = any(column["name"] == run.c.serial.name for column in inspector.get_columns(run.name))
    serial = run.c.serial if has_serial else sa.literal_column("0")
    by_id = {
        row.run_id: KnownRun(
            row.run_id, Path(unescape(row.report_dir)), row.started_ns, _has_ended(row.end), row.serial
        )
        for row in db.execute(sa.select(*_BEGUN, serial.label("serial")))
    }
    run_ids = frozenset({*by_id, *db.scalars(_WITH_UNUSED_KEY)})
    return KnownRuns(by_id, run_ids, url)


def _has_ended(end: str | None) -> bool:
    return end is not None and end != "null"


def _has_issued(db: sa.Connection, run_id: str) -> bool:
    """Whether it had a key for a file: by the run's own listing, for keys have no index of runs."""
    its = sa.exists(listing.c.file_id).where(
        listing.c.run_id == run_id,
        issued_key.c.file_id == listing.c.file_id,
        issued_key.c.run_id == run_id,
    )
    return bool(db.scalar(sa.select(its)))


def read_only(path: Path) -> sa.Engine | None:
    """A SQLite file's engine that writes nothing; None when there is no file."""
    if not path.is_file():
        return None
    # As a reader of a database in WAL mode SQLite would make files beside it, and leave them there.
    is_pending = path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?{'mode=ro' if is_pending else 'immutable=1'}"
    return sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=sa.NullPool
    )
