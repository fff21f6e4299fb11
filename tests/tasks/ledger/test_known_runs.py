"""Which runs a ledger knows, for whoever holds an audit trail against it."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core.errors import StoppedError
from tasks.core.models import RunFacts
from tasks.ledger.known_runs import read_known_runs
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import Where


def test_are_those_into_a_directory_by_whatever_name(
    run: Callable[..., Ledger], where: Where, tmp_path: Path
) -> None:
    """With their ends; on SQLite and PostgreSQL."""
    first = run("one")
    first.end(RunFacts("one", "default", time.time_ns(), time.time_ns(), peak_parallel=1))
    run("two")
    known = read_known_runs(where)
    assert known.run_ids == {"one", "two"}
    (tmp_path / "report").mkdir()
    (tmp_path / "link").symlink_to("report")
    into = known.into(tmp_path / "link")
    assert [(each.run_id, each.has_ended) for each in into] == [("one", True), ("two", False)]
    assert [known.has_lines(each) for each in into] == [True, False]
    assert known.into(tmp_path) == []
    assert known.is_on_disk == isinstance(where, Path)


def test_are_also_those_that_have_a_key_and_no_row_yet(run: Callable[..., Ledger], where: Where) -> None:
    """A migration that was killed while it weighed its studies."""
    run("one")
    with closing(Ledger(where, "default", "two")) as weighing:
        assert weighing.issue_unused("uploads/1", 1)
    assert read_known_runs(where).run_ids == {"one", "two"}


def test_of_no_ledger_are_none(tmp_path: Path) -> None:
    """And none is made."""
    assert read_known_runs(tmp_path / "ledger.sqlite").run_ids == frozenset()
    assert read_known_runs(f"sqlite:///{tmp_path}/ledger.sqlite").run_ids == frozenset()
    with closing(sqlite3.connect(tmp_path / "another.sqlite")) as db:
        db.execute("CREATE TABLE run (a)")
    assert read_known_runs(tmp_path / "another.sqlite").run_ids == frozenset()
    (tmp_path / "notes").write_text("no database " * 100)
    with pytest.raises(StoppedError, match="file is not a database"):
        read_known_runs(tmp_path / "notes")
    assert {path.name for path in tmp_path.iterdir()} == {"another.sqlite", "notes"}
