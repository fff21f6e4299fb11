"""Runs that fall silent: when their claims are another's, and what they may do when they wake."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.audit.log import Trail
from tasks.core.errors import StoppedError, UsageError
from tasks.core.models import Outcome, Reason, Status, Todo, Unwalked
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tasks.ledger.liveness import awake_or_asleep
from tasks.ledger.schema import instance
from tests.databases import long_ago
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, facts, listed, report, store, uploaded

_DEAD_AFTER_S = 40
_HEARTBEAT_S = 10
_COUNTS_AS_DEAD = "counts as dead"


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def silent(run: Callable[..., Ledger]) -> Ledger:
    """A run that others will take for dead."""
    return run("r1", dead_after_s=_DEAD_AFTER_S)


@pytest.fixture
def clock() -> Clock:
    """Of the run that comes after it."""
    return Clock()


@pytest.fixture
def other(run: Callable[..., Ledger], silent: Ledger, clock: Clock) -> Ledger:
    return run("r2", dead_after_s=_DEAD_AFTER_S, clock=clock)


def taken_over(silent: Ledger, other: Ledger, where: Where, clock: Clock) -> tuple[Todo, Todo]:
    """A file of each with one UID: that of the silent run was sent to k1 when the other got the claim."""
    (first,) = enrolled(silent, listed(1))
    assert silent.claim(first, "1.9").mine
    assert silent.issue(first, "1.9", "k1", 1)
    (second,) = enrolled(other, listed(1, "/archive/two/1.dcm"))
    long_ago(where)
    assert not other.claim(second, "1.9").mine
    clock.now_s += _HEARTBEAT_S
    assert other.claim(second, "1.9").mine
    return first, second


class TestTakenOver:
    def test_after_two_looks_a_heartbeat_apart(
        self, silent: Ledger, other: Ledger, where: Where, clock: Clock
    ) -> None:
        (first,) = enrolled(silent, listed(1))
        assert silent.claim(first, "1.9").mine
        (again,) = enrolled(other, listed(1))
        long_ago(where)
        for passed_s in (0.0, 0.1, _HEARTBEAT_S - 1):
            clock.now_s += passed_s
            assert not other.claim(again, "1.9").mine
        clock.now_s += 1
        assert other.claim(again, "1.9").mine

    def test_not_when_there_was_a_sign_of_life_in_between(
        self, run: Callable[..., Ledger], where: Where
    ) -> None:
        """A clock that was set makes all runs look dead, for a moment."""
        clocks = Clock(), Clock()
        living, other = (run(f"r{n}", dead_after_s=_DEAD_AFTER_S, clock=clocks[n]) for n in range(2))
        (first, second) = enrolled(living, listed(1), listed(2))
        assert living.claim(first, "1.9").mine
        (again, _) = enrolled(other, listed(1), listed(2))
        for _ in range(3):
            long_ago(where)
            assert not other.claim(again, "1.9").mine
            clocks[0].now_s += _HEARTBEAT_S
            assert living.claim(second, "1.8").mine
            clocks[1].now_s += _HEARTBEAT_S
            assert not other.claim(again, "1.9").mine
        store(living, first, "1.9", "k1")

    def test_at_once_when_nobody_has_its_trails_lock_on_this_host(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """Its process is gone, whatever its last sign of life was."""
        with opened(where, "r1", tmp_path / "one") as (killed, trail):
            (first,) = enrolled(killed, listed(1))
            assert killed.claim(first, "1.9").mine
            other = run("r2")
            (again,) = enrolled(other, listed(1))
            assert not other.claim(again, "1.9").mine
            trail.close()
            assert other.claim(again, "1.9").mine
            with pytest.raises(StoppedError, match=_COUNTS_AS_DEAD):
                killed.claim(first, "1.9")

    def test_at_once_by_the_next_run_into_its_report_directory(self, where: Where, tmp_path: Path) -> None:
        """Which has the lock that the killed one had."""
        with opened(where, "r1", tmp_path / "one") as (killed, trail):
            (first,) = enrolled(killed, listed(1))
            assert killed.claim(first, "1.9").mine
            trail.close()
            with opened(where, "r2", tmp_path / "one") as (following, _):
                (again,) = enrolled(following, listed(1))
                assert following.claim(again, "1.9").mine

    def test_not_at_once_when_another_file_lies_where_its_trail_was(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        """In a container that path may be another directory."""
        with opened(where, "r1", tmp_path / "one") as (living, trail):
            (first,) = enrolled(living, listed(1))
            assert living.claim(first, "1.9").mine
            trail.path.rename(tmp_path / "elsewhere")
            trail.path.touch()
            other = run("r2")
            (again,) = enrolled(other, listed(1))
            assert not other.claim(again, "1.9").mine


@contextmanager
def opened(where: Where, run_id: str, report_dir: Path) -> Iterator[tuple[Ledger, Trail]]:
    """A run with a trail, as commands have it; the trail is the test's to close."""
    report_dir.mkdir(exist_ok=True)
    trail = Trail(report_dir)
    with closing(Ledger(where, "default", run_id, trail=trail)) as ledger:
        ledger.begin(time.time_ns(), report_dir, ENTRIES, {})
        yield ledger, trail


