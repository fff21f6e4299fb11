"""The ledger's database: where it is, how it is opened, and its errors as sentences."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tasks.core.errors import StoppedError, UsageError
from tasks.ledger.private_directories import make_directories, remove_empty
from tasks.ledger.schema import HEAD, metadata, revision

_PATIENCE: Final = 2 / 3  # of --dead-after: who is silent for longer counts as dead
_PATIENCE_S: Final = 120.0  # of who has no --dead-after: before a run, and after it
_BUSY_PAUSE_S: Final = 0.2
_PREPARE_LOCK: Final = 0x6469636F  # any number that is ours

_T = TypeVar("_T")


class BusyError(StoppedError):
    """The database can't be used now, but may be in a moment."""


def patience_s(dead_after_s: float) -> float:
    """How long a run waits for a locked database, or a restarting server."""
    return _PATIENCE * dead_after_s


def wait_for_locks(engine: sa.Engine, most_s: float) -> None:
    """SQLite itself waits no longer than this for another's lock before it says that there is one."""
    if engine.dialect.name != "sqlite":
        return

    @sa.event.listens_for(engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={int(1000 * most_s)}")


def retry_while_busy(work: Callable[[], _T], patience_s: float = _PATIENCE_S) -> _T:
    """Does the work, and again while the database is locked or its server restarts. BusyError in the end."""
    until = time.monotonic() + patience_s
    while True:
        try:
            with plain_errors():
                return work()
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(_BUSY_PAUSE_S)


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection to read by."""
    with plain_errors(), engine.connect() as db:
        yield db


def execute_many(db: sa.Connection, statement: Any, rows: list[dict[str, Any]]) -> int:
    """Executes a statement for each row, by the driver alone; returns how many rows they changed.

    SQLAlchemy looks at every value of every row, which costs more than SQLite's own work. All rows have the
    same names, and only values that the driver takes as they are.
    """
    sql, constants = _compiled(statement, db.dialect, tuple(rows[0]))
    return db.exec_driver_sql(sql, [constants | row for row in rows] if constants else rows).rowcount


@cache
def _compiled(statement: Any, dialect: sa.Dialect, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    compiled = statement.compile(dialect=dialect, column_keys=names)
    return str(compiled), {name: value for name, value in compiled.params.items() if name not in names}


def connect(url: str | Path) -> sa.Engine:
    """The database: a SQLite file by its path, created 0600 when new, or any by its SQLAlchemy URL."""
    if isinstance(url, Path):
        return _sqlite(url)
    try:
        parsed = sa.make_url(url)
        if parsed.password:
            raise UsageError("--ledger must not contain a password: it comes from PGPASSWORD or PGPASSFILE.")
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(
                drivername="postgresql+psycopg"
            )  # asyncpg, which Prefect brings, has no threads
        return sa.create_engine(parsed, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError):
        raise UsageError(
            "--ledger is neither a file path nor a SQLAlchemy URL that works here: postgresql://HOST/DB "
            "needs the extra `postgresql` (pip install 'dicom-ingest[postgresql]')."
        ) from None


def has_ledger(url: str | Path) -> bool:
    """Whether there is a database with a ledger in it; nothing is made. One that nobody can read is one."""
    if file := _sqlite_file(url):
        return _is_ledger(file)
    engine = connect(url)
    try:
        return retry_while_busy(lambda: sa.inspect(engine).has_table(revision.name))
    finally:
        engine.dispose()


def _is_ledger(path: Path) -> bool:
    """SQLite: what is no database, or can't be read now, says so itself when it is opened."""
    try:
        if not path.stat().st_size:
            return False
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
            return bool(db.execute(query, (revision.name,)).fetchone()[0])
    except OSError:
        return False
    except sqlite3.Error:
        return True


def _sqlite_file(url: str | Path) -> Path | None:
    """Where a ledger in SQLite lies; None for another database, and for a URL that is none."""
    if isinstance(url, Path):
        return url
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError:
        return None
    return Path(parsed.database) if parsed.drivername.startswith("sqlite") and parsed.database else None


def prepare(engine: sa.Engine) -> None:
    """Makes a new ledger, and brings an older one to the newest schema. UsageError for one of the future."""
    # SQLite does not wait when two make a new one at the same moment.
    retry_while_busy(lambda: _prepare(engine))


def _prepare(engine: sa.Engine) -> None:
    with engine.execution_options(writes=True).begin() as db:
        if db.dialect.name == "postgresql":  # two machines may come at once
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARE_LOCK)))
        if not sa.inspect(db).has_table(revision.name):
            metadata.create_all(db)
            revision.create(db)
            db.execute(sa.insert(revision).values(version_num=HEAD))
        elif db.scalar(sa.select(revision.c.version_num)) != HEAD:
            _upgrade(db)


def _upgrade(db: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "tasks.ledger:migrations")
    config.attributes["connection"] = db
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise UsageError(
            "The ledger was written by a newer version of dicom-ingest. Use that version, or name another "
            "--ledger."
        ) from None


def _sqlite(path: Path) -> sa.Engine:
    """WAL: readers and the writer do not wait for each other. FULL: a commit outlives a power cut."""
    made: list[Path] = []
    try:
        made = make_directories(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        remove_empty(made)
        raise UsageError(f"The ledger can't be opened: {error.strerror}. Name another --ledger.") from None
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 60, "isolation_level": None},
        paramstyle="named",  # as psycopg's: rows are dictionaries
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-32768"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


_BUSY_TEXTS: Final = (
    "database is locked",
    "deadlock detected",
    "connection refused",
    "server closed the connection",
    "terminating connection",
    "the database system is",  # starting up, shutting down, in recovery
    "connection is lost",
)
_SAFE_TEXTS: Final = (
    "disk is full",
    "no space left on device",
    "disk i/o error",
    "readonly database",
    "unable to open database file",
    "file is not a database",
    "no such table",
    "password authentication failed",
    "could not translate host name",
)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises a database error as one sentence of ours: its own text may quote rows."""
    try:
        yield
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", "")).lower()
        busy = next((busy for busy in _BUSY_TEXTS if busy in text), "")
        what = busy or next((safe for safe in _SAFE_TEXTS if safe in text), type(error).__name__)
        raise (BusyError if busy else StoppedError)(
            f"The ledger can't be used: {what}. Mend that, then run the same command again: "
            "what was stored is not sent twice."
        ) from None
