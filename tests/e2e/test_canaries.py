"""What names a patient, and what opens a door, stays out of Prefect, of logs and of the terminal.

Each scenario plants canaries, makes something go wrong, and searches whatever the run left behind outside of
the operator's own report and ledger: Prefect's home with its database, and what the command said.
"""

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Dicom
from tests.far_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Reset,
    Step,
    StoredAs,
    always,
    once_begun,
    s3_error,
    status,
)
from tests.prefect_server import PrefectServer

PATIENT = "CANARY^PATIENT"
IN_PATH = "CANARY_PATIENT_IN_PATH"
UID = "1.2.826.0.1.99.424242424242"
TOKEN = "canary-static-token-7f3a"
API_KEY = "canary-api-key-91c2"
PAINTED = "\x1b[31mred\x07\n\u202e.dcm"  # a file name that would paint the terminal
SECRETS = [PATIENT, IN_PATH, UID, TOKEN, API_KEY, CLIENT_SECRET, "X-Amz-Signature="]

TALKATIVE = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dicom_ingest,tasks,flows,httpx,httpcore,pydicom,sqlalchemy",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
}

CRASH = """
import sys, tasks.{module}
def crash(*args, **kwargs):
    raise RuntimeError("crashed on " + repr(args) + repr(kwargs))
{target} = crash
from flows.cli.__main__ import main
main()
"""


@dataclass
class Scene:
    directory: Path
    far_side: FarSide
    home: Path
    server: dict[str, str]  # settings that name one; with none a run starts its own

    @property
    def study(self) -> Path:
        return self.directory / IN_PATH / "study"

    def write(self, dicom: Dicom) -> None:
        """Images and what is none, twins, a cut file and one of the same UID with other bytes."""
        self.study.mkdir(parents=True)
        for number in range(12):
            body = dicom(f"{UID}.{number}").replace(b"Nobody", PATIENT.encode()[:6])
            (self.study / f"{PATIENT} {number}.dcm").write_bytes(body)
        (self.study / "twin.dcm").write_bytes(dicom(f"{UID}.1", text="other"))
        (self.study / "cut.dcm").write_bytes(dicom(f"{UID}.77")[:-40])
        (self.study / PAINTED).write_bytes(dicom(f"{UID}.88"))
        (self.study / "link.dcm").symlink_to(self.study / "nowhere")
        self.manifest.write_text(f"study_dir\n{self.study}\n{self.study}-missing\n")

    @property
    def manifest(self) -> Path:
        return self.directory / "manifest.csv"

    def run(
        self,
        command: str,
        *more: str,
        crash: str = "",
        interrupt: bool = False,
        umask: int = -1,
        **settings: str,
    ) -> tuple[int, str]:
        what = [str(self.manifest)] if command == "run" else ["-p", str(self.study)]
        module = crash.rpartition(".")[0].removeprefix("tasks.").partition(".")[0]
        program = ["-c", CRASH.format(module=module, target=crash)] if crash else ["-m", "flows.cli"]
        process = subprocess.Popen(
            [sys.executable, *program, command, *what, *more],
            env=os.environ | self._settings() | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            umask=umask,
        )
        if interrupt:
            until = time.monotonic() + 60
            while not self.far_side.asked(Step.PUT) and time.monotonic() < until:
                time.sleep(0.01)
            process.terminate()
        said, _ = process.communicate(timeout=240)
        return process.returncode, said

    def _settings(self) -> dict[str, str]:
        return {
            **TALKATIVE,
            **self.server,
            "PREFECT_HOME": str(self.home),
            "DICOM_INGEST_DEBUG": "1",
            "DICOM_INGEST_API_ENDPOINT": self.far_side.url,
            "DICOM_INGEST_REPORT_DIR": str(self.directory / "report"),
            "DICOM_INGEST_TOKEN": TOKEN,
            "DICOM_INGEST_API_KEY": API_KEY,
            "DICOM_INGEST_RETRIES": '["network=1", "server=1", "throttled=1", "presign=1", "expired=1"]',
        }


def left_behind(home: Path) -> Iterator[tuple[str, str]]:
    """All that Prefect keeps: each file as it is, and its databases' rows; what its server said, too."""
    for path in home.rglob("*"):
        if path.is_file():
            yield path.name, path.read_bytes().decode("utf-8", "replace")
    for path in home.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            yield f"rows of {path.name}", "\n".join(database.iterdump())


