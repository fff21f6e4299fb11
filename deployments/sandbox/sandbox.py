"""The platform in one `with` block: gateway, object store, DICOMweb server, started and stopped together.

Gateway and DICOMweb server are child processes; the object store is the gateway's child. A pipe ties each to
us: when it closes, also because this process was killed, they stop.
"""

import http.client
import importlib.util
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, Self

from deployments.sandbox import storage
from deployments.sandbox.dicomweb_server import DicomwebEndpoint, registry
from deployments.sandbox.ports import keep_port, listen
from deployments.sandbox.storage import last_lines, open_private
from tasks.core.errors import IngestError, StoppedError, UsageError
from tasks.declaration import declarations, load_as
from tasks.sandbox_settings import GatewaySettings, RegistrySettings, SandboxSettings, StoreSettings

_PREFIX: Final = SandboxSettings.prefix
_STOP_TIMEOUT_S: Final = 10.0  # the gateway gives its requests 2 s and the object store 5 s


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running platform: where it is and what it accepts."""

    api_url: str
    client_id: str
    client_secret: str = field(repr=False)
    bucket_dir: Path | None  # of the embedded object store; None when the settings name another bucket
    bucket: str
    dicomweb: DicomwebEndpoint
    s3: Mapping[str, str] = field(repr=False)  # what boto3 needs for the bucket: the AWS_* variables
    _gateway: subprocess.Popen[bytes] = field(repr=False)
    _log: Path = field(repr=False)

    @classmethod
    @contextmanager
    def start(
        cls, data_dir: Path, port: int | None = None, store: StoreSettings | None = None
    ) -> Iterator[Self]:
        """Starts it on `port` of 127.0.0.1, and stops it when the block ends.

        Without a `port` it takes the last one of this data directory again, for a campaign knows its platform
        by that; when another program has it, a free one.
        `data_dir` holds the objects and the logs. `store` says how that answers, the environment where it
        is not given. DICOM_INGEST_SANDBOX_* settings choose another bucket,
        client or lifetimes. Raises UsageError when the extra is not installed, the port is in use, the folder
        can't be written or a setting is wrong, and StoppedError when it does not start for another reason.
        """
        _require_extra()
        data_dir = _private_directory(data_dir)
        log = data_dir / "gateway.log"
        settings = load_as(RegistrySettings)
        with listen(port, data_dir) as listener, registry(data_dir, settings) as dicomweb:
            environment = _environment(data_dir) | _how_to_answer(store) | _where_it_registers(dicomweb)
            address: tuple[str, int] = listener.getsockname()
            environment.setdefault(f"{_PREFIX}PUBLIC_URL", f"http://{address[0]}:{address[1]}")
            gateway = _spawn_gateway(listener, environment, log)
            listener.close()  # the gateway has it
            try:
                _await_first_answer(address, gateway, log)
                keep_port(data_dir, address[1])
                yield cls(
                    api_url=f"http://{address[0]}:{address[1]}",
                    client_id=environment[f"{_PREFIX}CLIENT_ID"],
                    client_secret=environment[f"{_PREFIX}CLIENT_SECRET"],
                    bucket_dir=None if _names_a_bucket() else storage.bucket_dir(data_dir),
                    bucket=f"s3://{environment.get(f'{_PREFIX}BUCKET') or storage.BUCKET}",
                    dicomweb=dicomweb,
                    s3=_s3_variables(environment, data_dir),
                    _gateway=gateway,
                    _log=log,
                )
            finally:
                _stop(gateway)

    @property
    def token_url(self) -> str:
        """The OAuth2 token endpoint."""
        return f"{self.api_url}/oauth2/token"

    @property
    def gateway_pid(self) -> int:
        """The child process; the object store is its child, in its process group."""
        return self._gateway.pid

    def object_path(self, key: str) -> Path:
        """The file that holds an object of the embedded store."""
        if self.bucket_dir is None:
            raise UsageError(
                f"The objects are in another store: unset {_PREFIX}BUCKET to use the embedded one."
            )
        return self.bucket_dir / key

    @property
    def variables(self) -> dict[str, str]:
        """The settings that point dicom-ingest here, secrets included: of run, ingest and verify."""
        settings = {
            "API_ENDPOINT": self.api_url,
            "TOKEN_URL": self.token_url,
            "CLIENT_ID": self.client_id,
            "CLIENT_SECRET": self.client_secret,
            "BUCKET": self.bucket,
            "DICOMWEB_URL": self.dicomweb.url,
            "DICOMWEB_SERVER": self.dicomweb.kind.value,
            "DICOMWEB_USER": self.dicomweb.user,
            "DICOMWEB_PASSWORD": self.dicomweb.password,
        }
        return {f"DICOM_INGEST_{name}": value for name, value in settings.items() if value} | {**self.s3}

    def write_env_file(self, path: Path) -> None:
        """Its `variables` for `.` in a shell; mode 0600."""
        with open_private(path) as file:
            file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in self.variables.items())

    def wait(self) -> NoReturn:
        """Blocks until the gateway ends by itself, and then raises StoppedError."""
        self._gateway.wait()
        raise StoppedError(
            f"The gateway of the sandbox ended by itself. Its log ends with:\n{last_lines(self._log)}"
        )


def serve(data_dir: Path, port: int | None = None, store: StoreSettings | None = None) -> None:
    """`dicom-ingest sandbox`: starts it, says how to point at it, and stops it at SIGINT or SIGTERM."""
    with (
        _interrupted_by(signal.SIGINT, signal.SIGTERM),
        suppress(KeyboardInterrupt),
        Sandbox.start(data_dir, port, store) as sandbox,
    ):
        env_file = data_dir.resolve() / "sandbox.env"
        sandbox.write_env_file(env_file)
        sys.stdout.write(_how_to_use(sandbox, env_file))
        sys.stdout.flush()
        sandbox.wait()


def _how_to_use(sandbox: Sandbox, env_file: Path) -> str:
    return f"""The sandbox is up. Ctrl-C stops it.

  API endpoint   {sandbox.api_url}
  token URL      {sandbox.token_url}
  client id      {sandbox.client_id}
  objects        {sandbox.bucket_dir or "in the bucket that the settings name"}
  DICOMweb       {sandbox.dicomweb.url}: {sandbox.dicomweb.name}
  settings       {env_file} (these, and every secret)

