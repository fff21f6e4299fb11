"""An archive whose upload is disturbed, and what has to hold in the end all the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from tasks.audit.check import audit
from tasks.ledger.database import connect
from tasks.ledger.schema import file
from tasks.report.reader import read_report
from tests.conftest import Dicom, padded
from tests.far_side import TOKEN, FarSide, Request, Reset, Step
from tests.processes import await_gone, descendants

FILES = 120
_QUIET_S = 0.3  # that nothing more comes from a killed process


class Archive:
    """A study with twins and trouble, a far side that is slow and drops connections, and a ledger."""

    def __init__(
        self, directory: Path, far_side: FarSide, dicom: Dicom, dice: random.Random, ledger: str = ""
    ) -> None:
        self.directory = directory
        self.ledger = ledger or str(directory / "ledger.sqlite")
        self.far_side = far_side
        self.dice = dice
        self.study = directory / "archive" / "study"
        self.report_dir = directory / "report"
        self.processes: list[subprocess.Popen[str]] = []
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

    def start(self, command: str, **environment: str) -> "subprocess.Popen[str]":
        """A run in a session of its own."""
        what = [str(self.manifest)] if command == "run" else ["-p", str(self.study.parent)]
        settings = {
            "DICOM_INGEST_API_ENDPOINT": self.far_side.url,
            "DICOM_INGEST_TOKEN": TOKEN,
            "DICOM_INGEST_REPORT_DIR": str(self.report_dir),
            "DICOM_INGEST_LEDGER": self.ledger,
            "DICOM_INGEST_DEAD_AFTER": "60",
        }
        with (self.directory / "stderr").open("a") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", command, *what],
                env=os.environ | settings | environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Leaves no process behind."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def told(self) -> str:
        """What the last command said."""
        return (self.directory / "stderr").read_text()

    def await_puts(self, count: int, process: "subprocess.Popen[str]") -> None:
        """Until so many more PUTs have begun."""
        until = time.monotonic() + 120
        count += len(self.far_side.asked(Step.PUT))
        while len(self.far_side.asked(Step.PUT)) < count and process.poll() is None:
            assert time.monotonic() < until, f"nothing is sent: {self.told}"
            time.sleep(0.002)

    def kill(self, command: str, sent: int, **environment: str) -> None:
        """Starts, lets about so many PUTs happen, and kills the whole session with -9.

        What has a session of its own, as the embedded Prefect server, ends by itself.
        """
        process = self.start(command, **environment)
        self.await_puts(sent, process)
        started = descendants(process.pid)
        assert process.poll() is not None or bool(started) == (command == "run"), "has a server, or has not"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _await_end(process.pid)
        await_gone(started)
        self._take_stock_after_puts()

    def _take_stock_after_puts(self) -> None:
        """What the killed process had given to the system still arrives: it is over once nothing comes."""
        arrived, quiet_since = -1, time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_S:
            if self.far_side.puts_under_way or arrived != len(self.far_side.requests):
                arrived, quiet_since = len(self.far_side.requests), time.monotonic()
            time.sleep(0.01)
        self.take_stock()

    def take_stock(self) -> None:
        """What the ledger knows to be stored stays so; what else the far side holds, a kill left there."""
        stored = self.stored()
        for path, key in self.committed.items():
            assert stored[path] == key, "a PUT whose success was committed was repeated"
        self.committed = stored
        self.uncertain |= set(self.far_side.bodies) - set(stored.values())

    def stored(self) -> dict[str, str]:
        """The key of each stored file, as the ledger knows it now."""
        database = connect(self.ledger if "://" in self.ledger else Path(self.ledger))
        try:
            with database.connect() as db:
                query = sa.select(file.c.path, file.c.key).where(file.c.status == "uploaded")
                return dict(map(tuple, db.execute(query)))
        finally:
            database.dispose()

    def finish(self) -> int:
        """One more run, to its end."""
        return self.start("upload").wait(timeout=240)

    def check(self) -> None:
        """Every file is stored once, under the key that the report names; every key is in the report."""
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
        assert audit(self.report_dir).faults == []
        assert padded("1.2.0") in uids
        assert len(uids) == len(set(uids)) == FILES


def _await_end(group: int) -> None:
    """Until no process of a session is left."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.005)
    raise AssertionError("a process outlived its run")