class TestAwake:
    """What was silent for longer than --dead-after neither claims nor settles, but ends with a report."""

    @pytest.mark.parametrize(
        ("sha256", "told"), [("ef" * 32, ("conflict", "", "k1")), ("ab" * 32, ("duplicate", "k2", "k1"))]
    )
    def test_has_a_conflict_or_a_duplicate_where_another_run_stored_the_uid(
        self,
        silent: Ledger,
        other: Ledger,
        where: Where,
        clock: Clock,
        sha256: str,
        told: tuple[str, str, str],
    ) -> None:
        first, second = taken_over(silent, other, where, clock)
        assert other.issue(second, "1.9", "k2", 2)
        other.settle(second, uploaded("1.9", "k2"))
        for _ in range(2):
            with pytest.raises(StoppedError, match=_COUNTS_AS_DEAD):
                silent.settle(first, uploaded("1.9", "k1", sha256), ["1.9"])
        silent.end(facts("r1"))
        (row,) = report(silent)
        if told[0] == "duplicate":  # of a file that is in no report of this run
            told = ("already_uploaded", *told[1:])
        assert (row["status"], row["key"], row["superseded_keys"]) == told
        (row,) = report(other)
        assert (row["status"], row["key"], row["superseded_keys"]) == ("uploaded", "k2", "")

    def test_leaves_alone_what_another_run_has_not_stored_yet(
        self, silent: Ledger, other: Ledger, where: Where, clock: Clock
    ) -> None:
        first, second = taken_over(silent, other, where, clock)
        with pytest.raises(StoppedError, match=_COUNTS_AS_DEAD):
            silent.settle(first, uploaded("1.9", "k1"), ["1.9"])
        silent.end(facts("r1"))
        (row,) = report(silent)
        assert (row["status"], row["reason"], row["superseded_keys"]) == ("not_attempted", "stopped", "k1")
        assert other.claim(second, "1.9").mine, "its end frees its own claims alone"

    def test_leaves_alone_what_another_run_made_of_the_very_file(
        self, silent: Ledger, other: Ledger, where: Where, clock: Clock
    ) -> None:
        (first,) = enrolled(silent, listed(1))
        assert silent.claim(first, "1.9").mine
        assert silent.issue(first, "1.9", "k1", 1)
        (again,) = enrolled(other, listed(1))
        long_ago(where)
        assert not other.claim(again, "1.9").mine
        clock.now_s += _HEARTBEAT_S
        store(other, again, "1.9", "k2", "ef" * 32)
        with pytest.raises(StoppedError, match=_COUNTS_AS_DEAD):
            silent.settle(first, uploaded("1.9", "k1"), ["1.9"])
        (row,) = report(other)
        assert (row["status"], row["key"], row["superseded_keys"]) == ("uploaded", "k2", "k1")

    def test_by_its_own_clock_claims_and_settles_nothing_whoever_noticed(
        self, run: Callable[..., Ledger], clock: Clock
    ) -> None:
        """Nobody needs to have taken anything over."""
        ledger = run("r1", dead_after_s=_DEAD_AFTER_S, clock=clock)
        first, second = enrolled(ledger, listed(1), listed(2))
        assert ledger.claim(first, "1.9").mine
        assert ledger.issue(first, "1.9", "k1", 1)
        clock.now_s += _DEAD_AFTER_S + 1
        tries: list[Callable[[], object]] = [
            lambda: ledger.settle(first, uploaded("1.9", "k1"), ["1.9"]),
            lambda: ledger.claim(second, "1.8"),
            lambda: ledger.issue(second, "1.8", "k2", 2),
            lambda: ledger.settle(second, Outcome(Status.NOT_DICOM, Reason.TEXT)),
            lambda: ledger.issue_unused("k3", 3),
            lambda: enrolled(ledger, listed(3)),
        ]
        for each in tries:
            with pytest.raises(StoppedError, match=_COUNTS_AS_DEAD):
                each()
        ledger.enrol_unscanned()
        ledger.end(facts("r1"))
        rows = report(ledger)
        assert {row["status"] for row in rows} == {"not_attempted"}
        assert rows[0]["superseded_keys"] == "k1"

    def test_after_a_short_pause_goes_on(self, run: Callable[..., Ledger], clock: Clock) -> None:
        ledger = run("r1", dead_after_s=_DEAD_AFTER_S, clock=clock)
        (first,) = enrolled(ledger, listed(1))
        for _ in range(5):
            clock.now_s += _DEAD_AFTER_S - 1
            ledger.claim(first, "1.9")
        store(ledger, first, "1.9", "k1")

    def test_time_goes_on_while_the_machine_sleeps(self) -> None:
        """Linux's monotonic clock would stand still, and the silence not be noticed."""
        assert awake_or_asleep() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=60)


