"""On a machine as hospitals have them: a proxy for everything, a home directory that can't be written."""

import fcntl
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.report.reader import read_summary
from tests.conftest import Dicom
from tests.far_side import TOKEN, FarSide, Step
from tests.processes import Command, await_gone, command_line, descendants
from tests.proxy import API, DEAD, Proxy, running_proxy, through
from tests.served import Served, served

Start = Callable[..., Command]


@pytest.fixture
def environment(prefect_home: Path, far_side: FarSide) -> dict[str, str]:
    """Of an operator whose platform is the far side."""
    foreign = ("DICOM_INGEST_", "PREFECT_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    settings = {"DICOM_INGEST_API_ENDPOINT": far_side.url, "DICOM_INGEST_TOKEN": TOKEN}
    return ours | settings | {"PREFECT_HOME": str(prefect_home)}


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], dicom: Dicom) -> Iterator[Start]:
    """`start("run", "manifest.csv", HOME="/gone")`; None unsets. The manifest names a study of 40 files."""
    (tmp_path / "study").mkdir()
    for number in range(40):
        (tmp_path / "study" / f"{number}.dcm").write_bytes(dicom(f"1.2.{number}"))
    (tmp_path / "manifest.csv").write_text("study_dir\nstudy\n")
    commands: list[Command] = []

    def start(*arguments: str, **changes: str | None) -> Command:
        changed = environment | {name: value for name, value in changes.items() if value is not None}
        unset = [name for name, value in changes.items() if value is None]
        env = {name: value for name, value in changed.items() if name not in unset}
        commands.append(Command(tmp_path, env, *arguments))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


@pytest.fixture
def serve(tmp_path: Path, prefect_home: Path, environment: dict[str, str]) -> Iterator[Served]:
    with served(tmp_path, prefect_home, environment) as serve:
        yield serve


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as proxy:
        yield proxy


@pytest.fixture
def stuck_server(prefect_home: Path) -> Iterator[None]:
    """Prefect's server lives, and does not answer: it waits for another one's start in the same home."""
    with (prefect_home / "dicom-ingest-start.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class TestProxy:
    @pytest.mark.long
    def test_is_asked_for_the_platform_and_never_for_this_machine(
        self, start: Start, proxy: Proxy, prefect_home: Path
    ) -> None:
        """The flow, its embedded server, its events and its logs; API and store are elsewhere."""
        platform = {"DICOM_INGEST_API_ENDPOINT": API, "DICOM_INGEST_ALLOW_HTTP": "true"}
        run = start("run", "manifest.csv", **through(proxy.url), **platform)
        assert run.ended() == 0, run.said
        assert set(proxy.asked) == {"api.example.org", "store.example.org"}
        assert len(proxy.asked) >= 80  # a URL and a PUT for each file
        with closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
            limits = {name for (name,) in database.execute("SELECT name FROM concurrency_limit_v2")}
        assert "dicom-ingest api.example.org:80" not in limits, "at a server of its own it shares no slots"

    def test_that_cannot_be_used_is_told_when_it_is_needed(self, start: Start) -> None:
        """Exit code 2, one sentence."""
        upload = start(
            "upload", "-p", "study", "-u", "https://api.example.org", https_proxy="socks://gate:1080"
        )
        assert upload.ended() == 2
        assert "https_proxy names no proxy that can be used" in upload.said
        assert len(upload.said.splitlines()) == 1

    @pytest.mark.long
    @pytest.mark.parametrize("command", ["run manifest.csv", "demo --slices 1"])
    @pytest.mark.parametrize("url", [DEAD, "socks5h://gate:1080", "http://gate:port"])
    def test_keeps_no_command_from_this_machine_whatever_it_is(
        self, url: str, command: str, start: Start
    ) -> None:
        started = start(*command.split(), **through(url), NO_PROXY="[::1],.example.org")
        assert started.ended() == 0, started.said

    @pytest.mark.long
    @pytest.mark.parametrize("url", [DEAD, "socks5h://gate:1080"])
    def test_keeps_nobody_from_the_sandbox(self, url: str, start: Start, tmp_path: Path) -> None:
        sandbox = start("sandbox", **through(url))
        until = time.monotonic() + 60
        while "The sandbox is up" not in sandbox.said:
            assert time.monotonic() < until, sandbox.said
            time.sleep(0.05)
        lines = (tmp_path / "sandbox" / "sandbox.env").read_text().split()
        settings = {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines)}
        upload = start("upload", "-p", "study", **through(url) | settings, DICOM_INGEST_TOKEN=None)
        assert upload.ended() == 0, upload.said
        sandbox.process.terminate()
        assert sandbox.ended() == 0

    @pytest.mark.long
    def test_is_never_asked_by_serve_and_its_runs(
        self,
        proxy: Proxy,
        start: Start,
        environment: dict[str, str],
        tmp_path: Path,
        prefect_home: Path,
    ) -> None:
        """Server, runner, and the process that the runner starts for a run."""
        with served(tmp_path, prefect_home, environment | through(proxy.url)) as serve:
            deployment = serve.asked("GET", "/deployments/name/backfill/manual")
            parameters = {"manifest": str(tmp_path / "manifest.csv"), "report_dir": str(tmp_path / "report")}
            run = serve.asked(
                "POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters}
            )
            until = time.monotonic() + 120
            while not (state := serve.asked("GET", f"/flow_runs/{run['id']}"))["end_time"]:
                assert time.monotonic() < until, state
                time.sleep(0.5)
            assert state["state_type"] == "COMPLETED"
        assert proxy.asked == []


