"""A flow in the command's own process, at the Prefect server that the operator named or an embedded one."""

import atexit
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from flows.cli.prefect_home import temporary_home
from flows.cli.prefect_server import NO_TELEMETRY, START_TIMEOUT_S, Server
from flows.cli.termination import raise_if_terminated
from flows.orchestration.prefect_api import has_own_server, use_own_server
from flows.orchestration.standard_streams import Kind, current_output, say
from tasks.remote.proxy_environment import complete_environment

if TYPE_CHECKING:
    from tasks.core.models import Summary

_temporary: Final[list[Path]] = []


class Summarized(Protocol):
    """A report's summary, of whatever kind."""

    @property
    def run_id(self) -> str:
        """The run that it is of."""
        ...


_Read = TypeVar("_Read", bound=Summarized)


def run_flow(name: Literal["backfill", "migrate"], **parameters: Any) -> "Summary":
    """Runs the flow in this process. Raises its own IngestError; StoppedError when Prefect ended it early."""
    from tasks.report.reader import read_summary

    return run_flow_of(name, read_summary, **parameters)


def run_flow_of(name: str, read: Callable[[Path], _Read], **parameters: Any) -> _Read:
    """The same of any flow; `read` gives the summary in its report directory."""
    _prepare()
    flow = getattr(import_module(f"flows.{name}"), name)
    from prefect.exceptions import Pause

    from tasks.core.errors import IngestError, NotAllStoredError, StoppedError

    report_dir = Path(parameters["report_dir"])
    before = _last_run_id(report_dir, read)
    _say_warnings_of_flows()
    raise_if_terminated()
    try:
        state = flow(**parameters, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, dict | NotAllStoredError):
            return read(report_dir)
    except Pause:  # suspended in the UI: no deployment starts this one again, but the same command does
        return read(report_dir)
    except Exception as error:  # noqa: BLE001 - Prefect's own trouble: what counts is whether we are done
        result = error
    if isinstance(result, IngestError):
        raise result
    if _last_run_id(report_dir, read) == before:
        raise StoppedError(
            f"Prefect ended the flow ({type(result).__name__}) before there was a report. Look after its "
            "server, then run the same command again: it goes on from here."
        )
    say(
        "Prefect's server went away: its UI may not show how this run ended. The report is complete.",
        Kind.WARNING,
    )
    return read(report_dir)


def _say_warnings_of_flows() -> None:
    """Prefect's own console is silent here; what a run ends with is said at its end."""
    import logging

    class Warnings(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING and not current_output().is_json:  # which has them all
                say(record.getMessage(), Kind.WARNING)

    logging.getLogger("prefect.flow_runs").addHandler(Warnings())


def _last_run_id(report_dir: Path, read: Callable[[Path], Summarized]) -> str:
    """Of the report that lies there; empty when there is none."""
    from tasks.core.errors import IngestError

    try:
        return read(report_dir).run_id
    except (OSError, IngestError):
        return ""


def require_server() -> None:
    """A server that the operator named has to answer before anything is asked of the platform."""
    _set_defaults()
    if has_server():
        _reach()


def _prepare() -> None:
    """Finds or starts a Prefect server, before Prefect is imported: its settings are read then."""
    if has_own_server():
        return
    require_server()
    if not has_server():
        say(
            "Starting an embedded Prefect server (its first start prepares a database: up to a minute) ...",
            Kind.NEWS,
        )
        _start_own_server()


def _set_defaults() -> None:
    defaults = {
        **NO_TELEMETRY,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the server has the log; errors are said below
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s, a few times in a row when the server is gone for good
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def has_server() -> bool:
    """Whether the operator named a Prefect server, by PREFECT_API_URL or the profile."""
    return not has_own_server() and bool(_api_url())


def _api_url() -> str:
    """Prefect's setting, from wherever it takes it; on a machine without a home, too."""
    if "prefect" not in sys.modules:
        _set_defaults()
        _use_home()
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or ""


def _use_home() -> None:
    if home := temporary_home(os.environ):
        _temporary.append(home)
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        say(
            "The home directory is missing or can't be written: Prefect works in a temporary one, removed at "
            "the end. PREFECT_HOME names a lasting one.",
            Kind.WARNING,
        )


def _reach() -> None:
    """The server that the operator named has to answer before anything is sent."""
    from prefect.client.orchestration import get_client

    from tasks.core.errors import UsageError

    complete_environment(os.environ, _api_url())
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble is not None:
        raise UsageError(
            f"The Prefect server at PREFECT_API_URL does not answer ({type(trouble).__name__}). Nothing was "
            "sent. Start it, or unset PREFECT_API_URL for an embedded one."
        )


def _start_own_server() -> None:
    """It ends after everything that Prefect does at our end, and at once when we are killed."""
    timeout_s = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", START_TIMEOUT_S))
    server = Server.start(
        os.environ, ephemeral=True, temporary_home=next(iter(_temporary), None), timeout_s=timeout_s
    )
    atexit.register(server.stop)
    use_own_server(server.url)
