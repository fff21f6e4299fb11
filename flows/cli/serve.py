"""`dicom-ingest serve`: a Prefect server with its UI, and the deployments, ready to click "Run"."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from flows.cli.prefect_home import require_home
from flows.cli.prefect_server import LAST_PORT, NO_TELEMETRY, Server
from flows.orchestration.output_settings import as_variables_of_runs
from flows.orchestration.standard_streams import Kind, current_output, say
from tasks.core.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from prefect.events import DeploymentEventTrigger

SERVER_ENVIRONMENT: Final = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def serve(port: int) -> None:
    """Serves the deployments until SIGINT or SIGTERM, at the configured server or one that it starts."""
    if not 1 <= port <= LAST_PORT:
        raise UsageError(f"--port has to be a number from 1 to {LAST_PORT}. Nothing was started.")
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    os.environ.update(as_variables_of_runs(current_output()))  # each is a process of its own
    url = os.environ.get("PREFECT_API_URL")
    if url:
        _serve_deployments(url)
        return
    require_home(os.environ)
    # A run starts so many seconds after the click; Prefect's own 10 spare a server that many ask.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    with suppress(KeyboardInterrupt), _server(port) as url:
        os.environ["PREFECT_API_URL"] = url  # before Prefect is imported: its settings are read then
        _serve_deployments(url)


def _serve_deployments(url: str) -> None:
    from prefect import serve
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    from flows.backfill import backfill
    from flows.ingest import ingest
    from flows.postprocess import postprocess
    from flows.verify import verify

    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    served = [
        flow.to_deployment(
            "manual",
            description=description,
            tags=["dicom-ingest", flow.name],
            concurrency_limit=one_at_a_time,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for flow, description in (
            (backfill, "Uploads the studies of one manifest; the same parameters go on from there."),
            (ingest, "Registers new objects of a bucket over DICOMweb."),
            (verify, "Holds a report against bucket and registry: what is confirmed, what may be deleted."),
        )
    ]
    served.append(
        postprocess.to_deployment(
            "registered",
            description="Says what a study consists of that was just registered.",
            tags=["dicom-ingest", postprocess.name],
            entrypoint_type=EntrypointType.MODULE_PATH,
            triggers=[_arrival()],
        )
    )
    ui = url.removesuffix("/api")
    say(f"The UI is at {ui}/v2/deployments. Ctrl-C stops it.")
    # A schedule is the operator's: whoever else serves this deployment, or deployed it since, has it go on.
    serve(*served, print_starting_message=False, pause_on_shutdown=False)  # type: ignore[arg-type]


def _arrival() -> "DeploymentEventTrigger":
    """What starts post-processing: the same that deployments/prefect.yaml has."""
    from prefect.events import DeploymentEventTrigger

    from flows.orchestration.arrivals import EVENT

    return DeploymentEventTrigger(
        name="dicom-ingest post-processes studies that are registered",
        expect={EVENT},
        match={"prefect.resource.id": "dicom-ingest.campaign.*"},
        parameters={"study": "{{ event.payload.study }}", "campaign": "{{ event.payload.campaign }}"},
    )


@contextmanager
def _server(port: int) -> Iterator[str]:
    """Its URL. In a session of its own: what is under way ends in order before its server does."""
    say("Starting a Prefect server (its first start takes up to a minute) ...", Kind.NEWS)
    server = Server.start(SERVER_ENVIRONMENT | os.environ, port)
    stopping, is_lost = threading.Event(), threading.Event()

    def watch() -> None:
        server.wait()
        if not stopping.is_set():
            is_lost.set()
            os.kill(os.getpid(), signal.SIGTERM)  # what is under way ends in order, as at any end

    threading.Thread(target=watch, name="server", daemon=True).start()
    try:
        yield server.url
    finally:
        stopping.set()
        server.stop()
        if is_lost.is_set():
            raise StoppedError("Prefect's server on this machine has ended. Run the command again.")
