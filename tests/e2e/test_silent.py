"""A run that is stopped in the middle for longer than --dead-after, by the command."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.audit.check import audit
from tasks.report.reader import read_report
from tests.conftest import Dicom, Row
from tests.far_side import TOKEN, FarSide, Request, Step
from tests.processes import Command, await_that


class Site:
    """Two runs with one ledger; a PUT of the first is answered when `go_on` is set."""

    def __init__(self, directory: Path, far_side: FarSide) -> None:
        self.directory = directory
        self.far_side = far_side
        self.go_on = threading.Event()
        self.commands: list[Command] = []
        far_side.script = self._hold_first_put

    def upload(self, name: str, body: bytes, dead_after_s: int) -> Command:
        """A run of one image, with a report directory of its own."""
        image = self.directory / name / "image.dcm"
        image.parent.mkdir()
        image.write_bytes(body)
        settings = {
            "DICOM_INGEST_API_ENDPOINT": self.far_side.url,
            "DICOM_INGEST_TOKEN": TOKEN,
            "DICOM_INGEST_LEDGER": str(self.directory / "ledger.sqlite"),
            "DICOM_INGEST_REPORT_DIR": str(self.report_dir(name)),
            "DICOM_INGEST_DEAD_AFTER": str(dead_after_s),
        }
        environment = dict(os.environ) | settings
        command = Command(self.directory / f"{name}-at", environment, "upload", "-p", str(image.parent))
        self.commands.append(command)
        return command

    def report_dir(self, name: str) -> Path:
        return self.directory / f"{name}-report"

    def row(self, name: str) -> Row:
        (row,) = read_report(self.report_dir(name))
        return row

    def _hold_first_put(self, request: Request) -> None:
        if request.step is Step.PUT and request.n == 1:
            self.go_on.wait(240)


@pytest.fixture
def site(tmp_path: Path, far_side: FarSide) -> Iterator[Site]:
    site = Site(tmp_path, far_side)
    yield site
    site.go_on.set()
    for command in site.commands:
        with suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait()


def test_settles_nothing_when_it_wakes_after_another_took_its_claim(
    site: Site, far_side: FarSide, dicom: Dicom
) -> None:
    """Two images with one SOP Instance UID: one is stored, the other's key is superseded and told."""
    first = site.upload("first", dicom("1.7", "one"), dead_after_s=60)
    await_that(lambda: far_side.asked(Step.PUT), said=lambda: first.said)
    os.killpg(first.process.pid, signal.SIGSTOP)
    second = site.upload("second", dicom("1.7", "other"), dead_after_s=3)
    assert second.ended() == 0, second.said
    site.go_on.set()
    os.killpg(first.process.pid, signal.SIGCONT)
    assert first.ended() == 3, first.said
    assert "counts as dead" in first.said
    of_first, of_second = site.row("first"), site.row("second")
    assert (of_second["status"], of_first["status"]) == ("uploaded", "conflict")
    assert (of_second["key"], of_first["superseded_keys"]) == (
        far_side.asked(Step.PUT)[1].key,
        far_side.asked(Step.PUT)[0].key,
    )
    assert audit(site.report_dir("first")).faults == audit(site.report_dir("second")).faults == []