@pytest.fixture(scope="module")
def server(new_prefect_home: Callable[[], Path]) -> Iterator[PrefectServer]:
    """One for all scenes; when it has ended, and kept all it was told, it still has none of it."""
    server = PrefectServer(home := new_prefect_home(), **TALKATIVE)
    server.start()
    yield server
    server.kill(signal.SIGTERM)
    assert_none(SECRETS, left_behind(home))


@pytest.fixture
def scene(tmp_path: Path, far_side: FarSide, dicom: Dicom, server: PrefectServer) -> Scene:
    far_side.tokens.add(f"Bearer {TOKEN}")
    scene = Scene(tmp_path, far_side, server.home, server.environment)
    scene.write(dicom)
    return scene


@pytest.fixture
def scene_without_server(scene: Scene, prefect_home: Path) -> Scene:
    """Whose run starts one, which ends with it."""
    scene.home, scene.server = prefect_home, {}
    return scene


def disguises(secret: str) -> Iterator[str]:
    """As it is, quoted for a URL, and in base64 wherever it starts."""
    yield secret
    yield quote(secret, safe="")
    yield secret.encode().hex()
    for offset in range(3):
        encoded = base64.b64encode(b" " * offset + secret.encode()).decode().rstrip("=")
        yield encoded[4 if offset else 0 : -2]


def assert_clean(scene: Scene, said: str) -> None:
    assert "\x1b" not in said
    assert_none([*SECRETS, *scene.far_side.signatures[:5]], [("terminal", said), *left_behind(scene.home)])


def assert_none(secrets: list[str], texts: Iterable[tuple[str, str]]) -> None:
    wanted = {form for secret in secrets for form in disguises(secret)}
    for where, text in texts:
        found = sorted(form for form in wanted if form in text)
        assert not found, f"{found} in {where}"


def everything_at_once(request: Request) -> Deviation | None:
    """Each file meets another fault, and some of them none."""
    if request.step is Step.PRESIGN:
        return [None, Reply(200, b"<html>"), status(500), Reset(), None, None][request.n % 6]
    faults: list[Deviation | None] = [
        None,
        s3_error(403, "AccessDenied"),
        s3_error(400, "InvalidRequest", f"no {PATIENT} here"),
        StoredAs('"00000000000000000000000000000000"'),
        status(503),
        Reset(stored=True),
    ]
    return faults[request.n % 6]


Script = Callable[[Request], Deviation | None]


@pytest.mark.parametrize("command", ["upload", "run"])
class TestNothingLeaks:
    def test_when_files_fail_in_every_way(self, scene: Scene, command: str) -> None:
        scene.far_side.script = everything_at_once
        code, said = scene.run(command)
        assert code == 1, said
        assert_clean(scene, said)

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            (always(Step.PRESIGN, status(401)), 4),
            (once_begun(always(Step.PRESIGN, status(401))), 4),
            (always(Step.PRESIGN, status(404)), 2),
            (once_begun(always(Step.PRESIGN, status(404))), 3),
            (always(Step.PRESIGN, Minted(host="elsewhere.example")), 2),
            (once_begun(always(Step.PRESIGN, Minted(host="elsewhere.example"))), 3),
            (always(Step.PRESIGN, Minted(key="the-same-key")), 3),
        ],
        ids=[
            "token refused",
            "token refused later",
            "no such API",
            "no such API later",
            "host not allowed",
            "host not allowed later",
            "key twice",
        ],
    )
    def test_when_the_far_side_refuses(self, scene: Scene, command: str, script: Script, code: int) -> None:
        scene.far_side.script = script
        found, said = scene.run(command)
        assert found == code, said
        assert_clean(scene, said)

    def test_when_the_client_is_refused(self, scene: Scene, command: str) -> None:
        scene.far_side.script = always(Step.TOKEN, Reply(401, b'{"error": "invalid_client"}'))
        code, said = scene.run(
            command,
            DICOM_INGEST_TOKEN="",
            DICOM_INGEST_TOKEN_URL=scene.far_side.token_url,
            DICOM_INGEST_CLIENT_ID=CLIENT_ID,
            DICOM_INGEST_CLIENT_SECRET=CLIENT_SECRET,
        )
        assert code == 4, said
        assert_clean(scene, said)

    @pytest.mark.parametrize(
        "crash",
        [
            "tasks.source.file_content.examine",
            "tasks.ledger.ledger.Ledger.settle",
            "tasks.remote.upload_api.UploadClient.put",
            "tasks.report.directory.write_report",
            "tasks.source.scan.walk_study",
        ],
    )
    def test_when_there_is_a_defect(self, scene: Scene, command: str, crash: str) -> None:
        """Which says all that it was called with, as libraries do."""
        code, said = scene.run(command, crash=crash)
        assert code in (1, 3), said
        assert_clean(scene, said)

    def test_when_it_is_interrupted(self, scene: Scene, command: str) -> None:
        scene.far_side.script = lambda _request: time.sleep(0.2)
        code, said = scene.run(command, interrupt=True)
        assert code == 130, said
        assert_clean(scene, said)

    def test_when_the_ledger_is_none(self, scene: Scene, command: str) -> None:
        (scene.directory / "report").mkdir(mode=0o700)
        (scene.directory / "report" / "ledger.sqlite").write_bytes(f"{PATIENT} {UID}".encode() * 100)
        code, said = scene.run(command)
        assert code in (2, 3), said
        assert_clean(scene, said)


