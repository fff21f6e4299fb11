"""How the runs of a ledger stand, for whoever looks from beside them."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError, UsageError
from tasks.core.models import RunFacts, StudyEntry
from tasks.core.run_standings import LedgerStanding, RunKind, RunStanding, RunState
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tasks.ledger.registration_ledger import Endpoints, RegistrationLedger
from tasks.ledger.standings import read_standings
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, listed, store, upgrade

FIGURES = {"files_listed": 100, "files_done": 40, "files_settled": 20, "files_stored": 10, "files_failed": 2}


def change(where: Where, statement: str, **bound: Any) -> None:
    engine = connect(where)
    with engine.execution_options(writes=True).begin() as db:
        db.execute(sa.text(statement), bound)
    engine.dispose()


def facts(run_id: str, code: int | None = None) -> RunFacts:
    began = time.time_ns()
    return RunFacts(run_id, "default", began, began + 10 * 10**9, 1, stopped_exit_code=code)


def only(standing: LedgerStanding) -> RunStanding:
    ((one,),) = [campaign.runs for campaign in standing.campaigns]
    return one


@pytest.fixture
def at_work(where: Where, tmp_path: Path) -> Any:
    """A run that has counters, as every run has; and gives signs of life often."""
    ledger = Ledger(where, "default", "one", 2, counters=lambda: FIGURES | {"bytes_stored": 1000})
    ledger.begin(time.time_ns(), tmp_path / "report", ENTRIES, {})
    yield ledger
    ledger.close()


class TestState:
    def test_of_a_run_that_lives_is_at_work(self, run: Callable[..., Ledger], where: Where) -> None:
        """No figures come before its second sign of life; what is not scanned is known from the start."""
        run("one")
        found = read_standings(where, 45)
        one = only(found)
        assert found.is_at_work
        assert (one.state, one.kind, one.has_figures) == (RunState.WORKING, RunKind.FILES, False)
        assert (one.files_left, one.rate("files_stored"), one.time_left_s) == (None, None, None)
        assert (one.studies, one.studies_scanned, one.is_scanning) == (2, 0, True)
        assert abs(one.last_alive_ns - found.seen_ns) < 60 * 10**9

    @pytest.mark.parametrize(
        ("code", "state"),
        [(None, RunState.ENDED), (3, RunState.STOPPED), (4, RunState.STOPPED), (130, RunState.INTERRUPTED)],
    )
    def test_of_one_that_has_ended_says_how(
        self, code: int | None, state: RunState, run: Callable[..., Ledger], where: Where
    ) -> None:
        its = facts("one", code)
        run("one").end(its)
        one = only(read_standings(where, 45))
        assert (one.state, one.stopped_exit_code, one.is_at_work) == (state, code, False)
        assert one.last_alive_ns == its.finished_ns

    def test_of_one_that_is_silent_is_killed(self, run: Callable[..., Ledger], where: Where) -> None:
        """After so many seconds as --dead-after says; and last alive when it was."""
        run("one")
        change(where, "UPDATE run SET heartbeat_s = heartbeat_s - 100")
        found = read_standings(where, 180)
        assert found.is_at_work
        found = read_standings(where, 45)
        assert (only(found).state, found.is_at_work) == (RunState.KILLED, False)
        assert 99 <= (found.seen_ns - only(found).last_alive_ns) / 10**9 <= 160

    def test_of_one_that_was_declared_dead_has_what_it_did_last(
        self, run: Callable[..., Ledger], where: Where
    ) -> None:
        """Its sign of life is gone."""
        ledger = run("one")
        (todo,) = enrolled(ledger, listed(1))
        store(ledger, todo, "1.9", "k1")
        change(where, "UPDATE file SET finished_ns = 5000000000")
        change(where, "UPDATE run SET heartbeat_s = 0")
        assert only(read_standings(where, 45)).last_alive_ns == 5_000_000_000
        change(where, "UPDATE file SET finished_ns = NULL")
        change(where, "UPDATE run SET started_ns = 4000000000")
        one = only(read_standings(where, 45))
        assert (one.state, one.last_alive_ns) == (RunState.KILLED, 4_000_000_000)

    def test_of_a_run_of_ingest_counts_objects(self, where: Where, tmp_path: Path) -> None:
        """Its report is another one: by that it is known."""
        endpoints = Endpoints("bucket", "", "registry:443/studies")
        with closing(RegistrationLedger(where, "default", "one", endpoints, 45)) as ledger:
            ledger.begin(time.time_ns(), tmp_path / "report")
            one = only(read_standings(where, 45))
            ledger.end(facts("one"))
        assert (one.state, one.kind, one.is_scanning) == (RunState.WORKING, RunKind.OBJECTS, False)
        assert only(read_standings(where, 45)).state is RunState.ENDED


class TestFigures:
    def test_are_those_of_the_last_sign_of_life(self, at_work: Ledger, where: Where) -> None:
        """How far, how fast, what is left: by the run's own counters."""
        until = time.monotonic() + 240
        while not (one := only(read_standings(where, 45))).has_figures:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert (one.files_left, one.counters["files_failed"]) == (60, 2)
        assert one.time_left_s is None  # the scan goes on
        change(where, "UPDATE study SET scanned = :yes", yes=True)
        at_work.end(facts("one"))
        change(where, "UPDATE run SET started_ns = 1000000000")
        change(where, "UPDATE run SET heartbeat_s = 6, end = NULL" if isinstance(where, Path) else
               'UPDATE run SET heartbeat_s = 6, "end" = NULL')  # fmt: skip
        one = only(read_standings(where, 4_000_000_000))
        assert (one.state, one.wall_s) == (RunState.WORKING, 5.0)
        assert (one.rate("files_stored"), one.rate("bytes_stored"), one.time_left_s) == (2.0, 200.0, 15.0)

    def test_of_a_run_whose_listing_is_gone_are_none(self, run: Callable[..., Ledger], where: Where) -> None:
        """Its counters went with it."""
        run("one").end(facts("one"))
        change(where, "UPDATE run SET progress = :it", it='{"pruned": 1}')
        assert not only(read_standings(where, 45)).has_figures


