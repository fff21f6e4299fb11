"""Runs that a bound ends in order, under Prefect: Completed, to be continued, and the next one goes on."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from prefect import flow, tags
from prefect.client.schemas.objects import FlowRun, State

from flows.backfill import backfill
from flows.migrate import _starter
from flows.orchestration.parameters import Options
from flows.orchestration.scheduled_runs import is_scheduled
from tasks.report.reader import read_report, read_summary
from tasks.run.edges import REAL
from tasks.run.shards import Migration
from tests.conftest import NearSide
from tests.far_side import TOKEN, FarSide, Request, Step
from tests.processes import Command, await_that

pytestmark = pytest.mark.usefixtures("prefect_server", "nobody_elses_settings")


@pytest.fixture
def platform(far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> FarSide:
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    return far_side


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events of ends, by name."""
    ended: list[str] = []
    monkeypatch.setattr(
        "flows.orchestration.events.emit_event", lambda event, **_: ended.append(event.split(".")[-1])
    )
    return ended


def write(path: Path, *studies: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["study_dir", *studies]) + "\n")
    return path


def run(manifest: Path, report_dir: Path, **options: Any) -> State[Any]:
    return backfill(str(manifest), report_dir=str(report_dir), options=Options(**options), return_state=True)


def test_of_a_manifest_is_completed_and_the_next_run_goes_on(
    near_side: NearSide, platform: FarSide, ended: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is red, no batch either."""
    near_side.put_many(9)
    manifest = write(near_side.directory / "manifest.csv", "archive/study")
    first = run(manifest, near_side.report_dir, max_files=4)
    assert first.is_completed()
    assert first.message == "to be continued: 9 files, 4 stored, 0 already there, 5 not attempted"
    assert read_summary(near_side.report_dir).exit_code == 1
    then = run(manifest, near_side.report_dir)
    assert then.message == "9 files, 5 stored, 4 already there"
    assert ended == ["to_be_continued", "completed"], "no study is told of as incomplete meanwhile"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class TestOfAFolder:
    @pytest.fixture
    def folder(self, near_side: NearSide) -> Path:
        """Manifests of three studies, of five files each."""
        for study in "abc":
            near_side.put_many(5, study)
            write(near_side.directory / "manifests" / f"{study}.csv", f"../archive/{study}")
        return near_side.directory / "manifests"

    def test_is_that_of_all_manifests_together(
        self, near_side: NearSide, platform: FarSide, folder: Path
    ) -> None:
        """--max-files is no manifest's own: what is left of it is the next one's."""
        first = run(folder, near_side.report_dir, max_files=5)
        assert first.is_completed()
        assert first.message == "to be continued: 3 manifests: 1 done, 1 to be continued"
        assert len(platform.objects) == 5
        assert not (near_side.report_dir / "b.csv").exists(), "it was not begun for nothing"
        second = run(folder, near_side.report_dir, max_files=6)
        assert second.message == "to be continued: 3 manifests: 1 done, 1 finished before, 1 to be continued"
        assert len(platform.objects) == 11
        statuses = [row["status"] for row in read_report(near_side.report_dir / "c.csv")]
        assert sorted(statuses) == ["not_attempted"] * 4 + ["uploaded"]

    def test_that_has_a_wrong_one_is_failed_all_the_same(
        self, near_side: NearSide, platform: FarSide, folder: Path
    ) -> None:
        """That needs a person, whatever is to be continued."""
        (folder / "0.csv").write_text("no,such,columns\n1,2,3\n")
        state = run(folder, near_side.report_dir, max_files=1)
        assert state.is_failed()
        assert state.message == "to be continued: 4 manifests: 1 wrong, 1 to be continued"

    def test_comes_with_max_duration_too(self, near_side: NearSide, platform: FarSide, folder: Path) -> None:
        """Over before the first manifest: none is run."""
        state = run(folder, near_side.report_dir, max_duration="0")
        assert state.message == "to be continued: 3 manifests: 1 to be continued"
        assert not platform.objects


NIGHTS = "Mon-Fri 19:00-06:00 Europe/Berlin"


class Wall:
    """A clock that is set by a test."""

    def __init__(self, at: str) -> None:
        self.set(at)

    def __call__(self) -> int:
        return self.now_ns

    def set(self, text: str) -> None:
        local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        self.now_ns = int(local.timestamp()) * 10**9


class TestOfAWindow:
    @pytest.fixture
    def wall(self, monkeypatch: pytest.MonkeyPatch) -> Wall:
        wall = Wall("2026-11-28 05:59")
        monkeypatch.setattr("tasks.run.edges.REAL", replace(REAL, clock_ns=wall))
        return wall

    def test_under_a_schedule_is_completed_and_the_next_night_goes_on(
        self, near_side: NearSide, platform: FarSide, wall: Wall, ended: list[str]
    ) -> None:
        """It closes in the middle, and what began then is finished."""
        near_side.put_many(60)
        manifest = write(near_side.directory / "manifest.csv", "archive/study")

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                time.sleep(0.05)  # so that no more than a few are admitted ahead
            if request.step is Step.PUT and request.n == 5:
                wall.set("2026-11-28 06:00")

        platform.script = script
        with tags("auto-scheduled"):
            first = run(manifest, near_side.report_dir, window=NIGHTS, parallel=2)
        stored = len(platform.objects)
        assert 5 <= stored < 60
        assert first.is_completed()
        assert first.message == (
            f"to be continued: 60 files, {stored} stored, 0 already there, {60 - stored} not attempted"
        )
        assert read_summary(near_side.report_dir).ended_by == "window"
        wall.set("2026-11-30 19:00")
        with tags("auto-scheduled"):
            then = run(manifest, near_side.report_dir, window=NIGHTS)
        assert then.is_completed()
        assert then.message == f"60 files, {60 - stored} stored, {stored} already there"
        assert ended == ["to_be_continued", "completed"]

    def test_of_a_folder_under_a_schedule_leaves_the_other_manifests(
        self, near_side: NearSide, platform: FarSide, wall: Wall
    ) -> None:
        """A manifest's run knows that it is part of a scheduled one."""
        wall.set("2026-11-28 12:00")
        for study in "ab":
            near_side.put_many(2, study)
            write(near_side.directory / "manifests" / f"{study}.csv", f"../archive/{study}")
        with tags("auto-scheduled"):
            state = run(near_side.directory / "manifests", near_side.report_dir, window=NIGHTS)
        assert state.message == "to be continued: 2 manifests: 1 to be continued"
        assert not platform.objects
        assert not (near_side.report_dir / "b.csv").exists()


def test_each_shard_is_started_with_its_part(
    near_side: NearSide, platform: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the files; and with the window that all have."""
    started: list[dict[str, Any]] = []

    def start(_name: str, parameters: dict[str, Any], **_: Any) -> FlowRun:
        started.append(parameters)
        return FlowRun(flow_id=uuid4())

    monkeypatch.setattr("flows.migrate.run_deployment", start)
    settings = near_side.settings(max_files=8, window=NIGHTS, parallel=4)
    migration: Any = SimpleNamespace(settings=settings, run_id="m", _ends_at=None)
    migration.bounds = MethodType(Migration.bounds, migration)

    @flow
    def whole() -> None:
        for number in (1, 2, 3):
            _starter(migration, "migrate-shard/worker", 3, "")(number, 1)

    whole()
    options = [Options(**parameters["options"]) for parameters in started]
    assert [each.max_files for each in options] == [3, 3, 2]
    assert {each.window for each in options} == {NIGHTS}


class Server:
    """What Prefect's server has of the run that is asked for."""

    def __init__(self, **run: Any) -> None:
        self.run = FlowRun(flow_id=uuid4(), **run)

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        yield self

    def read_flow_run(self, _run_id: object) -> FlowRun:
        return self.run


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"auto_scheduled": True}, True),
        ({"created_by": {"id": uuid4(), "type": "AUTOMATION", "display_value": "x"}}, True),
        ({"created_by": {"id": uuid4(), "type": "SCHEDULE", "display_value": "x"}}, True),
        ({"tags": ["auto-scheduled"]}, True),
        ({"created_by": {"id": uuid4(), "type": "USER", "display_value": "x"}}, False),
        ({}, False),
    ],
)
def test_who_began_a_run_is_what_prefect_says(run: dict[str, Any], expected: bool) -> None:
    assert is_scheduled(Server(**run)) is expected


@pytest.mark.processes
def test_a_command_that_waits_for_its_window_says_so_and_ends_at_once(
    near_side: NearSide, platform: FarSide
) -> None:
    """Ctrl-C: with a report, and exit code 130."""
    near_side.put_many(3)
    opens = datetime.now(UTC) + timedelta(hours=6)
    window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"
    options = ["-p", str(near_side.archive / "study"), "--window", window]
    command = Command(near_side.directory / "upload", os.environ, "upload", *options)
    await_that(lambda: f"waiting for the window, opens {opens:%a %H:%M} UTC" in command.said, 60)
    command.process.send_signal(signal.SIGINT)
    assert command.ended(30) == 130
    rows = list(read_report(command.directory / "report"))
    assert [(row["status"], row["reason"]) for row in rows] == [("not_attempted", "stopped")] * 3
    assert len(platform.minted) == 1
