"""The ledger: what is durable, who owns a UID, what the report says; the same on SQLite and PostgreSQL."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from tasks.core.errors import StoppedError, UsageError
from tasks.core.escape import escape
from tasks.core.models import (
    ROW_COLUMNS,
    Digests,
    Header,
    Listed,
    Outcome,
    Reason,
    RunFacts,
    Status,
    StudyEntry,
    Todo,
    Unwalked,
)
from tasks.core.plan import Rules
from tasks.ledger.database import connect, prepare
from tasks.ledger.ledger import Ledger
from tasks.ledger.report_query import report_select
from tasks.ledger.schema import HEAD, metadata, revision
from tests.databases import PostgreSQL

ENTRIES = [
    StudyEntry(1, "/archive/one"),
    StudyEntry(2, "/archive/two", "1.2.3", 5, 7, "label", (("site", "é"),), 10**15 - 1),
]
Where = str | Path


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    running: PostgreSQL = request.getfixturevalue("postgresql")
    return running.new_database()


@pytest.fixture
def run(where: Where, tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Opens runs on one database, and closes them."""
    opened: list[Ledger] = []

    def begin(run_id: str, campaign: str = "default", dead_after_s: float = 45) -> Ledger:
        ledger = Ledger(where, campaign, run_id, dead_after_s)
        opened.append(ledger)
        ledger.begin(time.time_ns(), tmp_path / "report", ENTRIES, {2: 1})
        return ledger

    yield begin
    for ledger in opened:
        ledger.close()


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
    return [dict(zip(ROW_COLUMNS, row, strict=True)) for row in ledger.report_rows()]


def upgrade(db: sa.Connection, to: str) -> None:
    """As an earlier version did."""
    config = Config()
    config.set_main_option("script_location", "tasks.ledger:migrations")
    config.attributes["connection"] = db
    command.upgrade(config, to)


def facts(run_id: str) -> RunFacts:
    return RunFacts(run_id, "default", 1, 2, peak_parallel=3, parallel_course=[(0.0, 20)], problems=["x"])


