"""Runs in the ledger: taken up by another process, found again, and read without a thread."""

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError, UsageError
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, facts, listed, store


class TestTakenUp:
    def test_by_another_process_it_takes_no_more_from_the_first(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """A machine that slept for too long: it may neither send on nor end what goes on elsewhere."""
        clock = [0.0]
        slept = run("r1", dead_after_s=2, clock=lambda: clock[0])
        (todo,) = enrolled(slept, listed(1))
        time.sleep(4)
        other = Ledger(where, "default", "r1", dead_after_s=2)
        assert other.take_up(time.time_ns(), tmp_path / "report")
        clock[0] = 3600  # it wakes
        with pytest.raises(StoppedError, match="another took its run up"):
            slept.claim(todo, "1.9")
        with pytest.raises(StoppedError, match="another took its run up"):
            slept.end(facts("r1"))
        (again,) = enrolled(other, listed(1))
        assert other.claim(again, "1.9").mine
        other.end(facts("r1"))
        other.close()


class TestLastRun:
    def test_an_ended_run_tells_what_it_knew(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """The newest run into the directory, with its facts."""
        run("r1").end(facts("r1"))
        ledger = run("r2")
        ledger.end(facts("r2"))
        last = Ledger.of_last_run(where, "default", tmp_path / "report")
        assert last.run_id == "r2"
        told = last.facts()
        last.close()
        assert (told.peak_parallel, told.problems, told.stopped_exit_code) == (3, ["x"], None)

    def test_a_run_at_work_is_left_alone(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """Its report is not due."""
        run("r1")
        with pytest.raises(UsageError, match="at work"):
            Ledger.of_last_run(where, "default", tmp_path / "report")

    def test_an_unknown_directory_says_so(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """With what to name."""
        run("r1").end(facts("r1"))
        with pytest.raises(UsageError, match="--campaign"):
            Ledger.of_last_run(where, "other", tmp_path / "report")

    def test_a_ledger_that_is_not_there_is_not_made(self, where: Where, tmp_path: Path) -> None:
        """Neither a file nor a table; one sentence says that there is no run."""
        with pytest.raises(UsageError, match="There is no run"):
            Ledger.of_last_run(where, "default", tmp_path / "report")
        assert list(tmp_path.iterdir()) == []
        engine = connect(where)
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()

    @pytest.mark.parametrize("content", ["empty", "another database"])
    def test_a_file_without_a_ledger_is_left_as_it_is(self, tmp_path: Path, content: str) -> None:
        """Whatever its name is."""
        path = tmp_path / "ledger.sqlite"
        path.touch()
        if content == "another database":
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE mine (x)")
        before = path.read_bytes()
        with pytest.raises(UsageError, match="There is no run"):
            Ledger.of_last_run(path, "default", tmp_path / "report")
        assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (before, [path.name])


def ledger_threads() -> set[threading.Thread]:
    """Those that write; a test before may have left some, as a killed run does."""
    return {thread for thread in threading.enumerate() if thread.name == "ledger"}


class TestReading:
    def test_starts_no_thread(self, run: Callable[..., Ledger], where: Where, tmp_path: Path) -> None:
        """Whoever reports on a run, or looks where its shards stand, only reads."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        first.end(facts("r1"))
        first.close()
        before = ledger_threads()
        last = Ledger.of_last_run(where, "default", tmp_path / "report")
        assert [row.key for row in last.report_rows()] == ["k1"]
        assert (list(last.studies()), last.overlaps(), last.unused_keys()) == (ENTRIES, {2: 1}, [])
        assert (last.is_over, last.shards(), last.facts().problems) == (True, [], ["x"])
        assert ledger_threads() == before
        last.close()

    def test_can_be_followed_by_a_write(self, run: Callable[..., Ledger], where: Where) -> None:
        """The thread starts then, whoever writes first; and what is closed takes nothing any more."""
        run("r1").close()
        before = ledger_threads()
        ledger = Ledger(where, "default", "r2")
        with ThreadPoolExecutor(8) as pool:
            keys = [f"k{number}" for number in range(8)]
            assert all(pool.map(ledger.issue_unused, keys, range(8)))
        assert len(ledger_threads() - before) == 1
        assert ledger.unused_keys() == keys
        ledger.close()
        unused = Ledger(where, "default", "r3")
        unused.close()
        with pytest.raises(StoppedError, match="closed"):
            unused.issue_unused("k9", 9)
