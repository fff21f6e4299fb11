"""The command `status`: what a second terminal is shown of runs, and whether one is at work."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.cli.__main__ import execute
from tests.conftest import NearSide, Plant
from tests.far_side import TOKEN, FarSide
from tests.processes import Command, await_that

pytestmark = pytest.mark.usefixtures("here")


def shown(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what --json prints."""
    capsys.readouterr()
    code = execute(["status", "--json", *more])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def newest(found: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = found["campaigns"][0]["runs"][0]
    return run


@pytest.mark.processes
def test_shows_a_run_of_another_process_from_its_start_to_its_end(
    here: Path,
    plant: Plant,
    far_side: FarSide,
    let_go: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At work: 5. Killed: 0 at once, and when it was last alive. Gone on with: all is done."""
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(here / "PATIENT", 3)
    command = ["upload", "-p", str(here / "PATIENT"), "-u", far_side.url, "--dead-after", "2"]
    run = Command(here, os.environ, *command)
    try:
        await_that(lambda: (here / "report" / "ledger.sqlite").is_file() and far_side.wait_for_puts(3))
        await_that(lambda: shown(capsys)[0] == 5 and newest(shown(capsys)[1])["files_listed"] == 3)
        code, found = shown(capsys)
        its = newest(found)
        assert (code, found["at_work"], its["state"], its["files_left"]) == (5, True, "at_work", 3)
        assert run.process.poll() is None
    finally:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.ended()
    code, found = shown(capsys)
    assert (code, newest(found)["state"], newest(found)["files_left"]) == (0, "killed", 3)
    assert newest(found)["last_alive_at"] <= found["seen_at"]
    assert execute(["status"]) == 0
    said = capsys.readouterr()
    assert "was killed, or its machine sleeps. The same command goes on from there" in said.err
    let_go.set()
    assert execute(command) == 0
    code, found = shown(capsys)
    assert (code, [each["state"] for each in found["campaigns"][0]["runs"]]) == (0, ["ended", "killed"])
    assert (newest(found)["files_left"], newest(found)["files_stored"]) == (0, 3)
    assert "PATIENT" not in json.dumps(found) + said.out + said.err


class TestOfARunThatHasEnded:
    @pytest.fixture(autouse=True)
    def ended(self, near_side: NearSide, dicom: Any) -> None:
        near_side.put("study/one", dicom("1.9.1"))
        near_side.put("study/two", b"no image")
        near_side.put("study/three", dicom("1.9.3")[:-20])
        assert near_side.run().exit_code == 1

    def test_is_what_its_summary_says(self, near_side: NearSide, capsys: pytest.CaptureFixture[str]) -> None:
        """In the same words."""
        code, found = shown(capsys, "--report-dir", "report")
        its = newest(found)
        summary = json.loads((near_side.report_dir / "summary.json").read_text())
        assert code == 0
        assert {name: its[name] for name in ("run_id", "started_at")} == {
            name: summary[name] for name in ("run_id", "started_at")
        }
        assert its["last_alive_at"] == summary["finished_at"]
        assert (its["files_listed"], its["files_done"], its["files_stored"]) == (3, 3, 1)
        assert (its["files_failed"], its["files_held_back"]) == (0, 1)
        assert its["bytes_stored"] == summary["bytes"]
        assert (its["kind"], its["shards"], found["campaigns"][0]["earlier_runs"]) == ("files", [], 0)

    def test_is_aligned_on_a_terminal_and_plain_in_a_pipe(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert execute(["status"]) == 0
        header, row = capsys.readouterr().out.splitlines()
        cells = dict(zip(header.split("\t"), row.split("\t"), strict=True))
        assert (cells["CAMPAIGN"], cells["STATE"], cells["DONE"], cells["LEFT"]) == (
            "default",
            "ended",
            "3 of 3",
            "0",
        )
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert execute(["status"]) == 0
        said = capsys.readouterr()
        header, row = said.out.splitlines()
        assert "\t" not in said.out
        assert header.index("STATE") == row.index("ended")
        assert said.err == "No run is at work.\n"

    def test_is_of_the_ledger_that_is_named(
        self, near_side: NearSide, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By option, by setting, or by the directory of its report."""
        (near_side.report_dir / "ledger.sqlite").rename("elsewhere.sqlite")
        assert execute(["status"]) == 2
        assert "There is no ledger there" in capsys.readouterr().err
        assert not (near_side.report_dir / "ledger.sqlite").exists()
        assert shown(capsys, "--ledger", "elsewhere.sqlite")[0] == 0
        monkeypatch.setenv("DICOM_INGEST_LEDGER", "elsewhere.sqlite")
        assert len(shown(capsys)[1]["campaigns"]) == 1
        assert shown(capsys, "--campaign", "other")[1]["campaigns"] == []

    def test_keeps_its_figures_in_later_runs_too(
        self, near_side: NearSide, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The newest is above; what an earlier one had is gone with its listing."""
        near_side.run()
        runs = shown(capsys)[1]["campaigns"][0]["runs"]
        assert [each["files_listed"] for each in runs] == [3, None]


def test_says_how_an_engine_in_this_process_stands(
    near_side: NearSide, dicom: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that looks may be the run's own."""
    near_side.put("study/one", dicom("1.9.1"))
    engine = near_side.engine()
    engine.plan(engine.scan())
    code, found = shown(capsys)
    assert (code, newest(found)["state"]) == (5, "at_work")
    near_side.finished(engine)
    assert shown(capsys)[0] == 0


@pytest.mark.processes
def test_sets_the_bandwidth_of_a_run_of_another_process(
    here: Path,
    plant: Plant,
    far_side: FarSide,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At a byte a second it would take half an hour; then it ends, and its trail says who let it."""
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(here / "PATIENT", 3)
    command = ["upload", "-p", str(here / "PATIENT"), "-u", far_side.url, "--dead-after", "2"]
    run = Command(here, os.environ, *command, "--bandwidth", "1b")
    try:
        await_that(lambda: far_side.wait_for_puts(1))
        assert execute(["status", "--set-bandwidth", "10M:1M"]) == 2
        assert "what is sent is limited alone" in capsys.readouterr().err
        assert run.process.poll() is None
        setter = Command(
            here, {**os.environ, "DICOM_INGEST_USER_ID": "ada"}, "status", "--set-bandwidth", "200M"
        )
        assert setter.ended() == 0
        assert setter.said == "Bandwidth of the runs at work, within seconds and until they end: 200M.\n"
        assert run.ended() == 0, run.said
    finally:
        run.process.kill()
    assert "Bandwidth, from now on: 200M" in run.said
    lines = map(json.loads, (here / "report" / "audit.jsonl").read_text().splitlines())
    (event,) = [each for each in lines if each["event"] == "bandwidth_set"]
    assert (event["bandwidth"], event["user_id"]) == ("200M", "ada")
    assert execute(["status", "--set-bandwidth", "off"]) == 2
    assert "No run of this campaign is at work: nothing was changed" in capsys.readouterr().err