class TestClaim:
    """What settles as stored has its claim still, whoever is alive."""

    @pytest.mark.parametrize(
        ("key", "told"),
        [("k9", ("conflict", "", "k1")), ("", ("failed", "", "k1"))],
        ids=["stored", "claimed"],
    )
    def test_that_another_has_by_now_stores_nothing(
        self, run: Callable[..., Ledger], where: Where, key: str, told: tuple[str, str, str]
    ) -> None:
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        for todo, uid, its in ((first, "1.9", "k1"), (second, "1.8", "k2")):
            assert ledger.claim(todo, uid).mine
            assert ledger.issue(todo, uid, its, 1)
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            lost = sa.update(instance).where(instance.c.sop_instance_uid == "1.9")
            db.execute(lost.values(file_id=999, run_id="r9", sha256="ef" * 32 if key else "", key=key))
        engine.dispose()
        ledger.settle(first, uploaded("1.9", "k1"), ["1.9"])
        ledger.settle(second, uploaded("1.8", "k2"), ["1.8"])
        rows = [(row["status"], row["key"], row["superseded_keys"]) for row in report(ledger)]
        assert rows == [told, ("uploaded", "k2", "")]


class TestPatience:
    def test_ends_before_the_run_counts_as_dead(self, tmp_path: Path) -> None:
        """With a database that is away: two thirds of the time, whatever SQLite's own time-out is."""
        path = tmp_path / "ledger.sqlite"
        with closing(Ledger(path, "default", "r1", dead_after_s=1.5)) as ledger:
            ledger.begin(1, tmp_path, ENTRIES, {})
            blocking = connect(path)
            locked = blocking.execution_options(writes=True).begin()
            with locked, pytest.raises(StoppedError, match="locked"):
                ledger.enrol(1, [Unwalked(1, 1, "/x", Status.MISSING, Reason.NOT_FOUND)], [])
            blocking.dispose()


class TestReportWhileAtWork:
    def test_says_how_long_a_killed_run_may_count_as_alive(
        self, run: Callable[..., Ledger], where: Where, tmp_path: Path
    ) -> None:
        run("r1")
        with pytest.raises(UsageError, match="at work, or was killed a moment ago"):
            Ledger.of_last_run(where, "default", tmp_path / "report")

    def test_is_not_so_once_its_process_is_gone(self, where: Where, tmp_path: Path) -> None:
        with opened(where, "r1", tmp_path / "report") as (_, trail):
            trail.close()
            Ledger.of_last_run(where, "default", tmp_path / "report").close()
