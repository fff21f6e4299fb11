"""--quiet and --json-logs: what is said, and what is not."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from flows.cli.__main__ import execute
from flows.cli.commands import app
from flows.orchestration.json_records import JsonRecords, recorded_in_json
from flows.orchestration.output_settings import (
    as_variables,
    as_variables_of_runs,
    output_of,
    saying_as_set,
)
from flows.orchestration.progress_display import display_progress, show_lines, showing
from flows.orchestration.standard_streams import Kind, Output, current_output, is_decided, say, saying
from tasks.core.errors import UsageError
from tasks.core.platform_state import PlatformState
from tasks.core.progress import Found, Progress
from tests.far_side import TOKEN, FarSide, Step, always, status
from tests.flows.conftest import Plant
from tests.flows.orchestration.test_run_progress import Ticking

pytestmark = pytest.mark.usefixtures("here")
LEVELS = {"debug", "info", "warning", "error", "critical"}


@pytest.fixture
def study(here: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(here / "study", 3)
    return here / "study"


@pytest.fixture
def upload(study: Path, far_side: FarSide) -> list[str]:
    return ["upload", "-p", str(study), "-u", far_side.url]


def names(arguments: Iterable[Any]) -> set[str]:
    return {name for argument in arguments for name in argument.names}


def objects(text: str) -> list[dict[str, Any]]:
    """Each line is one, with what each of them has."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in LEVELS
        assert line["event"] in list(Kind)
        assert isinstance(line["message"], str)
    return lines