class TestShards:
    PARTS = ([StudyEntry(1, "/archive/one")], [StudyEntry(2, "/archive/two")])

    @pytest.fixture
    def divided(self, where: Where, tmp_path: Path) -> Any:
        whole = Ledger(where, "default", "m", counters=lambda: {"files_listed": 150})
        assert whole.begin_divided(time.time_ns(), tmp_path, ENTRIES, {}, {}, self.PARTS)
        yield whole
        whole.close()

    def test_stand_below_their_run_which_has_their_sum(
        self, divided: Ledger, where: Where, tmp_path: Path
    ) -> None:
        """Those that nobody has begun wait."""
        with closing(Ledger(where, "default", "m-0001", counters=lambda: FIGURES)) as first:
            assert first.take_up(time.time_ns(), tmp_path / "1")
            first.end(facts("m-0001"))
        one = only(read_standings(where, 45))
        assert one.kind is RunKind.SHARDS
        assert [shard.state for shard in one.shards] == [RunState.ENDED, RunState.WAITING]
        assert [shard.files_left for shard in one.shards] == [60, None]
        assert one.files_left == 60
        change(where, "UPDATE run SET progress = :it WHERE run_id = 'm'", it='{"files_listed": 150}')
        assert only(read_standings(where, 45)).files_left == 110

    def test_at_work_keep_the_whole_at_work(self, divided: Ledger, where: Where, tmp_path: Path) -> None:
        """Also once the process that cut it was killed."""
        change(where, "UPDATE run SET heartbeat_s = 0 WHERE run_id = 'm'")
        assert not read_standings(where, 45).is_at_work
        with closing(Ledger(where, "default", "m-0002")) as second:
            assert second.take_up(time.time_ns(), tmp_path / "2")
            found = read_standings(where, 45)
        assert (only(found).state, found.is_at_work) == (RunState.KILLED, True)


