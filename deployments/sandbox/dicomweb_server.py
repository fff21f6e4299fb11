"""A DICOMweb server as a child process: the registry of sandbox, demo and tests.

Orthanc with its DICOMweb plugin where both are on the machine (Debian: `apt install orthanc
orthanc-dicomweb`), else tiny-pacs from PyPI. It listens for this machine alone, has a user and a password of
its own and no DICOM port, and ends with us: a pipe ties it to this process, also when that is killed.
"""

import fcntl
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deployments.sandbox.ports import DICOMWEB, keep_port, listen
from deployments.sandbox.storage import START_TIMEOUT_S, last_lines, open_private
from tasks.core.errors import StoppedError, UsageError
from tasks.dicomweb_settings import DicomwebServer
from tasks.sandbox_settings import DicomwebProgram, RegistrySettings

ORTHANC: Final = Path("/usr/sbin/Orthanc")
PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
NAMES: Final = {
    DicomwebProgram.ORTHANC: "Orthanc with its DICOMweb plugin",
    DicomwebProgram.TINY_PACS: "tiny-pacs (Orthanc: apt install orthanc orthanc-dicomweb)",
}
_ROOT: Final = "/dicom-web"
_USER: Final = "sandbox"
_STOP_TIMEOUT_S: Final = 8.0
_OTHERS_END_S: Final = 15.0
_ATTEMPTS: Final = 3  # Orthanc takes its port itself, and another program may be quicker


@dataclass(frozen=True, slots=True)
class DicomwebEndpoint:
    """A running DICOMweb server: where it is, whose ways it has, and as whom it is asked."""

    url: str  # below which /studies is
    kind: DicomwebServer
    user: str
    password: str = field(repr=False)
    name: str = ""  # of the program, for people
    program: DicomwebProgram | None = None  # None: a server that the settings name


def installed_program() -> DicomwebProgram:
    """Orthanc when it is on this machine with its plugin, else tiny-pacs."""
    return DicomwebProgram.ORTHANC if ORTHANC.exists() and PLUGIN.exists() else DicomwebProgram.TINY_PACS


@contextmanager
def registry(data_dir: Path, settings: RegistrySettings) -> Iterator[DicomwebEndpoint]:
    """The DICOMweb server that the settings name, else one of our own while the block lasts."""
    if not settings.dicomweb_url:
        with serve_dicomweb(data_dir, settings.dicomweb_program) as endpoint:
            yield endpoint
        return
    yield DicomwebEndpoint(
        url=settings.dicomweb_url.rstrip("/"),
        kind=settings.dicomweb_server,
        user=settings.dicomweb_user,
        password=settings.dicomweb_password.get_secret_value(),
        name="the server that the settings name",
    )


@contextmanager
def serve_dicomweb(data_dir: Path, program: DicomwebProgram | None = None) -> Iterator[DicomwebEndpoint]:
    """Serves what it keeps in a folder of `data_dir` on a loopback port until the block ends.

    The port is the one it had last with this data directory, else a free one: who registers there knows it
    by that. Raises UsageError while another one serves from there, StoppedError when it does not start.
    """
    program = program or installed_program()
    for _ in range(_ATTEMPTS):
        with _sole_use(data_dir) as lock:
            server = _start(data_dir, program, lock)
        if server.has_started():
            break
        server.stop()
    else:
        raise StoppedError(
            f"The DICOMweb server of the sandbox did not start. Its log ends with:\n{last_lines(server.log)}"
        )
    try:
        keep_port(data_dir, server.port, DICOMWEB)
        yield DicomwebEndpoint(
            url=f"http://127.0.0.1:{server.port}{_ROOT}",
            kind=DicomwebServer.ORTHANC if program is DicomwebProgram.ORTHANC else DicomwebServer.GENERIC,
            user=_USER,
            password=server.password,
            name=NAMES[program],
            program=program,
        )
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class _Server:
    process: subprocess.Popen[bytes]
    port: int
    password: str = field(repr=False)
    log: Path

    def has_started(self) -> bool:
        """Waits until it answers to its password; False when it ended, or did not in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.02)
        return False

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT_S)
        login = b64encode(f"{_USER}:{self.password}".encode()).decode()
        try:
            connection.request("GET", f"{_ROOT}/studies?limit=1", headers={"Authorization": f"Basic {login}"})
            return connection.getresponse().status in (200, 204)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Closes its stdin; what is left of its process group after a while is killed."""
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_TIMEOUT_S)
        if self.process.returncode != 0:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def _sole_use(data_dir: Path) -> Iterator[int]:
    """A descriptor for the server to inherit: it, too, keeps others out for as long as it lives.

    One whose parent was killed needs a moment to end, and is waited for.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / "dicomweb.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _OTHERS_END_S
    try:
        while not _locks(lock):
            if time.monotonic() > deadline:
                raise UsageError("Another sandbox is running with this data directory: choose another one.")
            time.sleep(0.05)
        yield lock
    finally:
        os.close(lock)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _start(data_dir: Path, program: DicomwebProgram, lock: int) -> _Server:
    home = data_dir / program.value
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    log = data_dir / "dicomweb.log"
    with listen(None, data_dir, DICOMWEB) as listener:
        port: int = listener.getsockname()[1]
        if program is DicomwebProgram.TINY_PACS:
            descriptor = listener.fileno()
            module = ["deployments.sandbox.embedded_dicomweb", str(home), "--listen-fd", str(descriptor)]
            process = _spawn(module, log, lock, descriptor)
            assert process.stdin
            process.stdin.write(json.dumps({"user": _USER, "password": password}).encode() + b"\n")
            process.stdin.flush()
            return _Server(process, port, password, log)
    configuration = home / "orthanc.json"
    with open_private(configuration) as file:
        json.dump(_orthanc_configuration(home, port, password), file)
    process = _spawn(["deployments.sandbox.tied_process", str(ORTHANC), str(configuration)], log, lock)
    return _Server(process, port, password, log)


def _spawn(module: list[str], log: Path, *descriptors: int) -> subprocess.Popen[bytes]:
    """Starts it in a session of its own: Ctrl-C reaches us alone."""
    with open_private(log) as output:
        return subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            [sys.executable, "-P", "-m", *module],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            start_new_session=True,
            umask=0o077,
        )


def _orthanc_configuration(home: Path, port: int, password: str) -> dict[str, object]:
    """Orthanc 1.10 cannot bind to an address: it refuses whoever is not of this machine."""
    return {
        "Name": "dicom-ingest sandbox",
        "StorageDirectory": str(home / "database"),
        "IndexDirectory": str(home / "database"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {_USER: password},
        "DicomServerEnabled": False,
        "SaveJobs": False,
        "DicomWeb": {"Enable": True, "Root": f"{_ROOT}/", "EnableWado": False},
    }
