"""How the databases find what a statement asks for: by an index, however many rows there are.

Every statement that a run executes is asked for its plan, in a ledger that a large run has filled: on
PostgreSQL with and without statistics of its tables, as they come and go while it grows, and for a plan that
is made for values not yet known.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.core.models import Outcome, Status
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tasks.ledger.standings import read_standings
from tests.tasks.ledger.large_ledger import RUN_ID, fill
from tests.tasks.ledger.sample_rows import Where, enrolled, facts, listed, report, store, twin, uploaded

LARGE = "file", "listing", "instance", "issued_key"
Statements = dict[str, Any]  # each with what it was bound to first


@pytest.fixture
def filled(where: Where, tmp_path: Path) -> Where:
    fill(where, 2000, tmp_path / "report")
    return where


@contextmanager
def executed() -> Iterator[Statements]:
    """All statements from here on that look for rows of a large table."""
    found: Statements = {}

    def keep(_db: Any, _cursor: Any, statement: str, bound: Any, _context: Any, is_many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")) and _tables(statement):
            found.setdefault(statement, bound[0] if is_many else bound)

    sa.event.listen(sa.Engine, "before_cursor_execute", keep)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", keep)


def _tables(text: str) -> list[str]:
    return [table for table in LARGE if re.search(rf"\b{table}\b", text)]


def whole_life(where: Where, run: Callable[..., Ledger]) -> None:
    """A run with a file of each fate, stopped in the middle, reported; and the report of the large one."""
    ledger = run("new")
    one, two, three, four = enrolled(ledger, *map(listed, range(1, 5)))[:4]
    ledger.enrol_unscanned()
    store(ledger, one, "1.9", "k1")
    assert not ledger.claim(two, "1.9").mine
    ledger.settle(two, twin("1.9"))
    assert ledger.claim(three, "1.8").mine
    ledger.settle(three, twin("1.8", Status.INVALID), ["1.8"])
    kept = uploaded("1.9", "")
    ledger.settle(four, Outcome(Status.ALREADY_UPLOADED, header=kept.header, digests=kept.digests))
    ledger.issue_unused("k2", 1)
    assert ledger.due.count_stored() == 1
    assert not ledger.due.is_any()
    assert ledger.due.unfinished([1, 2]) == []
    assert ledger.due.started_before() == frozenset()
    assert list(ledger.due.in_order(1, lambda study_no: -study_no, ledger.todo)) == list(ledger.todo(1))
    assert ledger.facts().finished_ns
    assert report(ledger)
    assert list(ledger.studies())
    assert (ledger.overlaps(), ledger.shards(), ledger.unused_keys()) == ({2: 1}, [], ["k2"])
    ledger.end(facts("new"))
    assert len(read_standings(where, 45).campaigns[0].runs) == 2
    assert ledger.take_up(2, Path("/"))
    large = Ledger(where, "default", RUN_ID)
    assert len(report(large)) == 2000
    assert large.facts().finished_ns == 2000
    large.close()


class TestEveryStatement:
    def test_finds_its_rows_by_an_index(self, filled: Where, run: Callable[..., Ledger]) -> None:
        """None goes through a table, whatever the database knows of it."""
        with executed() as statements:
            whole_life(filled, run)
        assert len(statements) > 15
        plans = _sqlite_plans if isinstance(filled, Path) else _postgresql_plans
        walks = [
            (plan, statement) for statement, plan in plans(filled, statements) if any(map(_is_walk, plan))
        ]
        assert walks == []

    def test_of_a_batch_reads_nothing_of_the_others(self, filled: Where, run: Callable[..., Ledger]) -> None:
        """A run of many batches asks for what is to be done in each."""
        ledger = run("new")
        with executed() as statements:
            enrolled(ledger, listed(1))
        plans = _sqlite_plans if isinstance(filled, Path) else _postgresql_plans
        found = [plan for statement, plan in plans(filled, statements) if "batch_no" in statement]
        assert found
        assert all(re.search("listing_to_do.*batch_no.*study_no, ?file_no", " ".join(plan)) for plan in found)

    def test_of_shards_is_no_longer_for_many(self, filled: Where) -> None:
        """The report of hundreds of shards asks the same as that of two."""
        lengths = []
        for shards in (2, 200):
            with executed() as statements:
                ledger = Ledger(filled, "default", "m")
                assert ledger.begin_divided(1, Path("/"), [], {}, {}, [[]] * shards)
                assert report(ledger) == []
                ledger.close()
            lengths.append(sum(len(statement) for statement in statements if "same_uid_path" in statement))
        assert 0 < lengths[1] < lengths[0] + 10


Plans = Iterator[tuple[str, list[str]]]


def _sqlite_plans(where: Where, statements: Statements) -> Plans:
    engine = connect(where)
    with engine.connect() as db:
        for statement, bound in statements.items():
            plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", bound)
            yield statement, [row[3] for row in plan]
    engine.dispose()


def _postgresql_plans(where: Where, statements: Statements) -> Plans:
    """Of fresh tables and of those whose statistics are known; for the values bound, and for any."""
    engine = connect(where)
    for statistics in ("SELECT 1", "ANALYZE"):
        with engine.begin() as db:
            db.exec_driver_sql(statistics)
            db.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            for statement, bound in statements.items():
                plan = db.exec_driver_sql(f"EXPLAIN (COSTS off) {statement}", bound)
                yield statement, [row[0] for row in plan]
                yield statement, _plan_for_any(db, statement)
    engine.dispose()


def _plan_for_any(db: sa.Connection, statement: str) -> list[str]:
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
    db.exec_driver_sql(f"PREPARE any_values AS {numbered}")
    nothing = f"({', '.join(['NULL'] * len(names))})" if names else ""
    plan = [row[0] for row in db.exec_driver_sql(f"EXPLAIN (COSTS off) EXECUTE any_values{nothing}")]
    db.exec_driver_sql("DEALLOCATE any_values")
    return plan


def _is_walk(line: str) -> bool:
    """SQLite's SCAN, but of a page or of what was found; PostgreSQL's Seq Scan, hashes of a whole table."""
    if line.startswith("SCAN"):
        return line.split()[1] not in ("listed", "anon_1")
    return bool(re.search(r"Hash|Seq Scan on (\w+)|Bitmap|Merge", line))
