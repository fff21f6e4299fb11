"""The ledger's database: where it is, how it is opened, and its errors as sentences."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from tasks.core.errors import RowRefusedError, StoppedError, UsageError
from tasks.ledger.ledger_servers import PSYCOPG, with_driver, without_plain_passwords
from tasks.ledger.private_directories import make_directories, remove_empty
from tasks.ledger.private_files import require_ours
from tasks.ledger.schema import HEAD, metadata, revision
from tasks.source.own_files import COMPANIONS

_PATIENCE: Final = 2 / 3  # of --dead-after: who is silent for longer counts as dead
_PATIENCE_S: Final = 120.0  # of who has no --dead-after: before a run, and after it
_BUSY_PAUSE_S: Final = 0.2
NEWER_LEDGER: Final = (
    "The ledger was written by a newer version of dicom-ingest. Use that version, or name another --ledger."
)
_PREPARE_LOCK: Final = 0x6469636F  # any number that is ours

# Of PostgreSQL's planner; and its compiler, which such short statements would wait for.
_WALKS: Final = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")

_T = TypeVar("_T")
_creating = threading.Lock()


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


def fetch(engine: sa.Engine, query: Any, bound: Mapping[str, Any] | None = None) -> "Sequence[sa.Row[Any]]":
    """All rows of a query, with the patience that writes have: what gives many asks page by page."""

    def rows() -> "Sequence[sa.Row[Any]]":
        with engine.connect() as db:
            return db.execute(query, bound).all()

    return retry_while_busy(rows)


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
    if file := sqlite_file(url):
        return _sqlite(file)
    try:
        parsed = sa.make_url(str(url))
        if parsed.password:
            raise UsageError("--ledger must not contain a password: it comes from PGPASSWORD or PGPASSFILE.")
        parsed = without_plain_passwords(with_driver(parsed), os.environ)
        ours: dict[str, Any] = {}
        if parsed.get_backend_name() == "postgresql":
            ours["isolation_level"] = (
                "READ COMMITTED"  # whatever the server's default is: a claim counts on it
            )
        if parsed.drivername == PSYCOPG:
            ours["connect_args"] = _NOTHING_PREPARED
        engine = sa.create_engine(parsed, pool_pre_ping=True, **ours)
    except (SQLAlchemyError, ImportError):
        raise UsageError(
            "--ledger is neither a file path nor a SQLAlchemy URL that works here: postgresql://HOST/DB "
            "needs the extra `postgresql` (pip install 'dicom-ingest[postgresql]')."
        ) from None
    if engine.dialect.name == "postgresql":
        _look_up_by_index(engine)
    return engine


def _look_up_by_index(engine: sa.Engine) -> None:
    """Every statement looks up few rows of tables that grow to tens of millions, and are new to the planner.

    It has no statistics of a fresh table, and keeps plans that it made while one was small: so it may not
    choose to go through tables, nor to collect and sort what a page of rows needs only the start of. Said in
    each transaction, for a pooler between gives each to another connection.
    """
    settings = ", ".join(f"set_config('{name}', 'off', true)" for name in _WALKS)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT {settings}", None, {"stream_results": False}).close()


def has_ledger(url: str | Path) -> bool:
    """Whether there is a database with a ledger in it; nothing is made. One that nobody can read is one."""
    if file := sqlite_file(url):
        return _is_ledger(file)
    engine = connect(url)
    try:
        return retry_while_busy(lambda: sa.inspect(engine).has_table(revision.name))
    finally:
        engine.dispose()


def _is_ledger(path: Path) -> bool:
    """SQLite: what is no database, or can't be read now, says so itself when it is opened."""
    require_own_files(path)
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


def sqlite_file(url: str | Path) -> Path | None:
    """Where a ledger in SQLite lies; None for another database, and for a URL that is none."""
    if isinstance(url, Path):
        return url
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError:
        return None
    is_file = parsed.drivername.startswith("sqlite") and parsed.database not in (None, "", ":memory:")
    return Path(parsed.database or "") if is_file and not parsed.query else None


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
        raise UsageError(NEWER_LEDGER) from None