class TestHome:
    def test_of_prefect_that_cannot_be_written_is_told_within_seconds(
        self, start: Start, far_side: FarSide, tmp_path: Path
    ) -> None:
        """PREFECT_HOME names it: exit code 2, one sentence, nothing sent."""
        read_only = tmp_path / "read-only"
        read_only.mkdir(mode=0o555)
        run = start("run", "manifest.csv", PREFECT_HOME=str(read_only))
        assert run.ended(60) == 2
        assert run.said.startswith("dicom-ingest: PREFECT_HOME can't be written. Nothing was sent.")
        assert len(run.said.splitlines()) == 1
        assert far_side.requests == []

    @pytest.mark.long
    @pytest.mark.parametrize("command", ["run manifest.csv", "demo --slices 1"])
    @pytest.mark.parametrize("kind", ["empty", "gone", "read-only"])
    def test_that_is_missing_or_read_only_is_replaced_by_a_temporary_one(
        self, command: str, kind: str, start: Start, tmp_path: Path
    ) -> None:
        """Said in one line by each command; it is gone in the end, and no library warns of anything."""
        (tmp_path / "read-only").mkdir(mode=0o555)
        temporary_files = tmp_path / "temporary-files"
        temporary_files.mkdir()
        values = {"empty": "", "gone": "/gone/home", "read-only": str(tmp_path / "read-only")}
        started = start(*command.split(), HOME=values[kind], PREFECT_HOME=None, TMPDIR=str(temporary_files))
        until = time.monotonic() + 60
        while not (made := [*temporary_files.glob("dicom-ingest-prefect-*")]):
            assert time.monotonic() < until, started.said
            time.sleep(0.02)
        assert [path.stat().st_mode & 0o777 for path in made] == [0o700]
        assert started.ended() == 0, started.said
        commands = 2 if command.startswith("demo") else 1  # run and ingest; verify needs no Prefect
        assert started.said.count("Prefect works in a temporary one") == commands
        assert "arning" not in started.said
        assert [*temporary_files.iterdir()] == []

    @pytest.mark.long
    def test_that_was_temporary_is_gone_after_kill_9_too(self, start: Start, tmp_path: Path) -> None:
        """The server removes it, once its run is gone."""
        run = start("run", "manifest.csv", HOME="/gone/home", PREFECT_HOME=None, TMPDIR=str(tmp_path))
        run.await_child("flows.cli.server_process")
        time.sleep(3)
        run.process.kill()
        run.assert_no_process_is_left()
        assert [*tmp_path.glob("dicom-ingest-prefect-*")] == []