Send a directory to it, register what arrived, and see whether all of it is there:

  set -a; . {shlex.quote(str(env_file))}; set +a
  dicom-ingest upload -p PATH --report-dir try
  dicom-ingest ingest --report-dir try
  dicom-ingest verify try
"""


@contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """These signals raise KeyboardInterrupt, also where a shell had SIGINT ignored (`command &`)."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_extra() -> None:
    if not all(
        importlib.util.find_spec(package)
        for package in ("boto3", "multipart", "rclone_api", "tiny_pacs_dicomweb", "uvicorn")
    ):
        raise UsageError(storage.MISSING_EXTRA)


def _private_directory(path: Path) -> Path:
    """Makes a directory for this user alone. One that is there keeps its mode: it may hold more than ours."""
    with suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
        raise UsageError("The data directory of the sandbox cannot be made or written: choose another.")
    return path.resolve()


def _names_a_bucket() -> bool:
    return bool(os.environ.get(f"{_PREFIX}BUCKET"))


def _environment(data_dir: Path) -> dict[str, str]:
    """The gateway's environment: ours, with fresh secrets where none is set, and our very import path."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
        f"{_PREFIX}CLIENT_ID": os.environ.get(f"{_PREFIX}CLIENT_ID") or "sandbox",
        f"{_PREFIX}CLIENT_SECRET": os.environ.get(f"{_PREFIX}CLIENT_SECRET") or secrets.token_urlsafe(32),
        f"{_PREFIX}DATA_DIR": str(data_dir),
    }
    if _names_a_bucket():
        return environment
    access_key_id, secret_access_key = storage.new_keys()
    keys = {f"{_PREFIX}ACCESS_KEY_ID": access_key_id, f"{_PREFIX}SECRET_ACCESS_KEY": secret_access_key}
    return _without_aws(environment) | keys


def _where_it_registers(dicomweb: DicomwebEndpoint) -> dict[str, str]:
    """The gateway passes searches and retrievals on to it."""
    return {
        f"{_PREFIX}DICOMWEB_URL": dicomweb.url,
        f"{_PREFIX}DICOMWEB_USER": dicomweb.user,
        f"{_PREFIX}DICOMWEB_PASSWORD": dicomweb.password,
    }


def _s3_variables(environment: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """What boto3 needs to find the bucket, as far as the settings say it; else it looks as it always does."""
    endpoint = (
        environment.get(f"{_PREFIX}S3_ENDPOINT") if _names_a_bucket() else storage.listening_url(data_dir)
    )
    variables = {
        "AWS_ACCESS_KEY_ID": environment.get(f"{_PREFIX}ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": environment.get(f"{_PREFIX}SECRET_ACCESS_KEY"),
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_REGION": environment.get(f"{_PREFIX}REGION") or GatewaySettings.region,
    }
    return {name: value for name, value in variables.items() if value}


def _how_to_answer(store: StoreSettings | None) -> dict[str, str]:
    if store is None:
        return {}
    return {
        f"{_PREFIX}{each.name.upper()}": str(getattr(store, each.name))
        for each in declarations(StoreSettings)
    }


def _without_aws(environment: dict[str, str]) -> dict[str, str]:
    """The embedded store has its own keys: a profile or setting for AWS must not get in their way."""
    kept = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    return {**kept, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def _spawn_gateway(
    listener: socket.socket, environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Starts it in a session of its own: Ctrl-C reaches us alone, and uploads under way can finish first."""
    descriptor = listener.fileno()
    with open_private(log) as output:
        return subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            [sys.executable, "-P", "-m", "deployments.sandbox.gateway", "--listen-fd", str(descriptor)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[descriptor],
            start_new_session=True,
            umask=0o077,
        )


def _await_first_answer(address: tuple[str, int], gateway: subprocess.Popen[bytes], log: Path) -> None:
    """Sends one request, which waits in the socket's queue, and is reset if the gateway dies."""
    connection = http.client.HTTPConnection(*address, timeout=storage.START_TIMEOUT_S)
    try:
        connection.request("GET", "/upload/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        raise _start_failure(gateway, log) from None
    finally:
        connection.close()


def _start_failure(gateway: subprocess.Popen[bytes], log: Path) -> IngestError:
    """The error to raise. Whose fault it was, the gateway's exit code says."""
    with suppress(subprocess.TimeoutExpired):
        gateway.wait(1)
    kind = UsageError if gateway.returncode == UsageError.exit_code else StoppedError
    return kind(f"The sandbox did not start. Its log ends with:\n{last_lines(log)}")


def _stop(gateway: subprocess.Popen[bytes]) -> None:
    """Closes its stdin. One that did not end well may leave its object store: its group is ended, too."""
    assert gateway.stdin
    gateway.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        gateway.wait(_STOP_TIMEOUT_S)
    if gateway.returncode != 0:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(gateway.pid, signal.SIGKILL)
    gateway.wait()