def _sqlite(path: Path) -> sa.Engine:
    """WAL: readers and the writer do not wait for each other. FULL: a commit outlives a power cut."""
    require_own_files(path)
    made: list[Path] = []
    try:
        made = make_directories(path.parent)
        _create(path)
    except OSError as error:
        remove_empty(made)
        raise UsageError(f"The ledger can't be opened: {error.strerror}. Name another --ledger.") from None
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": 60, "isolation_level": None},
        paramstyle="named",  # as psycopg's: rows are dictionaries
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        _require_opened(connection, path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-8192"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def require_own_files(path: Path) -> None:
    """UsageError when a ledger in SQLite, or what lies beside it, is a link or another user's."""
    for companion in ("", *COMPANIONS):
        require_ours(path.with_name(path.name + companion), "the ledger, or a file of SQLite's beside it,")


def _create(path: Path) -> None:
    """Makes an empty file, private from the first byte; one that is there is not so much as opened.

    This process's locks on a ledger go when any descriptor of it is closed (POSIX), also those of a
    connection that works meanwhile.
    """
    with _creating, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _require_opened(connection: Any, path: Path) -> None:
    """SQLite follows a link, and one may have been put there a moment ago: it tells which file it opened."""
    query = "SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"
    ((opened,),) = connection.execute(query)
    directory, name = os.path.split(opened)
    expected = os.path.realpath(os.fsencode(path.parent)), os.fsencode(path.name)
    if (os.path.realpath(directory), name) != expected:
        raise UsageError(
            "Not opened, and left as it is: the ledger has become a link. Name another --ledger."
        )


# Behind pgbouncer the next transaction may have another server, which does not know what was prepared.
_NOTHING_PREPARED: Final = {"prepare_threshold": None}

# Classes of PostgreSQL's SQLSTATE, and single ones: connections, deadlocks, a server that starts, stops or
# has no room; one that is read-only for as long as it is not promoted.
_BUSY_STATES: Final = ("08", "40", "57P", "53300", "55P03", "25006")
_STARTS_OR_STOPS: Final = "the database system is"  # starting up, in recovery, not accepting connections
_BUSY_TEXTS: Final = (
    "database is locked",
    "connection refused",
    "connection reset",
    "connection timed out",
    "connection timeout expired",
    "no route to host",
    "network is unreachable",
    "server closed the connection",
    "connection has been closed",
    "connection is closed",
    "could not receive data from server",
    "could not send data to server",
    "consuming input failed",
    "terminating connection",
    _STARTS_OR_STOPS,
    "connection is lost",
    "too many clients",
    "remaining connection slots",
    "cannot connect to server",  # pgbouncer's, as are the next two
    "server_login",
    "query_wait_timeout",
)
_REFUSED_STATES: Final = (
    "22",
    "23",
    "54",
)  # data, integrity, a limit such as an index's on the length of a row
_NO_ROW: Final = (
    "The ledger can't keep a value of this row: it is longer, or another kind of text or number, than the "
    "database takes."
)
_SAFE_TEXTS: Final = (
    "disk is full",
    "no space left on device",
    "disk i/o error",
    "readonly database",
    "unable to open database file",
    "file is not a database",
    "database disk image is malformed",
    "no such table",
    "password authentication failed",
    "server requested a cleartext password",
    "could not translate host name",
)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises a database error as one sentence of ours: its own text may quote rows."""
    try:
        yield
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", "")).lower()
        state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
        busy = next((busy for busy in _BUSY_TEXTS if busy in text), "")
        if not busy and (state.startswith(_BUSY_STATES) or getattr(error, "connection_invalidated", False)):
            busy = f"the connection failed ({state or 'lost'})"
        if not busy and _is_refusal(error, state):
            raise RowRefusedError(_NO_ROW) from None
        if busy == _STARTS_OR_STOPS:
            busy += " starting or stopping"
        what = busy or next((safe for safe in _SAFE_TEXTS if safe in text), type(error).__name__)
        raise (BusyError if busy else StoppedError)(
            f"The ledger can't be used: {what}. Mend that, then run the same command again: "
            "what was stored is not sent twice."
        ) from None
    except (OverflowError, UnicodeError):  # the driver refuses it before the database sees it
        raise RowRefusedError(_NO_ROW) from None


def _is_refusal(error: SQLAlchemyError, state: str) -> bool:
    """Whether the values of a row are at fault, and not the database's condition."""
    return state.startswith(_REFUSED_STATES) or (not state and isinstance(error, DataError | IntegrityError))
