"""Killed at any moment, started again: every file stored once under its reported key, no key forgotten.

KILLS says how often in all (6 unless told; `make test-kill` does 300).
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.report.reader import read_report
from tests.conftest import superseded
from tests.databases import PostgreSQL
from tests.e2e.archive import FILES, Archive
from tests.far_side import FarSide

NewArchive = Callable[..., Archive]
KILLS = int(os.environ.get("KILLS", "6"))
KILLS_OF_RUN = max(2, KILLS // 10)
KILLS_IN_A_ROW = 3
EPISODES = -(-KILLS // KILLS_IN_A_ROW)


@pytest.mark.parametrize("episode", range(EPISODES))
def test_upload_killed_at_random_moments(
    episode: int, new_archive: NewArchive, postgresql: PostgreSQL
) -> None:
    """kill -9 again and again, then a run to the end. Every fifth time with a ledger in PostgreSQL."""
    dice = random.Random(episode)
    archive = new_archive(episode, "" if episode % 5 else postgresql.new_database())
    for _ in range(KILLS_IN_A_ROW):
        sent = dice.randrange(1, FILES // KILLS_IN_A_ROW)
        archive.kill("upload", sent)
    assert archive.finish() == 1  # one conflict was planted
    archive.check()


@pytest.mark.long
def test_the_flow_killed_at_random_moments(
    new_archive: NewArchive, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a flow with its embedded Prefect server, then an upload to the end."""
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    dice = random.Random(99)
    archive = new_archive()
    for _ in range(KILLS_OF_RUN):
        archive.kill("run", sent=dice.randrange(1, FILES // KILLS_OF_RUN))
    assert archive.finish() == 1
    archive.check()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_ends_in_order(
    signal_number: int, new_archive: NewArchive, far_side: FarSide
) -> None:
    """Exit 130 within the grace, with a complete report; the same command then goes on."""
    archive = new_archive()
    process = archive.start("upload")
    archive.await_puts(40, process)
    process.send_signal(signal_number)
    assert process.wait(timeout=240) == 130
    rows = list(read_report(archive.report_dir))
    statuses = {row["status"] for row in rows}
    assert len(rows) == FILES + 3
    assert "uploaded" in statuses
    assert "not_attempted" in statuses
    stored = {row["key"] for row in rows if row["status"] == "uploaded"}
    cut_off = {key for row in rows if row["reason"] == "interrupted" for key in superseded(row)}
    assert set(far_side.bodies) - stored <= cut_off, "what was in flight ended, and was settled"
    archive.take_stock()
    assert archive.finish() == 1
    archive.check()