class TestCampaigns:
    def test_are_shown_each_with_its_newest_runs(self, run: Callable[..., Ledger], where: Where) -> None:
        """The newest first; and all that are at work."""
        run("living")
        for number in range(3):
            run(f"r{number}").end(facts(f"r{number}"))
        run("another", campaign="other").end(facts("another"))
        found = read_standings(where, 45, most_runs=2)
        shown = {each.campaign: [one.run_id for one in each.runs] for each in found.campaigns}
        assert shown == {"default": ["r2", "r1", "living"], "other": ["another"]}
        assert [each.earlier_runs for each in found.campaigns] == [1, 0]
        assert [each.is_at_work for each in found.campaigns] == [True, False]
        assert [len(each.runs) for each in read_standings(where, 45).campaigns] == [4, 1]
        assert [each.campaign for each in read_standings(where, 45, "other").campaigns] == ["other"]
        assert read_standings(where, 45, "unknown").campaigns == ()


class TestWhatIsNoLedger:
    @pytest.mark.parametrize(
        ("number", "told"), [("0014", "an earlier version"), ("9999", "a newer version")]
    )
    def test_of_this_version_is_left_as_it_is(self, number: str, told: str, where: Where) -> None:
        """It is neither upgraded nor misread."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            upgrade(db, "0014")
            db.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{number}'")
        with pytest.raises(UsageError, match=told):
            read_standings(where, 45)
        with engine.connect() as db:
            assert db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == number
        engine.dispose()

    def test_is_said(self, where: Where, tmp_path: Path) -> None:
        """And nothing is made."""
        with pytest.raises(UsageError, match="There is no ledger there"):
            read_standings(where, 45)
        assert list(tmp_path.iterdir()) == []
        if isinstance(where, str):
            engine = connect(where)
            assert sa.inspect(engine).get_table_names() == []
            engine.dispose()

    def test_but_a_database_of_others_or_an_empty_file_is_none(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "theirs")) as db:
            db.execute("CREATE TABLE run (a)")
        (tmp_path / "empty").touch()
        for name in ("theirs", "empty"):
            with pytest.raises(UsageError, match="There is no ledger there"):
                read_standings(tmp_path / name, 45)

    def test_or_is_damaged_is_said_in_a_sentence(self, tmp_path: Path) -> None:
        """Without a path, or words of its own."""
        path = tmp_path / "ledger.sqlite"
        with closing(Ledger(path, "default", "one")) as ledger:
            ledger.begin(1, tmp_path, ENTRIES, {})
            ledger.end(facts("one"))
        good = path.read_bytes()
        path.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
        with pytest.raises(StoppedError, match="database disk image is malformed"):
            read_standings(path, 45)
        path.write_bytes(b"no database " * 1000)
        with pytest.raises(StoppedError, match="file is not a database"):
            read_standings(path, 45)


class TestReading:
    def test_leaves_nothing_beside_a_ledger_that_nobody_has_open(self, tmp_path: Path) -> None:
        """Nor does it change a byte of it."""
        path = tmp_path / "ledger" / "ledger.sqlite"
        with closing(Ledger(path, "default", "one")) as ledger:
            ledger.begin(1, tmp_path, ENTRIES, {})
        before = path.read_bytes()
        assert read_standings(path, 45).is_at_work
        assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == {path.name: before}

    def test_can_write_nothing(self, run: Callable[..., Ledger], where: Where) -> None:
        """The database itself sees to it."""
        from tasks.ledger.known_runs import reading

        run("one")
        for statement in ("UPDATE run SET heartbeat_s = 0", "CREATE TABLE a (b int)"):
            with pytest.raises(StoppedError):
                reading(where, lambda db, it=statement: db.exec_driver_sql(it))  # type: ignore[misc]
        assert read_standings(where, 45).is_at_work

    def test_and_writing_do_not_wait_for_each_other(self, run: Callable[..., Ledger], where: Where) -> None:
        """A run commits in the middle of somebody's look, who sees what was when he began."""
        from tasks.ledger.known_runs import reading

        ledger = run("one")
        enrolled(ledger, listed(1))

        def look(db: sa.Connection) -> list[int]:
            counts = [db.exec_driver_sql("SELECT count(*) FROM listing").scalar_one()]
            enrolled(ledger, listed(2))
            return [*counts, 1]

        assert reading(where, look) == [1, 1]
        assert reading(where, lambda db: db.exec_driver_sql("SELECT count(*) FROM listing").scalar()) == 2