class TestNothingLeaksAtAServerOfItsOwn:
    """Which the run starts, and which writes down what it was told until it ends with it."""

    def test_when_files_fail_in_every_way(self, scene_without_server: Scene) -> None:
        """With each line an object: log records that a terminal does not show are among them."""
        scene_without_server.far_side.script = everything_at_once
        code, said = scene_without_server.run("run", "--json-logs")
        assert code == 1, said
        lines = [json.loads(line) for line in said.splitlines()]
        assert {"dicom_ingest", "prefect.flow_runs"} <= {line.get("logger") for line in lines}
        assert_clean(scene_without_server, said)

    def test_when_it_is_interrupted(self, scene_without_server: Scene) -> None:
        scene_without_server.far_side.script = lambda _request: time.sleep(0.2)
        code, said = scene_without_server.run("run", interrupt=True)
        assert code == 130, said
        assert_clean(scene_without_server, said)


def test_a_wrong_manifest_is_told_by_row_and_column(scene: Scene) -> None:
    """No cell is quoted."""
    scene.manifest.write_text(f"study_dir,study_instance_uid,expected_instances\n,{PATIENT},{UID}\n")
    code, said = scene.run("run")
    assert code == 2
    assert "row 1" in said
    assert_clean(scene, said)


def test_the_report_has_what_the_rest_must_not(scene: Scene) -> None:
    """The canaries sing where they may: the search above would find them."""
    scene.run("upload")
    report = (scene.directory / "report" / "report.csv").read_text()
    assert UID in report
    assert IN_PATH in report
    with pytest.raises(AssertionError):
        assert_clean(scene, report)


def test_what_is_written_is_for_the_operator_alone(scene: Scene) -> None:
    """Whatever the umask: report, ledger and audit trail, and the directory that is made for them."""
    code, said = scene.run("upload", umask=0)
    assert code == 1, said
    report_dir = scene.directory / "report"
    modes = {path.name: path.stat().st_mode & 0o777 for path in report_dir.iterdir()}
    assert {"report.csv", "ledger.sqlite", "audit.jsonl", "certificate.json"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert report_dir.stat().st_mode & 0o777 == 0o700
    assert "chmod" not in said


def test_a_report_directory_that_others_can_read_is_warned_of(scene: Scene) -> None:
    report_dir = scene.directory / "report"
    report_dir.mkdir()
    report_dir.chmod(0o755)
    _, said = scene.run("upload")
    assert "chmod 700" in said


def test_a_file_name_can_not_paint_the_terminal(scene: Scene) -> None:
    """`--list` prints paths, escaped as in the report."""
    code, said = scene.run("upload", "--list")
    assert code == 1
    assert r"\x1b[31mred\x07\x0a" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    assert len([line for line in said.splitlines() if "[31mred" in line]) == 1
