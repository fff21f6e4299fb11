"""What was left under a directory is found by an index, whatever the ledger holds besides."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from tasks.core.models import Outcome, Reason, Status
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import enrolled, listed


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, object]]]:
    """What is executed meanwhile, each with what it is bound to."""
    executed: list[tuple[str, object]] = []
    engine = ledger._engine

    def note(_db: object, _cursor: object, statement: str, bound: object, *_: object) -> None:
        executed.append((statement, bound))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield executed
    sa.event.remove(engine, "before_cursor_execute", note)


def plan(ledger: Ledger, statement: str, bound: object) -> str:
    """As the database would do it, had it more rows than fit on a page."""
    engine = ledger._engine
    with engine.connect() as db:
        if engine.dialect.name == "sqlite":
            rows = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", bound)  # type: ignore[arg-type]
            return "\n".join(str(row[3]) for row in rows)
        db.exec_driver_sql("SET enable_seqscan = off")
        rows = db.exec_driver_sql(f"EXPLAIN {statement}", bound)  # type: ignore[arg-type]
        return "\n".join(str(row[0]) for row in rows)


@pytest.fixture
def left(run: Callable[..., Ledger]) -> Ledger:
    """A run that begins after another one left a file, and stored none."""
    first = run("r1")
    (todo,) = enrolled(first, listed(1))
    first.settle(todo, Outcome(Status.FAILED, Reason.REFUSED))
    return run("r2")


class TestLeftFiles:
    def test_are_found_by_their_index(self, left: Ledger) -> None:
        """Under a directory, and whether there are any."""
        with statements(left) as executed:
            assert left.left.are_any()
            assert [found.path for found in left.left.under("/archive/one")] == ["/archive/one/1.dcm"]
        selects = [each for each in executed if " file" in each[0]]
        assert len(selects) == 3
        for select in selects:
            assert "file_left" in plan(left, *select)

    def test_stored_ones_are_counted_by_looking_up(self, left: Ledger) -> None:
        """No table is gone through."""
        with statements(left) as executed:
            assert left.left.count_gone() == 0
        (count,) = [each for each in executed if "count(" in each[0]]
        found = plan(left, *count)
        assert "study_by_dir" in found
        assert not re.search(r"SCAN (?!anon|.subquery)|Seq Scan", found), found

    def test_of_another_directory_are_not_among_them(self, left: Ledger) -> None:
        """Nor of another campaign, nor of one whose name begins alike."""
        for directory in ("/archive/on", "/archive/one/1.dcm", "/archive/two", "/archive/one0"):
            assert list(left.left.under(directory)) == []
        assert [found.path for found in left.left.under("/")] == ["/archive/one/1.dcm"]
