"""`dicom-ingest serve`: a Prefect server with its UI, and the deployments, ready to click "Run"."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tasks.core.errors import StoppedError, UsageError

_LAST_PORT: Final = 65_535
_START_TIMEOUT_S: Final = 300.0  # the first start prepares a database
_STOP_TIMEOUT_S: Final = 15.0
_SERVER_ENVIRONMENT: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def serve(port: int) -> None:
    """Until SIGINT or SIGTERM. Serves at the server that is configured, or else starts one."""
    if not 1 <= port <= _LAST_PORT:
        raise UsageError(f"--port has to be a number from 1 to {_LAST_PORT}. Nothing was started.")
    url = os.environ.get("PREFECT_API_URL")
    if url:
        _serve_deployments(url)
        return
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url  # before Prefect is imported: its settings are read then
    # A run starts so many seconds after the click; Prefect's own 10 spare a server that many ask.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    with suppress(KeyboardInterrupt), _server(url, port):
        _serve_deployments(url)


def _serve_deployments(url: str) -> None:
    from prefect import serve
    from prefect.types.entrypoint import EntrypointType

    from flows.backfill import backfill

    deployment = backfill.to_deployment(
        "manual",
        description="Uploads the studies of one manifest; the same parameters go on from there.",
        tags=["dicom-ingest", "backfill"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    ui = url.removesuffix("/api")
    print(f"The UI is at {ui}/v2/deployments. Ctrl-C stops it.", file=sys.stderr, flush=True)
    serve(deployment, print_starting_message=False)  # type: ignore[arg-type]


@contextmanager
def _server(url: str, port: int) -> Iterator[None]:
    """In a session of its own: what is under way ends in order before its server does."""
    print("Starting a Prefect server (its first start takes up to a minute) ...", file=sys.stderr, flush=True)
    prefect = str(Path(sys.executable).with_name("prefect"))
    server = subprocess.Popen(  # noqa: S603 - our own arguments
        [prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=_SERVER_ENVIRONMENT | os.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(url, server)
        yield
    finally:
        _stop(server)


def _await_health(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < until:
        with suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/health").close()  # noqa: S310 - our own loopback URL
            return
        time.sleep(0.2)
    raise StoppedError(
        "Prefect's server did not start: is the port in use? `dicom-ingest serve --port 4300` takes another; "
        "`prefect server start` says more."
    )


def _stop(server: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(_STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