class TestQuiet:
    def test_leaves_the_result_alone(self, upload: list[str], capfd: pytest.CaptureFixture[str]) -> None:
        assert execute([*upload, "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        said = err.splitlines()
        assert said[0] == "3 files: 3 uploaded"
        assert said[-1].startswith("Report: ")
        assert not re.search(r"new ledger|files/s|done", err), "neither news nor a pace"

    def test_leaves_out_what_is_said_without_it(
        self, upload: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Else the test above would hold for nothing."""
        assert execute(upload) == 0
        err = capfd.readouterr().err
        assert "A new ledger begins" in err
        assert "files/s" in err

    def test_leaves_warnings_and_errors(
        self, upload: list[str], far_side: FarSide, study: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (study / "cut").write_bytes(next(study.iterdir()).read_bytes()[:-10])
        assert execute([*upload, "--quiet"]) == 1
        assert "1 invalid" in capfd.readouterr().err
        far_side.script = always(Step.PRESIGN, status(401))
        assert execute([*upload, "--quiet"]) == 4
        assert "dicom-ingest: " in capfd.readouterr().err

    def test_shows_no_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        threads = threading.active_count()
        with saying(Output(is_quiet=True)), display_progress(Progress()):
            assert threading.active_count() == threads, "nothing is at work for it"
        assert capsys.readouterr().err == ""

    def test_is_a_setting_too(
        self, upload: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What the command line says wins; a value that is none ends with 2, whatever else is asked."""
        monkeypatch.setenv("DICOM_INGEST_QUIET", "true")
        assert execute(upload) == 0
        assert "files/s" not in capfd.readouterr().err
        assert execute([*upload, "--quiet=false"]) == 0
        assert "files/s" in capfd.readouterr().err
        monkeypatch.setenv("DICOM_INGEST_QUIET", "perhaps")
        assert execute(upload) == 2
        assert "--quiet (DICOM_INGEST_QUIET)" in capfd.readouterr().err

    def test_is_an_option_of_every_command(self) -> None:
        """And so is --json-logs."""
        commands = [name for name in app if not name.startswith("-")]
        of_each = {name: names(app[name].assemble_argument_collection()) for name in commands}
        assert [name for name, has in of_each.items() if not {"--quiet", "--json-logs"} <= has] == []

    def test_help_is_given_whatever_is_set(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_QUIET", "perhaps")
        assert execute(["upload", "--help"]) == execute(["help", "upload"]) == 0
        assert "--quiet" in capfd.readouterr().out


class TestJson:
    def test_each_line_is_an_object_and_the_last_one_has_the_counters(
        self, upload: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert execute([*upload, "--json-logs"]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        lines = objects(err)
        assert [line["event"] for line in lines].count("news") == 2
        last = lines[-1]
        assert (last["event"], last["level"]) == ("result", "info")
        assert (last["files"], last["by_status"], last["exit_code"]) == (3, {"uploaded": 3}, 0)
        summary = json.loads((Path("report") / "summary.json").read_text())
        assert {name: summary[name] for name in ("run_id", "wall_s", "bytes_per_s")}.items() <= last.items()

    def test_log_records_are_among_them(
        self, upload: list[str], far_side: FarSide, capfd: pytest.CaptureFixture[str]
    ) -> None:
        far_side.script = always(Step.PUT, status(400))
        assert execute([*upload, "--json-logs"]) == 1
        logged = [line for line in objects(capfd.readouterr().err) if line["event"] == "log"]
        assert len(logged) == 3
        assert {line["logger"] for line in logged} == {"dicom_ingest"}
        assert {line["level"] for line in logged} == {"warning"}
        assert all(re.match(r"study 1 file \d failed: refused", line["message"]) for line in logged)

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("uplaod", "uplaod"),
            ("upload -p x --parallel many", "--parallel"),
            ("upload -p gone -u https://api.example.org", "--path: there is no such file"),
        ],
    )
    def test_what_ends_a_command_is_an_error(
        self, command: str, words: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Also what the parser of the command line says."""
        assert execute([*command.split(), "--json-logs"]) == 2
        (line,) = objects(capfd.readouterr().err)
        assert (line["event"], line["level"], line["exit_code"]) == ("error", "error", 2)
        assert words in line["message"]

    def test_a_traceback_is_one_line(
        self, upload: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert execute([*upload, "--report-dir", "/dev/null/x", "--json-logs", "--debug"]) in (2, 3)
        (line,) = objects(capfd.readouterr().err)
        assert "Traceback" in line["message"]

    def test_a_wrong_variable_is_a_warning(
        self, upload: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_JSON_LOGS", "1")
        monkeypatch.setenv("DICOM_INGEST_TOKN", "x")
        assert execute(upload) == 0
        first = objects(capfd.readouterr().err)[0]
        assert (first["event"], "DICOM_INGEST_TOKN" in first["message"]) == ("warning", True)

    def test_with_quiet_the_result_remains(
        self, upload: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert execute([*upload, "--json-logs", "--quiet"]) == 0
        assert {line["event"] for line in objects(capfd.readouterr().err)} == {"result"}

    def test_progress_has_its_counters(self, capsys: pytest.CaptureFixture[str]) -> None:
        progress, now_s = Progress(scanning=False), [0.0]
        progress.count_listed(Found(10, 10, 100, 100))
        progress.platform = lambda: PlatformState(slots=20, slots_in_use=7)

        def move(at: float) -> None:
            now_s[0] = at
            if at == 2.0:
                progress.files_done = progress.files_settled = progress.files_stored = 5
                progress.bytes_done = progress.bytes_settled = progress.bytes_stored = 50

        with saying(Output(is_json=True)):
            show_lines(progress, (ticking := Ticking(5, move)), lambda: ticking.now_s)
        (line,) = objects(capsys.readouterr().err)
        assert line["message"].startswith("5 of 10 files done, 50 of 100 bytes, 5 uploaded, 0 failed, ")
        assert {name: line[name] for name in line if name not in ("time", "message")} == {
            "level": "info",
            "event": "progress",
            "files_listed": 10,
            "files_done": 5,
            "files_stored": 5,
            "files_failed": 0,
            "files_held_back": 0,
            "bytes_listed": 100,
            "bytes_done": 50,
            "bytes_stored": 50,
            "scanning": False,
            "files_per_s": line["files_per_s"],
            "bytes_per_s": line["bytes_per_s"],
            "seconds_left": line["seconds_left"],
            "slots": 20,
            "slots_in_use": 7,
        }

    def test_what_a_file_says_moves_no_cursor(self, capsys: pytest.CaptureFixture[str]) -> None:
        with saying(Output(is_json=True)):
            say("a \x1b[2J b\nc \N{RIGHT-TO-LEFT OVERRIDE} d")
        err = capsys.readouterr().err
        assert err.isascii()
        assert "\x1b" not in err
        (line,) = objects(err)
        assert line["message"].startswith("a \\x1b[2J b\nc ")


class TestRecords:
    """Of the process: whatever would write to standard error by itself."""

    def said(self, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        return objects(capsys.readouterr().err)

    def test_another_librarys_words_are_not_repeated(self, capsys: pytest.CaptureFixture[str]) -> None:
        with recorded_in_json(Output(is_json=True)):
            logging.getLogger("urllib3.connectionpool").warning("GET /secret?signature=canary failed")
        (line,) = self.said(capsys)
        assert (line["logger"], line["level"]) == ("urllib3.connectionpool", "warning")
        assert "canary" not in line["message"]

    def test_of_an_exception_the_kind_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        with recorded_in_json(Output(is_json=True)):
            error = ValueError("canary")
            logging.getLogger("dicom_ingest").error("It did not work", exc_info=error)
        (line,) = self.said(capsys)
        assert line["message"] == "It did not work (ValueError)"

    def test_a_thread_that_ends_and_a_warning_are_lines_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> None:
            raise ValueError("canary")

        with recorded_in_json(Output(is_json=True)):
            thread = threading.Thread(target=fail, name="one")
            thread.start()
            thread.join()
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("canary", UserWarning, stacklevel=1)
        first, second = self.said(capsys)
        assert first["message"] == "The thread one ended: ValueError"
        assert second["logger"] == "py.warnings"
        assert "canary" not in first["message"] + second["message"]

    def test_everything_is_as_before_afterwards(self) -> None:
        root = logging.getLogger()
        before = root.handlers[:], threading.excepthook, sys.unraisablehook, current_output()
        with saying(Output(is_json=True)), recorded_in_json(Output(is_json=True)):
            assert root.handlers != before[0]
        assert (root.handlers[:], threading.excepthook, sys.unraisablehook, current_output()) == before


class TestFromTheEnvironment:
    """As a run of a deployment has it; and what a command passes on to others."""

    def test_a_flow_of_a_deployment_asks_it(self) -> None:
        assert not is_decided()
        with saying_as_set({"dicom_ingest_json_logs": "1", "DICOM_INGEST_JSON_LOGS": "1"}):
            assert is_decided()

    def test_a_commands_own_flow_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DICOM_INGEST_QUIET", "true")
        with saying(Output()), saying_as_set(os.environ):
            assert current_output() == Output()

    def test_is_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variables = as_variables(Output(is_quiet=True, is_json=True))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert output_of([], os.environ) == Output(is_quiet=True, is_json=True)
        assert as_variables(Output()) == {}

    def test_a_value_that_is_none_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DICOM_INGEST_JSON_LOGS", "perhaps")
        with pytest.raises(UsageError), saying_as_set(os.environ):
            pass

    def test_options_end_where_arguments_begin(self) -> None:
        assert output_of(["upload", "--", "--quiet"], {}) == Output()


@pytest.mark.long  # tests/e2e/test_canaries.py has one, too
@pytest.mark.processes
def test_a_run_under_prefect_says_nothing_else(study: Path, far_side: FarSide, prefect_home: Path) -> None:
    """Prefect's lines are among them, of its flow and its tasks; what its server says is not."""
    Path("manifest.csv").write_text("study_dir\nstudy\n")
    # A command that another test gave in this process may have left its embedded server's address.
    environment = {name: text for name, text in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "manifest.csv", "-u", far_side.url, "--json-logs"],
        env=environment | {"PREFECT_HOME": str(prefect_home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    lines = objects(done.stderr)
    loggers = {line.get("logger") for line in lines}
    assert {"prefect.flow_runs", "prefect.task_runs"} <= loggers
    assert lines[-1]["by_status"] == {"uploaded": 3}
    assert any("embedded Prefect server" in line["message"] for line in lines)


def test_processes_of_prefects_log_so_before_their_flow_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Prefect's own configuration of logging: `serve` hands it on."""
    from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH, load_logging_config

    assert as_variables_of_runs(Output()) == {}
    for name, value in as_variables_of_runs(Output(is_quiet=True, is_json=True)).items():
        monkeypatch.setenv(name, value)
    console = load_logging_config(DEFAULT_LOGGING_SETTINGS_PATH)["handlers"]["console"]
    assert console["level"] == "WARNING"
    module, _, name = console["class"].rpartition(".")
    handler = getattr(import_module(module), name)(stream=sys.stderr, styles=console["styles"])
    assert isinstance(handler, JsonRecords)


def test_a_terminal_that_draws_over_nothing_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM=dumb, as in an editor: a bar would be one more line each time."""
    shown, drawn = threading.Event(), threading.Event()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for terminal, event in (("xterm", drawn), ("dumb", shown)):
        monkeypatch.setenv("TERM", terminal)
        with showing(lambda _ended: drawn.set(), lambda _ended: shown.set()):
            assert event.wait(10)
    monkeypatch.setenv("TERM", "xterm")
    drawn.clear()
    shown.clear()
    with saying(Output(is_json=True)), showing(lambda _ended: drawn.set(), lambda _ended: shown.set()):
        assert shown.wait(10), "JSON is said in lines, on a terminal, too"
    assert not drawn.is_set()
