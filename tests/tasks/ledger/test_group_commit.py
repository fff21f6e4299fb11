"""What was said to be durable is, whatever happens to process, server and disk."""

import random
import signal
import string
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.audit.log import Trail
from tasks.core.duplicates import Claim
from tasks.core.errors import RowRefusedError, StoppedError
from tasks.core.models import Todo
from tasks.ledger.database import connect
from tasks.ledger.file_requests import Claiming, FileRequest, Issuing, Settling
from tasks.ledger.ledger import Ledger
from tests.databases import PostgreSQL
from tests.processes import await_that
from tests.tasks.audit.report_dirs import events
from tests.tasks.ledger.sample_rows import ENTRIES, Where, answered, enrolled, listed, report, store, uploaded


class TestTrouble:
    @pytest.mark.processes
    def test_a_killed_process_loses_nothing_it_was_told_is_durable(
        self, where: Where, tmp_path: Path
    ) -> None:
        """kill -9 in the middle of settling: every file that was said to be settled is settled."""
        script = (
            "import sys, time; from pathlib import Path; from tests.tasks.ledger import sample_rows as t\n"
            f"where = {str(where)!r}\n"
            "where = where if '://' in where else Path(where)\n"
            "ledger = t.Ledger(where, 'default', 'r1')\n"
            f"ledger.begin(1, Path({str(tmp_path)!r}), t.ENTRIES, {{}})\n"
            "for todo in t.enrolled(ledger, *(t.listed(n) for n in range(1, 5000))):\n"
            "    t.store(ledger, todo, f'1.{todo.file_no}', f'k{todo.file_no}')\n"
            "    print(todo.file_no, flush=True)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(60)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split()]
        child.wait()
        child.stdout.close()
        ledger = Ledger(where, "default", "r1")
        settled = {row["file_no"] for row in report(ledger) if row["status"] == "uploaded"}
        ledger.close()
        assert set(told) <= settled

    def test_a_restarted_server_is_waited_for(self, postgresql: PostgreSQL, tmp_path: Path) -> None:
        """PostgreSQL goes and comes back: what waited is written, once."""
        ledger = Ledger(postgresql.new_database(), "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        todos = enrolled(ledger, *(listed(n) for n in range(1, 200)))
        for todo in todos[:50]:
            store(ledger, todo, f"1.{todo.file_no}", f"k{todo.file_no}")
        restart = threading.Thread(
            target=lambda: (postgresql.stop("immediate"), time.sleep(1), postgresql.start())
        )
        restart.start()
        for todo in todos[50:]:
            store(ledger, todo, f"1.{todo.file_no}", f"k{todo.file_no}")
        restart.join()
        assert {row["status"] for row in report(ledger)} == {"uploaded"}
        ledger.close()

    def test_a_locked_database_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process holds SQLite's lock for a while: the write goes through afterwards."""
        path = tmp_path / "ledger.sqlite"
        ledger = Ledger(path, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        other = sa.create_engine(f"sqlite:///{path}").connect()
        other.exec_driver_sql("BEGIN IMMEDIATE")
        release = threading.Timer(1.0, other.rollback)
        release.start()
        (todo,) = enrolled(ledger, listed(1))
        release.join()
        other.close()
        other.engine.dispose()
        assert todo.file_no == 1
        ledger.close()

    def test_a_full_disk_stops_the_run_with_a_sentence(self, tmp_path: Path) -> None:
        """SQLite can't grow: StoppedError, and what was written before is there."""
        ledger = Ledger(tmp_path / "ledger.sqlite", "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        enrolled(ledger, listed(1))

        def fill_disk(db: sa.Connection) -> None:
            (pages,) = db.connection.driver_connection.execute("PRAGMA page_count").fetchone()
            db.connection.driver_connection.execute(f"PRAGMA max_page_count={pages}")

        sa.event.listen(sa.Engine, "begin", fill_disk)
        try:
            with pytest.raises(StoppedError, match="disk is full"):
                ledger.enrol(2, [listed(n) for n in range(2, 5000)], [])
        finally:
            sa.event.remove(sa.Engine, "begin", fill_disk)
        assert len(report(ledger)) == 1
        ledger.close()


class TestRefused:
    """A value that the database can't hold, on either of them a number of more than 64 bits."""

    def test_item_fails_alone(self, where: Where, tmp_path: Path) -> None:
        """Its neighbours in the commit are durable, and the trail has each of their keys once."""
        trail = Trail(tmp_path)
        ledger = Ledger(where, "default", "r1", trail=trail)
        ledger.begin(1, tmp_path, ENTRIES, {})
        todos = enrolled(ledger, *(listed(n) for n in range(1, 21)))
        outcomes: list[FileRequest] = []
        for todo in todos:
            uid, key = f"1.{todo.file_no}", f"k{todo.file_no}"
            outcome = replace(uploaded(uid, key), attempts=2**70 if todo.file_no == 7 else 1)
            answered(ledger, [Claiming(todo, uid), Issuing(todo, uid, key, 1)])
            outcomes.append(Settling(todo, outcome))
        answers = answered(ledger, outcomes)
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert [type(error) for error in refused] == [RowRefusedError]
        assert answers.index(refused[0]) == 6
        rows = {row["file_no"]: row["status"] for row in report(ledger)}
        assert rows == dict.fromkeys(range(1, 21), "uploaded") | {7: "not_attempted"}
        ledger.close()
        trail.close()
        told = Counter((each["event"], each["key"]) for each in events(tmp_path))
        assert told.pop(("key_issued", "k7")) == 1
        assert set(told.values()) == {1}
        assert len(told) == 2 * 19

    def test_row_of_the_scan_has_a_row_under_another_path(
        self, postgresql: PostgreSQL, tmp_path: Path
    ) -> None:
        """As if an index did not take it; the others of its chunk are as they were."""
        where = postgresql.new_database()
        ledger = Ledger(where, "default", "r1")
        engine = connect(where)
        with engine.begin() as db:
            db.exec_driver_sql("CREATE INDEX ON file (path)")
        engine.dispose()
        ledger.begin(1, tmp_path, ENTRIES, {})
        dice = random.Random(1)
        long = "/archive/" + "".join(dice.choice(string.ascii_letters) for _ in range(9000))
        todos = enrolled(ledger, listed(1), listed(2, long), listed(3), listed(4))
        assert [todo.file_no for todo in todos] == [1, 3, 4]
        row = next(row for row in report(ledger) if row["file_no"] == 2)
        assert (row["status"], row["reason"]) == ("unreadable", "io_error")
        assert row["path"].startswith(long[:200])
        ledger.close()

    def test_defect_of_a_handler_is_its_own_alone(self, where: Where, tmp_path: Path) -> None:
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        (todo,) = enrolled(ledger, listed(1))
        wrong: Any = Claiming(todo, None)  # type: ignore[arg-type]
        answers = answered(ledger, [Claiming(todo, "1.1"), wrong])
        assert isinstance(answers[0], Claim)
        assert isinstance(answers[1], Exception)
        ledger.close()


class TestClosed:
    def test_answers_with_an_error_whoever_comes_while_it_closes(self, tmp_path: Path) -> None:
        """Nobody waits for ever: what was asked before is durable, what comes after is refused."""
        for number in range(4):
            ledger = Ledger(tmp_path / f"{number}.sqlite", "default", "r1")
            ledger.begin(1, tmp_path, ENTRIES, {})
            todos = enrolled(ledger, *(listed(n) for n in range(1, 100)))
            with ThreadPoolExecutor(8) as pool:
                answers = [pool.submit(outcome_of, ledger, todo) for todo in todos]
                await_that(answers[number].done)
                ledger.close()
                durable = sum(answer.result(120) is None for answer in answers)
            again = Ledger(tmp_path / f"{number}.sqlite", "default", "r1")
            assert sum(row["status"] == "uploaded" for row in report(again)) == durable
            again.close()
            assert isinstance(outcome_of(ledger, todos[0]), StoppedError)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_answers_with_an_error_when_its_thread_has_ended(self, tmp_path: Path) -> None:
        """By what nothing can catch: those who wait get an answer, too."""
        readings = iter([0.0, 0.0, 0.0])

        def clock() -> float:
            for reading in readings:
                return reading
            raise SystemExit

        ledger = Ledger(tmp_path / "ledger.sqlite", "default", "r1", clock=clock)
        refused = [outcome_of(ledger, Todo(1, 1, number, "")) for number in range(1, 6)]
        assert isinstance(refused[-1], StoppedError)
        ledger.close()


def outcome_of(ledger: Ledger, todo: Todo) -> Exception | None:
    """Settles a file: None when that is durable."""
    uid, key = f"1.{todo.file_no}", f"k{todo.file_no}"
    try:
        ledger.claim(todo, uid)  # first: what is asked at once may be done in any order
        ledger.settle(todo, uploaded(uid, key))
    except Exception as error:  # noqa: BLE001 - whichever it is
        return error
    return None


class TestPatience:
    def test_of_who_reads_outlasts_a_restart(self, postgresql: PostgreSQL, tmp_path: Path) -> None:
        """What reads page by page goes on where it was."""
        ledger = Ledger(postgresql.new_database(), "default", "r1")
        ledger.begin(1, tmp_path / "report", ENTRIES, {2: 1})
        ledger.enrol(1, [listed(n) for n in range(1, 2500)], [1])
        todos, rows = ledger.todo(1), ledger.report_rows()
        begun = [next(todos).file_no, next(rows).file_no]
        postgresql.stop("immediate")
        restart = threading.Timer(1, postgresql.start)
        restart.start()
        assert [study.study_no for study in ledger.studies()] == [1, 2]
        restart.join()
        assert begun + [todo.file_no for todo in todos] == [1, *range(1, 2500)]
        restart.join()
        assert len(list(rows)) == 2498
        assert ledger.shards() == []
        assert (ledger.overlaps(), ledger.unused_keys(), ledger.is_over) == ({2: 1}, [], False)
        ledger.close()

    def test_has_transactions_of_the_kind_it_counts_on_and_prepares_nothing(
        self, postgresql: PostgreSQL
    ) -> None:
        """Whatever the server's default is; behind pgbouncer, what one connection prepared another lacks."""
        where = postgresql.new_database()
        engine = connect(where)
        with engine.begin() as db:
            name = where.rpartition("/")[2]
            db.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        engine.dispose()
        engine = connect(where)
        with engine.connect() as db:
            for number in range(20):
                assert db.scalar(sa.text("SELECT CAST(:n AS int)"), {"n": number}) == number
            assert db.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
            assert db.scalar(sa.text("SELECT count(*) FROM pg_prepared_statements")) == 0
        engine.dispose()
