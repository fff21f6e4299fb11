"""The ledger's connection, and the thread that writes: one commit for all who wait for one."""

import contextlib
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tasks.core.errors import StoppedError, UsageError

_HEARTBEAT_S: Final = 10.0


class Writer:
    """One thread, one connection: takes all that waits, commits it at once, and answers."""

    def __init__(self, engine: sa.Engine, beat: Callable[[sa.Connection], None]) -> None:
        self._engine = engine
        self._beat = beat
        self._beaten = 0.0  # time.monotonic() of the last heartbeat
        self._waiting: queue.SimpleQueue[tuple[Any, Any, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, handler: Any, item: Any) -> Any:
        """Blocks until the item is durable; returns the handler's answer to it."""
        done: Future[Any] = Future()
        self._waiting.put((handler, item, done))
        return done.result()

    def close(self) -> None:
        """After what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_work = True
        while open_for_work:
            group = self._next_group()
            open_for_work = None not in group
            self._commit([entry for entry in group if entry is not None])

    def _next_group(self) -> list[tuple[Any, Any, Future[Any]] | None]:
        group = []
        with contextlib.suppress(queue.Empty):
            group.append(self._waiting.get(timeout=_HEARTBEAT_S))
            while True:
                group.append(self._waiting.get_nowait())
        return group

    def _commit(self, group: list[tuple[Any, Any, Future[Any]]]) -> None:
        by_handler: dict[Any, list[tuple[Any, Future[Any]]]] = defaultdict(list)
        for handler, item, done in group:
            by_handler[handler].append((item, done))
        answers: list[tuple[Future[Any], Any]] = []
        try:
            with told(), self._engine.begin() as db:
                self._beat_when_due(db)
                for handler, entries in by_handler.items():
                    results = handler(db, [item for item, _ in entries])
                    answers += zip((done for _, done in entries), results, strict=True)
        except Exception as error:  # noqa: BLE001 - it is handed to those who wait
            for _, _, done in group:
                done.set_exception(error)
            return
        for done, answer in answers:
            done.set_result(answer)

    def _beat_when_due(self, db: sa.Connection) -> None:
        if time.monotonic() - self._beaten >= _HEARTBEAT_S:
            self._beat(db)
            self._beaten = time.monotonic()


def connect(url: str | Path) -> sa.Engine:
    """The database: a SQLite file by its path, created 0600 when new, or any by its SQLAlchemy URL."""
    if isinstance(url, Path):
        return _sqlite(url)
    try:
        return sa.create_engine(url)
    except (SQLAlchemyError, ImportError):
        raise UsageError(
            "--ledger is neither a file path nor a SQLAlchemy URL that can be used here."
        ) from None


def _sqlite(path: Path) -> sa.Engine:
    """WAL: readers and the writer do not wait for each other. FULL: a commit outlives a power cut."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UsageError(f"The ledger can't be opened: {error.strerror}. Name another --ledger.") from None
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


_SAFE_TEXTS: Final = (
    "disk is full",
    "disk I/O error",
    "database is locked",
    "readonly database",
    "unable to open database file",
    "file is not a database",
    "connection refused",
    "no such table",
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A database error as one sentence: its own text may quote rows."""
    try:
        yield
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", ""))
        what = next((safe for safe in _SAFE_TEXTS if safe in text), type(error).__name__)
        raise StoppedError(
            f"The ledger can't be used: {what}. Mend that, then run the same command again: "
            "what was stored is not sent twice."
        ) from None