class TestEnrol:
    def test_new_files_are_to_do_in_the_reports_order(self, run: Callable[..., Ledger]) -> None:
        """A batch gives its files back sorted by study and file."""
        ledger = run("r1")
        rows = [listed(2), listed(1), listed(1, "/archive/two/x", study_no=2)]
        assert [str(todo) for todo in enrolled(ledger, *rows)] == [
            "study 1 file 1",
            "study 1 file 2",
            "study 2 file 1",
        ]

    def test_a_batch_of_many_pages_is_whole(self, run: Callable[..., Ledger]) -> None:
        """Paging loses no file, also when files settle while it goes on."""
        ledger = run("r1")
        ledger.enrol(1, [listed(n) for n in range(1, 2502)], [])
        seen = []
        for todo in ledger.todo(1):
            seen.append(todo.file_no)
            if todo.file_no % 100 == 0:
                ledger.settle(todo, Outcome(Status.NOT_DICOM, Reason.TEXT))
        assert seen == list(range(1, 2502))
        assert len(list(ledger.todo(1))) == 2501 - 25

    def test_what_an_earlier_run_stored_is_settled_unopened(self, run: Callable[..., Ledger]) -> None:
        """Same size and mtime: nothing to do; the report has the storing run's key, times and run."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        assert enrolled(second, listed(1)) == []
        (row,) = report(second)
        assert (row["status"], row["key"], row["run_id"], row["attempts"]) == (
            "already_uploaded",
            "k1",
            "r1",
            1,
        )

    @pytest.mark.parametrize("change", [{"size": 11}, {"mtime": 2}])
    def test_a_file_that_changed_is_to_do(self, run: Callable[..., Ledger], change: dict[str, int]) -> None:
        """Other size or mtime: it is looked at again, and known to have been stored before."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        (todo,) = enrolled(run("r2"), listed(1, **change))
        assert todo.stored_sha256

    def test_rehash_looks_at_everything(self, run: Callable[..., Ledger]) -> None:
        """With rehash what is stored is to do, too."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        assert enrolled(run("r2"), listed(1), rules=Rules(rehash=True))

    def test_every_other_status_is_looked_at_afresh(self, run: Callable[..., Ledger]) -> None:
        """Neither failed nor not_dicom nor invalid is settled for a later run."""
        first = run("r1")
        for todo, status in zip(
            enrolled(first, *(listed(n) for n in range(1, 5))),
            (Status.FAILED, Status.NOT_DICOM, Status.INVALID, Status.CONFLICT),
            strict=True,
        ):
            first.settle(todo, Outcome(status, size_bytes=10, mtime_ns=1))
        assert len(enrolled(run("r2"), *(listed(n) for n in range(1, 5)))) == 4

    def test_a_young_file_is_left_alone(self, run: Callable[..., Ledger]) -> None:
        """Changed after the rule's time: a row, not_attempted, and nothing to do."""
        ledger = run("r1")
        assert enrolled(ledger, listed(1, mtime=100), rules=Rules(changed_before_ns=99)) == []
        (row,) = report(ledger)
        assert (row["status"], row["reason"]) == ("not_attempted", "too_young")

    def test_campaigns_do_not_know_each_other(self, run: Callable[..., Ledger]) -> None:
        """A file or UID is known within its campaign."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        other = run("r2", campaign="other")
        (todo,) = enrolled(other, listed(1))
        assert not todo.stored_sha256
        assert other.claim(todo, "1.9").mine


class TestClaims:
    def test_the_first_claim_wins_and_the_others_wait(self, run: Callable[..., Ledger]) -> None:
        """Two files of one run with one UID: the second learns that it is not its own, nor stored yet."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        assert ledger.claim(first, "1.9").mine
        assert ledger.claim(first, "1.9").mine
        claim = ledger.claim(second, "1.9")
        assert (claim.mine, claim.stored_sha256) == (False, "")

    def test_a_stored_claim_tells_the_digest(self, run: Callable[..., Ledger]) -> None:
        """Once it is stored, a twin can compare its bytes."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        assert ledger.claim(second, "1.9").stored_sha256 == "ab" * 32
        assert ledger.claim(first, "1.9").mine

    def test_a_failed_file_gives_its_claim_to_the_next(self, run: Callable[..., Ledger]) -> None:
        """Those that wait take over when the first fails for good."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        assert ledger.claim(first, "1.9").mine
        ledger.settle(first, Outcome(Status.FAILED, Reason.NETWORK, header=Header("1.9")), ["1.9"])
        assert ledger.claim(second, "1.9").mine

    def test_a_failed_file_takes_no_other_files_claim_with_it(self, run: Callable[..., Ledger]) -> None:
        """Files that settle in one commit, some failed, some stored: what is stored stays claimed."""
        ledger = run("r1")
        todos = enrolled(ledger, *(listed(n) for n in range(1, 61)))
        for todo in todos:
            assert ledger.claim(todo, f"1.{todo.file_no}").mine

        def settle(todo: Todo) -> None:
            uid = f"1.{todo.file_no}"
            failed = Outcome(Status.FAILED, Reason.NETWORK, header=Header(uid))
            ledger.settle(todo, failed if todo.file_no % 2 else uploaded(uid, f"k{todo.file_no}"), [uid])

        with ThreadPoolExecutor(60) as pool:
            list(pool.map(settle, todos))
        for todo in todos:
            twin_of_it = Todo(10_000, 1, 1, "/elsewhere")
            assert bool(ledger.claim(twin_of_it, f"1.{todo.file_no}").stored_sha256) == (
                todo.file_no % 2 == 0
            )

    def test_many_threads_have_one_winner(self, run: Callable[..., Ledger]) -> None:
        """Claims that share a commit have one winner, too."""
        ledger = run("r1")
        todos = enrolled(ledger, *(listed(n) for n in range(1, 31)))
        won: list[Todo] = []
        threads = [
            threading.Thread(target=lambda t=todo: won.append(t) if ledger.claim(t, "1.9").mine else None)
            for todo in todos
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1

    def test_a_living_runs_claim_is_waited_for(self, run: Callable[..., Ledger]) -> None:
        """Another run at work holds its claims, also for the very same file."""
        first, second = run("r1"), run("r2")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        (again,) = enrolled(second, listed(1))
        assert not second.claim(again, "1.9").mine

    def test_an_ended_runs_claims_are_free_at_once(self, run: Callable[..., Ledger]) -> None:
        """What a run had claimed and not stored is free when it ends."""
        first, second = run("r1"), run("r2")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        first.end(facts("r1"))
        (again,) = enrolled(second, listed(1))
        assert second.claim(again, "1.9").mine

    def test_a_dead_runs_claims_are_free_after_a_while(self, run: Callable[..., Ledger]) -> None:
        """No sign of life for `dead_after_s`: its claims are taken over, and it does not get them back."""
        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        first.close()
        second = run("r2", dead_after_s=2)
        (again,) = enrolled(second, listed(1))
        until = time.monotonic() + 20
        while not second.claim(again, "1.9").mine:
            assert time.monotonic() < until
            time.sleep(0.2)

    def test_a_living_run_gives_signs_of_life_while_idle(self, run: Callable[..., Ledger]) -> None:
        """A run that has nothing to write is not taken for dead."""
        first = run("r1", dead_after_s=4)
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        time.sleep(6)
        second = run("r2", dead_after_s=4)
        (again,) = enrolled(second, listed(1))
        assert not second.claim(again, "1.9").mine


class TestKeys:
    def test_a_key_handed_out_twice_is_refused(self, run: Callable[..., Ledger]) -> None:
        """By any file of the campaign, in any run, also by the file that had it."""
        first = run("r1")
        one, two = enrolled(first, listed(1), listed(2))
        assert first.issue(one, "1.9", "k1", 1)
        assert not first.issue(two, "1.9", "k1", 2)
        assert not first.issue(one, "1.9", "k1", 3)
        second = run("r2")
        (again, _) = enrolled(second, listed(1), listed(2))
        assert not second.issue(again, "1.9", "k1", 1)

    def test_every_key_ever_handed_out_is_in_the_report(self, run: Callable[..., Ledger]) -> None:
        """The stored one as key, the others as superseded, in the order they came; also across runs."""
        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        assert first.issue(todo, "1.9", "k1", 1)
        second = run("r2")
        (again,) = enrolled(second, listed(1))
        assert second.issue(again, "1.9", "k2", 2)
        store(second, again, "1.9", "k3")
        (row,) = report(second)
        assert (row["key"], row["superseded_keys"]) == ("k3", "k1;k2")

    def test_a_failed_files_keys_are_all_superseded(self, run: Callable[..., Ledger]) -> None:
        """No key counts as stored when the file failed."""
        ledger = run("r1")
        (todo,) = enrolled(ledger, listed(1))
        assert ledger.issue(todo, "1.9", "k1", 1)
        ledger.settle(todo, Outcome(Status.FAILED, Reason.SERVER, header=Header("1.9")))
        (row,) = report(ledger)
        assert (row["status"], row["key"], row["superseded_keys"]) == ("failed", "", "k1")


class TestReport:
    def test_what_was_not_settled_was_not_attempted(self, run: Callable[..., Ledger]) -> None:
        """A listed file without an outcome has a row, and so has a study that was not walked to its end."""
        ledger = run("r1")
        ledger.enrol(1, [listed(1)], [])
        ledger.enrol_unscanned()
        rows = report(ledger)
        assert [(r["study_no"], r["file_no"], r["status"], r["reason"]) for r in rows] == [
            (1, 1, "not_attempted", "stopped"),
            (1, 2, "not_attempted", "not_scanned"),
            (2, 1, "not_attempted", "not_scanned"),
        ]
        assert rows[1]["path"] == "/archive/one"

    def test_a_walked_study_has_no_such_row(self, run: Callable[..., Ledger]) -> None:
        """`scanned` closes a study."""
        ledger = run("r1")
        ledger.enrol(1, [listed(1)], [1, 2])
        ledger.enrol_unscanned()
        assert len(report(ledger)) == 1

    def test_a_duplicate_has_the_key_of_its_twin(self, run: Callable[..., Ledger]) -> None:
        """While the twin is in the same report."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        ledger.settle(second, twin("1.9"))
        rows = report(ledger)
        assert (rows[1]["status"], rows[1]["key"]) == ("duplicate", "k1")

    def test_a_twin_outside_this_report_makes_it_already_uploaded(self, run: Callable[..., Ledger]) -> None:
        """With the storing run's key, attempts and run_id."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        (other,) = enrolled(second, listed(1, "/elsewhere/copy.dcm"))
        second.settle(other, twin("1.9"))
        (row,) = report(second)
        assert (row["status"], row["key"], row["run_id"], row["attempts"]) == (
            "already_uploaded",
            "k1",
            "r1",
            1,
        )

    def test_a_duplicate_whose_twin_was_replaced_is_a_conflict(self, run: Callable[..., Ledger]) -> None:
        """The UID has other bytes by now: the row must not claim the new object as its proof."""
        first = run("r1")
        one, two = enrolled(first, listed(1), listed(2))
        store(first, one, "1.9", "k1")
        first.settle(two, twin("1.9"))
        second = run("r2")
        (changed,) = enrolled(second, listed(1, mtime=2), listed(2))
        store(second, changed, "1.9", "k2", sha256="ef" * 32)
        rows = report(second)
        assert [(r["status"], r["key"]) for r in rows] == [("uploaded", "k2"), ("conflict", "")]

    def test_what_shares_a_uid_names_the_file_that_has_it(self, run: Callable[..., Ledger]) -> None:
        """A duplicate, and a conflict; no other row, also one that was neither come to nor settled now."""
        first = run("r1")
        one, two, three, four = enrolled(first, listed(1, "/archive/one/=1\n"), *map(listed, (2, 3, 4)))
        store(first, one, "1.9", "k1")
        first.settle(two, twin("1.9"))
        first.settle(three, twin("1.9", Status.CONFLICT, sha256="ef" * 32))
        first.settle(four, Outcome(Status.NOT_DICOM, Reason.TEXT))
        owner = escape("/archive/one/=1\n")
        assert [(r["status"], r["same_uid_path"]) for r in report(first)] == [
            ("uploaded", ""),
            ("duplicate", owner),
            ("conflict", owner),
            ("not_dicom", ""),
        ]
        second = run("r2")
        enrolled(second, listed(3))
        assert [(r["status"], r["same_uid_path"]) for r in report(second)] == [("not_attempted", "")]

    def test_what_shares_a_uid_names_a_file_of_another_report_too(self, run: Callable[..., Ledger]) -> None:
        """Its path as the ledger knows it."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        same, other = enrolled(second, listed(1, "/elsewhere/copy.dcm"), listed(2, "/elsewhere/other.dcm"))
        second.settle(same, twin("1.9"))
        second.settle(other, twin("1.9", Status.CONFLICT, sha256="ef" * 32))
        assert [(r["status"], r["same_uid_path"]) for r in report(second)] == [
            ("already_uploaded", "/archive/one/1.dcm"),
            ("conflict", "/archive/one/1.dcm"),
        ]

    def test_what_was_sent_beside_another_of_its_uid_names_none(self, run: Callable[..., Ledger]) -> None:
        """It was asked for, and each has its key."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        assert ledger.issue(second, "1.9", "k2", 1)
        ledger.settle(second, uploaded("1.9", "k2", sha256="ef" * 32))
        assert [(r["key"], r["same_uid_path"]) for r in report(ledger)] == [("k1", ""), ("k2", "")]

    def test_modality_is_that_of_the_last_look(self, run: Callable[..., Ledger]) -> None:
        """Kept where a later run does not open the file."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        assert enrolled(second, listed(1)) == []
        assert [r["modality"] for r in (*report(first), *report(second))] == ["CT", "CT"]

    def test_is_derived_by_looking_up_alone(self, tmp_path: Path) -> None:
        """No table is gone through: each is found by an index, whatever the ledger holds besides."""
        engine = connect(tmp_path / "ledger.sqlite")
        prepare(engine)
        query = report_select("r1", ["r1"]).limit(5000)
        sql = query.compile(engine, compile_kwargs={"render_postcompile": True})
        with engine.connect() as db:
            plan = [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", sql.params)]
        engine.dispose()
        assert [step for step in plan if step.startswith("SEARCH owner USING INTEGER PRIMARY KEY")]
        listings = [step for step in plan if "s_listing" in step]
        assert listings
        assert {"listing_by_file (file_id=? AND run_id=?)" in step for step in listings} == {True}
        # what a subquery has found, a row's keys, is gone through
        assert [step for step in plan if step.startswith("SCAN") and "anon" not in step] == []

    def test_kept_bytes_keep_their_key(self, run: Callable[..., Ledger]) -> None:
        """A file looked at again and found the same is the earlier run's, whatever happened between."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        (todo,) = enrolled(second, listed(1, mtime=2))
        second.settle(todo, Outcome(Status.FAILED, Reason.SERVER, header=Header("1.9")))
        third = run("r3")
        (todo,) = enrolled(third, listed(1, mtime=3))
        assert third.claim(todo, "1.9").stored_sha256 == "ab" * 32
        kept = uploaded("1.9", "")
        third.settle(todo, Outcome(Status.ALREADY_UPLOADED, header=kept.header, digests=kept.digests))
        (row,) = report(third)
        assert (row["status"], row["key"], row["run_id"]) == ("already_uploaded", "k1", "r1")

    def test_names_of_any_bytes_survive(self, run: Callable[..., Ledger]) -> None:
        """Not UTF-8, newlines, NUL's neighbours: the path comes back as the operating system has it."""
        name = "/archive/one/\udcff\n=1\\x41é"
        (todo,) = enrolled(run("r1"), listed(1, name))
        assert todo.path == name

    def test_the_manifest_comes_back(self, run: Callable[..., Ledger]) -> None:
        """The report can be written from the ledger alone."""
        ledger = run("r1")
        assert list(ledger.studies()) == ENTRIES
        assert ledger.overlaps() == {2: 1}


class TestTakenUp:
    def test_by_another_process_it_takes_no_more_from_the_first(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """A machine that slept for too long: it may neither send on nor end what goes on elsewhere."""
        slept = run("r1", dead_after_s=2)
        (todo,) = enrolled(slept, listed(1))
        slept._writer._heartbeat_s = 3600
        time.sleep(4)
        other = Ledger(where, "default", "r1", dead_after_s=2)
        assert other.take_up(time.time_ns(), tmp_path / "report")
        slept._writer._beaten = -math.inf  # as the clock has it when it wakes
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


class TestTrouble:
    def test_a_killed_process_loses_nothing_it_was_told_is_durable(
        self, where: Where, tmp_path: Path
    ) -> None:
        """kill -9 in the middle of settling: every file that was said to be settled is settled."""
        script = (
            "import sys, time; from pathlib import Path; from tests.tasks.ledger import test_ledger as t\n"
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
        with ledger._engine.connect() as db:
            pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        sa.event.listen(
            ledger._engine,
            "begin",
            lambda db: db.connection.driver_connection.execute(f"PRAGMA max_page_count={pages}"),
        )
        with pytest.raises(StoppedError, match="disk is full"):
            ledger.enrol(2, [listed(n) for n in range(2, 5000)], [])
        assert len(report(ledger)) == 1
        ledger.close()

    def test_a_newer_schema_is_refused(self, where: Where) -> None:
        """Neither read nor written."""
        ledger = Ledger(where, "default", "r1")
        with ledger._engine.execution_options(writes=True).begin() as db:
            db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        ledger.close()
        with pytest.raises(UsageError, match="newer version"):
            Ledger(where, "default", "r1")

    def test_revisions_lead_to_the_very_schema_that_new_ledgers_have(self, where: Where) -> None:
        """An upgraded ledger and a new one are the same, and `HEAD` is the newest revision."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)  # as it is before the first revision
        prepare(engine)
        with engine.connect() as db:
            context = MigrationContext.configure(db)
            assert context.get_current_revision() == HEAD
            assert compare_metadata(context, metadata) == []
        engine.dispose()

    def test_of_an_earlier_version_has_no_modality_of_what_it_stored(
        self, where: Where, tmp_path: Path
    ) -> None:
        """Nothing else of its rows changes, and what is looked at from now on has one."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0002")
            names = "campaign, path, size_bytes, mtime_ns, status, key, sop_instance_uid"
            values = "'default', '/archive/one/1.dcm', 10, 1, 'uploaded', 'k1', '1.9'"
            db.exec_driver_sql(f"INSERT INTO file ({names}) VALUES ({values})")
        engine.dispose()
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        (todo,) = enrolled(ledger, listed(1), listed(2))
        store(ledger, todo, "1.8", "k2")
        assert [(r["status"], r["key"], r["modality"]) for r in report(ledger)] == [
            ("already_uploaded", "k1", ""),
            ("uploaded", "k2", "CT"),
        ]
        ledger.close()

    @pytest.mark.parametrize("text", ["", "PRIVATE^PATIENT"])
    def test_what_is_no_database_is_said_to_be_none(self, tmp_path: Path, text: str) -> None:
        """A file with other content is refused, and not quoted; an empty one becomes a ledger."""
        path = tmp_path / "ledger.sqlite"
        path.write_text(text * 100)
        if not text:
            Ledger(path, "default", "r1").close()
            return
        with pytest.raises(StoppedError, match="not a database") as raised:
            Ledger(path, "default", "r1")
        assert "PRIVATE" not in str(raised.value)

    def test_a_password_in_the_url_is_refused(self) -> None:
        """It would be visible to other users of the machine."""
        with pytest.raises(UsageError, match="PGPASSFILE"):
            Ledger("postgresql://user:secret@127.0.0.1/x", "default", "r1")

    def test_the_ledger_is_private(self, tmp_path: Path) -> None:
        """0600 from the first byte, and so are SQLite's own files beside it."""
        ledger = Ledger(tmp_path / "sub" / "ledger.sqlite", "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "sub").iterdir()}
        assert modes == {"0o600"}
        assert oct((tmp_path / "sub").stat().st_mode & 0o777) == "0o700"
        ledger.close()
        assert os.path.exists(tmp_path / "sub" / "ledger.sqlite")
