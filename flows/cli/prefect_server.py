"""A Prefect server of this process's own, on this machine: it ends with the process, however that ends."""

import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from flows.cli.termination import raise_if_terminated
from tasks.core.errors import UsageError
from tasks.declaration import PREFIX

NO_TELEMETRY: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}  # of client and server
START_TIMEOUT_S: Final = 120.0  # the first start prepares a database: 20 s, on a slow machine a minute
_LOOK_UP_S: Final = 0.5  # for the server's end, and for a signal that came in the moment before a wait
_STOP_TIMEOUT_S: Final = 10.0  # the process ends itself before that
LAST_PORT: Final = 65_535
_OPENS_DATABASES: Final = re.compile(r"PG(PASSWORD|PASSFILE|SERVICE|SERVICEFILE)\Z|AWS_(SECRET|SESSION)_")
_POSTGRESQL: Final = "postgresql+asyncpg"  # of a URL, or by itself: the driver that Prefect has
_EPHEMERAL: Final = {  # as Prefect's own ephemeral server: no UI, no scheduler
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    url: str
    _process: "subprocess.Popen[bytes]"

    @classmethod
    def start(
        cls,
        environ: Mapping[str, str],
        port: int = 0,
        *,
        ephemeral: bool = False,
        temporary_home: Path | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> Self:
        """On `port` of 127.0.0.1, or on a free one; `temporary_home` is removed when the server ends.

        UsageError when the port is taken, or when the server ends or does not answer in time.
        """
        with _listening(port) as listener:
            address: tuple[str, int] = listener.getsockname()
            url = f"http://{address[0]}:{address[1]}/api"
            ours = without_our_secrets(environ)
            its = {**NO_TELEMETRY, **ours, **_settings(url), **(_EPHEMERAL if ephemeral else {})}
            server = cls(url, _spawn(listener, its, temporary_home))
        try:
            _await_answer(address, server._process, timeout_s)
        except BaseException:  # Ctrl-C, too
            server.stop()
            raise
        return server

    def wait(self) -> None:
        """Until it has ended, by itself or by `stop`."""
        self._process.wait()

    def stop(self) -> None:
        """In order; returns when there is no process any more."""
        assert self._process.stdin
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def without_our_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """What a Prefect server inherits: none of our settings, and what opens databases only for its own."""
    kept = is_on_postgresql(environ)
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(PREFIX) and (kept or not _OPENS_DATABASES.match(name))
    }


def is_on_postgresql(environ: Mapping[str, str]) -> bool:
    """Whether its own database is one of PostgreSQL, by anything that Prefect takes settings from."""
    if any(_POSTGRESQL in value for name, value in environ.items() if name.upper().startswith("PREFECT_")):
        return True
    home = environ.get("PREFECT_HOME") or f"{environ.get('HOME', '')}/.prefect"
    profiles = environ.get("PREFECT_PROFILES_PATH") or f"{home}/profiles.toml"
    files = (Path(name) for name in (profiles, "prefect.toml", "pyproject.toml", ".env"))
    return any(_POSTGRESQL in _text(file) for file in files)


def _text(file: Path) -> str:
    """Empty when there is none to read."""
    try:
        return file.expanduser().read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        return ""


def _settings(url: str) -> dict[str, str]:
    """Of every such server: where it is, which its UI has to know, and that it is the process's only one."""
    return {"PREFECT_API_URL": url, "PREFECT_SERVER_API_BASE_PATH": "/api", "PREFECT__SERVER_FINAL": "1"}


def _listening(port: int) -> socket.socket:
    """Bound here and handed down: nobody takes the port in between."""
    unusable = UsageError(
        f"Port {port} can't be used for Prefect's server: another program may have it. "
        "`dicom-ingest serve --port 4300` takes another."
    )
    if not 0 <= port <= LAST_PORT:  # create_server would leave its socket open
        raise unusable
    try:
        with socket.create_server(("127.0.0.1", port), backlog=128) as bound:
            # Not 0 to 2, which are free in a process without standard streams: they are another thing there.
            return socket.socket(fileno=fcntl.fcntl(bound.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
    except OSError:
        raise unusable from None


def _spawn(
    listener: socket.socket, environ: Mapping[str, str], temporary_home: Path | None
) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C at a terminal reaches us alone: we end first, and in order."""
    descriptor = str(listener.fileno())
    more = ["--temporary-home", str(temporary_home)] if temporary_home else []
    return subprocess.Popen(  # noqa: S603 - our own module, our own arguments
        [sys.executable, "-P", "-m", "flows.cli.server_process", "--listen-fd", descriptor, *more],
        env={**environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    )


def _await_answer(address: tuple[str, int], process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """One request: it waits in the socket's queue, and is reset when the process ends."""
    until = time.monotonic() + timeout_s
    with suppress(OSError), socket.create_connection(address, _LOOK_UP_S) as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while process.poll() is None and not select.select([connection], [], [], _LOOK_UP_S)[0]:
            raise_if_terminated()
            if time.monotonic() > until:
                raise _failure(f"does not answer after {timeout_s:.0f} s")
        if connection.recv(1):
            return
    raise _failure("ended while it started")


def _failure(what: str) -> UsageError:
    return UsageError(
        f"Prefect's server on this machine {what}. Nothing was sent. `prefect server start` says why; "
        "PREFECT_HOME names another directory for its database, PREFECT_API_URL another server."
    )
