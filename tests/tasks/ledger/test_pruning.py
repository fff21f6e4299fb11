"""Listings of earlier runs into a report directory go when a newer report of it is complete."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError
from tasks.ledger import pruning
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tasks.ledger.schema import listing
from tasks.run.records import report_again
from tests.conftest import NearSide, instance
from tests.databases import long_ago
from tests.far_side import Step
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, facts, listed, report, store

_times = count(1)  # before any that a clock gives


def listings(where: Where) -> dict[str, int]:
    """Rows by run."""
    engine = connect(where)
    with engine.connect() as db:
        query = sa.select(listing.c.run_id, sa.func.count()).group_by(listing.c.run_id)
        found = {row[0]: row[1] for row in db.execute(query)}
    engine.dispose()
    return found


def begun(where: Where, run_id: str, report_dir: Path, rows: int = 3, at_ns: int = 0) -> Ledger:
    ledger = Ledger(where, "default", run_id)
    ledger.begin(at_ns or next(_times), report_dir, ENTRIES, {})
    enrolled(ledger, *map(listed, range(1, rows + 1)))
    return ledger


def ended(where: Where, run_id: str, report_dir: Path, rows: int = 3, at_ns: int = 0) -> None:
    ledger = begun(where, run_id, report_dir, rows, at_ns)
    ledger.end(facts(run_id))
    ledger.close()


class TestARun:
    def test_leaves_the_listing_of_its_own_report_alone(self, near_side: NearSide) -> None:
        """However often a campaign is run; and the report can be written again."""
        near_side.put("study/1", instance("1.2.1"))
        near_side.put("study/2", instance("1.2.2"))
        for _ in range(3):
            last = near_side.run()
        assert last.statuses == {"study/1": "already_uploaded", "study/2": "already_uploaded"}
        settings = near_side.settings()
        assert listings(settings.ledger_at) == {last.summary.run_id: 2}
        again = near_side.told(report_again(settings.report_dir, settings.ledger_at, settings.campaign))
        assert again.rows == last.rows

    def test_leaves_reports_in_other_directories_alone(self, near_side: NearSide) -> None:
        """Each can be written again, also where the ledger is one for all."""
        near_side.put("study/1", instance("1.2.1"))
        settings = near_side.settings()
        near_side.options["ledger"] = str(settings.ledger_at)
        near_side.run()
        near_side.run(report_dir=near_side.directory / "other")
        assert list(listings(settings.ledger_at).values()) == [1, 1]

    def test_whose_report_was_not_written_leaves_all(self, near_side: NearSide) -> None:
        """The earlier one is the newest report that there is."""
        near_side.put("study/1", instance("1.2.1"))
        near_side.run()
        near_side.put("study/2", instance("1.2.2"))
        in_the_way = near_side.report_dir / ".report.csv.tmp"
        near_side.far_side.script = lambda request: in_the_way.mkdir() if request.step is Step.PUT else None
        with pytest.raises(StoppedError):
            near_side.run()
        assert sorted(listings(near_side.settings().ledger_at).values()) == [1, 2]


class TestEarlierRuns:
    def test_are_pruned_page_by_page(self, where: Where, tmp_path: Path, run: Callable[..., Ledger]) -> None:
        """A commit for each; one that is cut short is gone on with, and the newest report stays whole."""
        ended(where, "r1", tmp_path / "report", rows=pruning._PAGE * 2 + 1)
        newest = run("r2")
        (todo,) = enrolled(newest, listed(1))
        store(newest, todo, "1.9", "k1")
        commits = 0

        def write_twice(work: Callable[[sa.Connection], object]) -> object:
            nonlocal commits
            commits += 1
            if commits > 2:
                raise StoppedError("killed")
            return newest._writer.write(work)

        with pytest.raises(StoppedError, match="killed"):
            pruning.prune(newest._engine, newest._scope, write_twice)
        assert listings(where) == {"r1": pruning._PAGE + 1, "r2": 1}
        newest.prune()
        assert listings(where) == {"r2": 1}
        assert [row["status"] for row in report(newest)] == ["uploaded"]

    def test_that_may_live_are_left(self, where: Where, tmp_path: Path, run: Callable[..., Ledger]) -> None:
        """One that was killed, until it has given no sign of life for a day; and one that began later."""
        begun(where, "killed", tmp_path / "report").close()
        newest = run("newest")
        ended(where, "later", tmp_path / "report", at_ns=2**62)
        newest.prune()
        assert sorted(listings(where)) == ["killed", "later"]
        long_ago(where)
        newest.prune()
        assert sorted(listings(where)) == ["later"]

    def test_that_are_shards_are_left_while_their_migration_is_not_over(
        self, where: Where, tmp_path: Path, run: Callable[..., Ledger]
    ) -> None:
        """It can be gone on with, and needs the rows of shards that have ended."""
        whole = Ledger(where, "default", "m")
        whole.begin_divided(next(_times), tmp_path / "report", ENTRIES, {}, {}, [ENTRIES])
        shard = Ledger(where, "default", "m-0001")
        assert shard.take_up(next(_times), tmp_path / "shards" / "0001")
        enrolled(shard, listed(1))
        shard.end(facts("m-0001"))
        long_ago(where)
        newest = run("newest")
        newest.prune()
        again = Ledger(where, "default", "n-0001")  # of another migration into the same directories
        run("n")
        again.begin(next(_times), tmp_path / "shards" / "0001", ENTRIES, {})
        again.prune()
        assert listings(where) == {"m-0001": 1}
        whole.end(facts("m"))
        newest.prune()
        assert listings(where) == {}
        for ledger in (whole, shard, again):
            ledger.close()

    def test_whose_report_is_being_written_do_not_end_with_a_part_of_it(
        self, where: Where, tmp_path: Path, run: Callable[..., Ledger]
    ) -> None:
        """On another machine that has a directory of the same name."""
        ended(where, "r1", tmp_path / "report")
        theirs = Ledger(where, "default", "r1")
        run("r2").prune()
        with pytest.raises(StoppedError, match="rows of this run no more"):
            report(theirs)
        theirs.close()
