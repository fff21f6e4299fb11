"""Killed at any moment, started again: every file stored once under its reported key, no key forgotten.

KILLS says how often in all (30 unless told; `make test-kill` does 300).
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tasks.report import read_report
from tests.conftest import Dicom, padded, superseded
from tests.far_side import TOKEN, FarSide, Request, Reset, Step

KILLS = int(os.environ.get("KILLS", "30"))
KILLS_OF_RUN = max(2, KILLS // 10)
KILLS_IN_A_ROW = 3
FILES = 120


class Archive:
    """A study with twins and trouble, a far side that is slow and drops connections, and a ledger."""

    def __init__(self, directory: Path, far_side: FarSide, dicom: Dicom, dice: random.Random) -> None:
        self.directory = directory
        self.far_side = far_side
        self.dice = dice
        self.study = directory / "archive" / "study"
        self.report_dir = directory / "report"
        self.uncertain: set[str] = set()  # objects whose success no ledger row knew at some kill
        self.committed: dict[str, str] = {}  # path -> key, as of the kills
        self.study.mkdir(parents=True)
        for number in range(FILES):
            body = dicom(f"1.2.{number}", pixel_bytes=64 * dice.randrange(1, 300))
            (self.study / f"{number:04}.dcm").write_bytes(body)
        (self.study / "twin.dcm").write_bytes((self.study / "0007.dcm").read_bytes())
        (self.study / "other.dcm").write_bytes(dicom("1.2.8", text="other bytes"))
        (self.study / "notes.txt").write_text("not an image")
        self.manifest = directory / "manifest.csv"
        self.manifest.write_text("study_dir\narchive/study\n")
        far_side.script = self._slow_and_shaky

    def _slow_and_shaky(self, request: Request) -> Reset | None:
        dice = random.Random(f"{request.step} {request.n} {id(self)}")
        time.sleep(dice.random() * 0.05)
        return Reset(stored=dice.random() < 0.5) if dice.random() < 0.03 else None

    def start(self, command: str) -> "subprocess.Popen[bytes]":
        what = [str(self.manifest)] if command == "run" else ["-p", str(self.study.parent)]
        options = ["-u", self.far_side.url, "--report-dir", str(self.report_dir), "--dead-after", "2"]
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", command, *what, *options],
            env=os.environ | {"DICOM_INGEST_TOKEN": TOKEN},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an embedded Prefect server goes with it
        )

    def kill(self, command: str, sent: int) -> None:
        """Starts, lets about so many PUTs happen, and kills the whole session with -9."""
        before = len(self.far_side.asked(Step.PUT))
        process = self.start(command)
        until = time.monotonic() + 120
        while len(self.far_side.asked(Step.PUT)) - before < sent and process.poll() is None:
            assert time.monotonic() < until, "nothing is sent"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while self.far_side.puts_under_way:
            time.sleep(0.01)
        self.take_stock()

    def take_stock(self) -> None:
        with closing(sqlite3.connect(self.report_dir / "ledger.sqlite")) as ledger:
            stored = dict(ledger.execute("SELECT path, key FROM file WHERE status = 'uploaded'"))
        for path, key in self.committed.items():
            assert stored[path] == key, "a PUT whose success was committed was repeated"
        self.committed = stored
        self.uncertain |= set(self.far_side.bodies) - set(stored.values())

    def finish(self) -> int:
        return self.start("upload").wait(timeout=120)

    def check(self) -> None:
        rows = list(read_report(self.report_dir))
        assert sorted(row["path"] for row in rows) == sorted(str(path) for path in self.study.iterdir())
        bodies = self.far_side.bodies
        for row in rows:
            name = os.path.basename(row["path"])
            if name == "notes.txt":
                assert row["status"] == "not_dicom"
            elif row["status"] == "conflict":
                assert name in ("0008.dcm", "other.dcm")
            else:
                assert row["status"] in ("uploaded", "already_uploaded", "duplicate"), (name, row["status"])
                assert bodies[row["key"]] == Path(row["path"]).read_bytes()
        for row in rows:
            assert self.committed.get(row["path"], row["key"]) == row["key"]
        keys = {row["key"] for row in rows} | {k for row in rows for k in row["superseded_keys"].split(";")}
        assert set(bodies) <= keys, "an object that no row names"
        put_to = {request.key for request in self.far_side.asked(Step.PUT)}
        assert put_to <= keys, "a key to which something was sent, and no row names it"
        stored_once = {row["key"] for row in rows if row["key"]}
        assert len(stored_once) == FILES
        assert set(bodies) - stored_once <= self.uncertain, "an object sent in vain, not by a kill"
        uids = [row["sop_instance_uid"] for row in rows if row["status"] in ("uploaded", "already_uploaded")]
        assert padded("1.2.0") in uids
        assert len(uids) == len(set(uids)) == FILES


@pytest.mark.parametrize("episode", range(-(-KILLS // KILLS_IN_A_ROW)))
def test_upload_killed_at_random_moments(
    episode: int, tmp_path: Path, far_side: FarSide, dicom: Dicom
) -> None:
    """kill -9 again and again, then a run to the end."""
    dice = random.Random(episode)
    archive = Archive(tmp_path, far_side, dicom, dice)
    for _ in range(KILLS_IN_A_ROW):
        archive.kill("upload", sent=dice.randrange(1, FILES // KILLS_IN_A_ROW))
    assert archive.finish() == 1  # one conflict was planted
    archive.check()


def test_the_flow_killed_at_random_moments(
    tmp_path: Path,
    far_side: FarSide,
    dicom: Dicom,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 of a flow with its embedded Prefect server, then an upload to the end."""
    # One home of Prefect for all commands of the session: only the first start in it takes long.
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path_factory.getbasetemp() / "prefect-home"))
    dice = random.Random(99)
    archive = Archive(tmp_path, far_side, dicom, dice)
    for _ in range(KILLS_OF_RUN):
        archive.kill("run", sent=dice.randrange(1, FILES // KILLS_OF_RUN))
    assert archive.finish() == 1
    archive.check()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_ends_in_order(
    signal_number: int, tmp_path: Path, far_side: FarSide, dicom: Dicom
) -> None:
    """Exit 130 within the grace, with a complete report; the same command then goes on."""
    archive = Archive(tmp_path, far_side, dicom, random.Random(5))
    process = archive.start("upload")
    while len(far_side.asked(Step.PUT)) < 40:
        time.sleep(0.005)
    process.send_signal(signal_number)
    assert process.wait(timeout=20) == 130
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
