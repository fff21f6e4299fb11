"""Ledgers for tests: each on SQLite and on PostgreSQL."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import ENTRIES, Where


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    return str(request.getfixturevalue("postgresql").new_database())


@pytest.fixture
def run(where: Where, tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Opens runs on one database, and closes them."""
    opened: list[Ledger] = []

    def begin(
        run_id: str,
        campaign: str = "default",
        dead_after_s: float = 45,
        clock: Callable[[], float] = time.monotonic,
    ) -> Ledger:
        ledger = Ledger(where, campaign, run_id, dead_after_s, clock=clock)
        opened.append(ledger)
        ledger.begin(time.time_ns(), tmp_path / "report", ENTRIES, {2: 1})
        return ledger

    yield begin
    for ledger in opened:
        ledger.close()
