"""The run's own files lie in the archive that it sends: no part of it, and nothing happens to them."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tasks.report.reader import read_report
from tests.conftest import Dicom
from tests.databases import long_ago
from tests.far_side import TOKEN, FarSide, Request, Reset, Step
from tests.processes import DICOM_INGEST, await_that

FILES = 40
BEFORE, AFTER = 10, 10  # PUTs that are answered before another process looks at the ledger, and after that


@pytest.fixture
def study(tmp_path: Path, dicom: Dicom) -> Path:
    """Where somebody types `dicom-ingest upload -p .`: the report and its ledger will be in it, too."""
    study = tmp_path / "study"
    study.mkdir()
    for number in range(FILES):
        (study / f"{number:04}.dcm").write_bytes(dicom(f"1.2.{number}"))
    return study


class Answers:
    """A far side that answers so many PUTs as it is allowed to, and holds the others."""

    def __init__(self, far_side: FarSide) -> None:
        self.allowed = BEFORE
        self.is_cut_off = False  # who sends was killed: what is held does not arrive
        self._more = threading.Condition()
        far_side.script = self._script

    def allow(self, puts: int) -> None:
        with self._more:
            self.allowed += puts
            self._more.notify_all()

    def cut_off(self) -> None:
        with self._more:
            self.is_cut_off = True
            self._more.notify_all()

    def _script(self, request: Request) -> Reset | None:
        if request.step is Step.PUT:
            with self._more:
                self._more.wait_for(lambda: request.n <= self.allowed or self.is_cut_off, 240)
            if request.n > self.allowed:
                return Reset()
        return None


@pytest.fixture
def answers(far_side: FarSide) -> Iterator[Answers]:
    answers = Answers(far_side)
    yield answers
    answers.allow(1_000_000)


def test_a_ledger_in_the_study_loses_nothing_that_was_settled(
    study: Path, far_side: FarSide, answers: Answers
) -> None:
    """Another process opens and closes it in the middle, then the run is killed: the next one sends the rest.

    Locks on the ledger would be gone had the scan opened and closed it, and the log with the newest rows be
    removed by the other process.
    """
    uploading = subprocess.Popen(command("upload", "-p", "."), cwd=study, env=environment(far_side))
    try:
        await_that(lambda: stored(study) == BEFORE)
        refused = subprocess.run(command("report"), cwd=study, env=environment(far_side), check=False)
        assert refused.returncode == 2  # the run is at work
        answers.allow(AFTER)
        await_that(lambda: stored(study) == BEFORE + AFTER)
    finally:
        uploading.kill()
        uploading.wait()
    answers.cut_off()
    await_that(lambda: not far_side.puts_under_way)
    assert stored(study) == BEFORE + AFTER
    long_ago(study / "report" / "ledger.sqlite")
    kept = set(far_side.bodies)
    answers.allow(1_000_000)
    again = subprocess.run(command("upload", "-p", "."), cwd=study, env=environment(far_side), check=False)
    assert again.returncode == 0
    rows = list(read_report(study / "report"))
    assert [os.path.basename(row["path"]) for row in rows] == sorted(p.name for p in study.glob("*.dcm"))
    assert len(far_side.bodies) == FILES
    assert kept <= {row["key"] for row in rows}


def command(*arguments: str) -> list[str]:
    return [*DICOM_INGEST, *arguments]


def environment(far_side: FarSide) -> dict[str, str]:
    return os.environ | {"DICOM_INGEST_API_ENDPOINT": far_side.url, "DICOM_INGEST_TOKEN": TOKEN}


def stored(study: Path) -> int:
    """How many files the ledger knows to be stored."""
    ledger = study / "report" / "ledger.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=60)) as db:
            return int(db.execute("SELECT count(*) FROM file WHERE status = 'uploaded'").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0