class TestEmbeddedServer:
    @pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
    def test_that_is_waited_for_is_no_reason_to_ignore_a_signal(
        self, number: signal.Signals, start: Start, stuck_server: None, far_side: FarSide
    ) -> None:
        """Exit code 130, and no process is left."""
        run = start("run", "manifest.csv")
        run.await_child("flows.cli.server_process")
        run.process.send_signal(number)
        assert run.ended(60) == 130, run.said
        assert "Interrupted." in run.said
        assert "Traceback" not in run.said
        run.assert_no_process_is_left()
        assert far_side.asked(Step.PUT) == []

    @pytest.mark.long
    def test_that_ends_is_known_at_once(self, start: Start, far_side: FarSide, tmp_path: Path) -> None:
        """Exit code 2, one sentence, nothing sent."""
        nowhere = f"sqlite+aiosqlite:///{tmp_path}/gone/prefect.db"
        run = start("run", "manifest.csv", PREFECT_SERVER_DATABASE_CONNECTION_URL=nowhere)
        assert run.ended(60) == 2, run.said
        sentence = run.said.splitlines()[-1]
        assert "Prefect's server on this machine ended while it started. Nothing was sent." in sentence
        assert "Traceback" not in run.said
        assert far_side.asked(Step.PUT) == []

    @pytest.mark.long
    def test_that_lives_and_does_not_answer_is_given_up(self, start: Start, stuck_server: None) -> None:
        """After two minutes."""
        began = time.monotonic()
        run = start("run", "manifest.csv")
        run.await_child("flows.cli.server_process")
        assert run.ended(200) == 2, run.said
        assert time.monotonic() - began >= 120
        assert "does not answer after 120 s" in run.said
        run.assert_no_process_is_left()

    @pytest.mark.long
    def test_whose_run_is_terminated_at_any_moment_of_the_start_leaves_nothing(
        self, start: Start, far_side: FarSide
    ) -> None:
        """Exit code 130, or the signal's own in the moments before Python has begun with us."""
        dice = random.Random(12)
        for _ in range(25):
            run = start("run", "manifest.csv")
            time.sleep(dice.random() * 6)
            run.note_children()
            had_ended = run.process.poll() is not None
            run.process.terminate()
            assert had_ended or run.ended(60) in (130, -signal.SIGTERM), run.said
            assert "Traceback" not in run.said
            run.assert_no_process_is_left()

    @pytest.mark.long
    def test_of_two_first_runs_at_once_works_for_both(self, start: Start, tmp_path: Path) -> None:
        """Each has its own, in one home with one database, in which both runs are."""
        home = tmp_path / "prefect"
        names = ("one", "two")
        runs = [start("run", "manifest.csv", "--report-dir", name, PREFECT_HOME=str(home)) for name in names]
        assert [run.ended() for run in runs] == [0, 0], [run.said for run in runs]
        assert [read_summary(tmp_path / name).files for name in names] == [40, 40]
        with closing(sqlite3.connect(home / "prefect.db")) as database:
            assert database.execute("SELECT count(*) FROM flow_run").fetchone() == (2,)

    @pytest.mark.long
    def test_of_serve_leaves_no_process_when_serve_is_killed(self, serve: Served) -> None:
        children = descendants(serve.process.pid)
        assert any("flows.cli.server_process" in command_line(pid) for pid in children)
        serve.process.kill()
        await_gone(children)

    @pytest.mark.long
    def test_of_serve_that_ends_by_itself_ends_serve(self, serve: Served) -> None:
        """At once, with one sentence: nobody is to look at a page that nothing is behind."""
        children = descendants(serve.process.pid)
        (server,) = [pid for pid in children if "flows.cli.server_process" in command_line(pid)]
        os.kill(server, signal.SIGKILL)
        assert serve.process.wait(240) == 3
        said = serve.log.read_text()
        assert said.splitlines()[-1].startswith("dicom-ingest: Prefect's server on this machine has ended.")
        assert "Traceback" not in said


def test_the_port_that_serve_is_to_take_is_somebody_elses(start: Start) -> None:
    """Exit code 2, before anything is started."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        serve = start("serve", "--port", str(other.server_address[1]))
        assert serve.ended(60) == 2
    assert "can't be used for Prefect's server" in serve.said
