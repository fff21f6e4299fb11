"""dicom-ingest: the command line. A command imports what it needs, so that help and `upload` start fast."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from tasks.core.options import HELP

if TYPE_CHECKING:
    from tasks.core.errors import IngestError
    from tasks.core.models import StudyEntry, Summary
    from tasks.scan import Territory

_SETTINGS_HELP: Final = (
    "Every option is also a setting DICOM_INGEST_<NAME>, such as DICOM_INGEST_API_ENDPOINT. Secrets are "
    "settings only: DICOM_INGEST_TOKEN, or DICOM_INGEST_TOKEN_URL with DICOM_INGEST_CLIENT_ID and "
    "DICOM_INGEST_CLIENT_SECRET."
)
_EXIT_CODES_HELP: Final = (
    "Exit codes: 0 every file is where it should be; 1 some are not, and the report says which and why; "
    "2 the command, a setting or the manifest is wrong, and nothing was attempted; 3 stopped early; "
    "130 interrupted. After 1, 3 and 130 the report is complete, and the same command goes on from there."
)

_INTERRUPTED: Final = (
    "Interrupted. The same command goes on from here; `dicom-ingest report` writes what a run has done "
    "until now."
)
# Objects; 700 is usual. Imports make a few hundred thousand, and among them is no garbage.
_COLLECTED_AFTER: Final = 50_000

app = App(
    name="dicom-ingest",
    help="Moves an archive of DICOM studies into a cloud imaging platform, and proves it.",
    help_epilogue=f"{_SETTINGS_HELP}\n\n{_EXIT_CODES_HELP}",
    help_format="plaintext",
    result_action="return_value",
)
_RUN: Final = Group("Where and how")


def _option(name: str, *more: str) -> Parameter:
    return Parameter(name=[f"--{name.replace('_', '-')}", *more], help=HELP[name], negative="", group=_RUN)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RunOptions:
    """What `run` and `upload` share; None is not given, so that the setting or the default counts."""

    api_endpoint: Annotated[str | None, _option("api_endpoint", "-u")] = None
    report_dir: Annotated[Path | None, _option("report_dir")] = None
    ledger: Annotated[str | None, _option("ledger")] = None
    campaign: Annotated[str | None, _option("campaign")] = None
    parallel: Annotated[int | None, _option("parallel")] = None
    processes: Annotated[int | None, _option("processes")] = None
    root: Annotated[str | None, _option("root")] = None
    rehash: Annotated[bool | None, _option("rehash")] = None
    on_conflict: Annotated[Literal["report", "upload"] | None, _option("on_conflict")] = None
    min_age: Annotated[float | None, _option("min_age")] = None
    dead_after: Annotated[float | None, _option("dead_after")] = None
    max_outage: Annotated[float | None, _option("max_outage")] = None
    retries: Annotated[list[str] | None, _option("retries")] = None
    allow_storage_host: Annotated[list[str] | None, _option("allow_storage_host")] = None
    allow_http: Annotated[bool | None, _option("allow_http")] = None
    debug: Annotated[bool, _option("debug")] = False

    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "debug"}
        return {name: value for name, value in values.items() if value is not None}


@app.command
def upload(
    *,
    path: Annotated[Path, Parameter(name=["--path", "-p"], help="A DICOM file, or a directory of them.")],
    list_files: Annotated[
        bool, Parameter(name="--list", negative="", help="Print each file, its key and its outcome.")
    ] = False,
    options: RunOptions = RunOptions(),
) -> int:
    """Upload one file or directory at once: no manifest, no Prefect, the same engine and report as `run`."""
    from flows.progress import shown
    from tasks.engine import ingest, safe_errors
    from tasks.settings import load

    with safe_errors():
        entry, scan = _what_to_upload(path)
        settings = load(**options.given())
        summary = ingest([entry], settings, watch=shown, scan=scan)
    if list_files:
        _print_files(settings.report_dir)
    _print_summary(summary, settings.report_dir)
    return summary.exit_code


@app.command
def run(manifest: Path, /, *, options: RunOptions = RunOptions()) -> int:
    """Upload the studies of a manifest as a Prefect flow, and write the reconciliation report.

    It runs against the Prefect server that PREFECT_API_URL or the profile names, or else an embedded one.

    Parameters
    ----------
    manifest
        CSV, JSON Lines or Parquet with one row per study directory: see `dicom-ingest manifest`.
    """
    from tasks.engine import safe_errors
    from tasks.load import load_manifest
    from tasks.settings import Options, load

    given = options.given()
    with safe_errors():  # what can be known to be wrong is said before Prefect takes seconds to start
        settings = load(**given)
        load_manifest(manifest, Path(settings.root) if settings.root else None)
    summary = _run_flow(
        "backfill",
        manifest=str(manifest.absolute()),
        api_endpoint=settings.api_endpoint,
        report_dir=str(settings.report_dir.absolute()),
        options=Options(**{name: value for name, value in given.items() if name in Options.model_fields}),
    )
    _print_summary(summary, settings.report_dir)
    return summary.exit_code


@app.command
def migrate(
    manifest: Path,
    /,
    *,
    shards: Annotated[int, Parameter(help="How many parts; a study is never split.")] = 4,
    balance: Annotated[
        Literal["files", "bytes"], Parameter(help="What is to be equal between shards.")
    ] = "files",
    options: RunOptions = RunOptions(),
) -> int:
    """Upload the studies of a manifest by many workers of a Prefect work pool, and merge one report.

    Needs a Prefect server (PREFECT_API_URL), the deployment migrate-shard/worker on a work pool with workers,
    the manifest and the studies under the same paths everywhere, and --ledger postgresql://HOST/DB.

    Parameters
    ----------
    manifest
        CSV, JSON Lines or Parquet with one row per study directory: see `dicom-ingest manifest`.
    """
    from tasks.core.errors import UsageError
    from tasks.engine import safe_errors
    from tasks.load import load_manifest
    from tasks.settings import Options, load
    from tasks.shards import require_shared

    given = options.given()
    with safe_errors():
        settings = load(**given)
        require_shared(settings)
        load_manifest(manifest, Path(settings.root) if settings.root else None)
        if not _has_prefect_server():
            raise UsageError(
                "migrate needs the Prefect server that the workers have: set PREFECT_API_URL. "
                "Nothing was sent."
            )
    summary = _run_flow(
        "migrate",
        manifest=str(manifest.absolute()),
        api_endpoint=settings.api_endpoint,
        report_dir=str(settings.report_dir.absolute()),
        shards=shards,
        balance=balance,
        options=Options(**{name: value for name, value in given.items() if name in Options.model_fields}),
    )
    _print_summary(summary, settings.report_dir)
    return summary.exit_code


@app.command
def manifest(
    *roots: Path,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Where to write it: .csv, .jsonl or .parquet.")
    ],
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Write a manifest of an existing archive: one row per study directory found.

    Parameters
    ----------
    roots
        The directories to look in; every regular file below them is covered by exactly one row.
    """
    del debug  # main looks at it
    from tasks.core.errors import UsageError
    from tasks.engine import safe_errors
    from tasks.find import write_manifest

    if not roots:
        raise UsageError(
            "Name at least one directory to look in: dicom-ingest manifest ROOT... -o manifest.csv"
        )
    with safe_errors():
        count = write_manifest(roots, output)
    _say(f"{count:,} study directories are in {output}")
    return 0


@app.command
def report(
    report_dir: Path,
    /,
    *,
    ledger: Annotated[str, _option("ledger")] = os.environ.get("DICOM_INGEST_LEDGER", ""),
    campaign: Annotated[str, _option("campaign")] = os.environ.get("DICOM_INGEST_CAMPAIGN", "default"),
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Write the report of a directory's newest run again, from the ledger: after a crash, or a full disk.

    Parameters
    ----------
    report_dir
        The report directory of the run.
    """
    del debug
    from tasks.engine import report_again, safe_errors
    from tasks.settings import ledger_at

    with safe_errors():
        key = os.environ.get("DICOM_INGEST_SIGNING_KEY")
        summary = report_again(
            report_dir, ledger_at(ledger, report_dir), campaign, Path(key) if key else None
        )
    _print_summary(summary, report_dir)
    return summary.exit_code


@app.command
def audit(
    report_dir: Path,
    /,
    *,
    public_key: Annotated[
        Path | None, Parameter(help="Check the certificate's signature with this Ed25519 key in PEM.")
    ] = None,
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Check a report directory's audit trail: its chain, its certificate, and that it agrees with the report.

    Exit code 0: all is as it was written. 1: it is not, and where.

    Parameters
    ----------
    report_dir
        The report directory of one run or more.
    """
    del debug
    from tasks import auditor, certificate
    from tasks.engine import safe_errors

    with safe_errors():
        key = certificate.public_key(public_key) if public_key else None
        found = auditor.audit(report_dir, key)
    for fault in found.faults:
        _say(fault)
    if found.more_faults:
        _say(f"and {found.more_faults:,} more")
    events = ", ".join(f"{count:,} {event}" for event, count in sorted(found.events.items()))
    _say(f"{found.lines:,} lines: {events or 'none'}")
    if found.elsewhere:
        _say(
            f"{found.elsewhere:,} files were stored by runs into other report directories: see their trails."
        )
    _say("The trail does not hold." if found.faults else "The trail is whole and agrees with the report.")
    return 1 if found.faults else 0


@app.command
def sandbox(
    *,
    port: Annotated[int | None, Parameter(help="Port of the upload API; a free one when not given.")] = None,
    data_dir: Annotated[Path, Parameter(help="Where the objects are kept.")] = Path("sandbox"),
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Run an embedded far side until Ctrl-C: upload API, OAuth2, S3 endpoint. Says how to point at it."""
    del debug
    from deployments.sandbox.sandbox import serve

    serve(data_dir, port)
    return 0


@app.command
def serve(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server that is started.")] = 4200,
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Start a Prefect server with its UI and the deployments, ready to click "Run", until Ctrl-C.

    With PREFECT_API_URL set it starts no server, and serves the deployments at that one.
    """
    del debug
    from flows.serve import serve

    serve(port)
    return 0


@app.command
def demo(
    *,
    directory: Annotated[Path, Parameter(help="Where everything of the demo is put.")] = Path("demo"),
    slices: Annotated[int, Parameter(help="Slices of the generated CT study.")] = 300,
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Upload sample studies through an embedded far side, and check the report against what was planted."""
    del debug
    from deployments.sandbox.demo import run_demo

    return run_demo(directory, slices)


def main() -> None:
    """The console script."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in tasks/hand.py
    gc.set_threshold(_COLLECTED_AFTER)
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code. An error is one clear sentence; `--debug` says where it came from."""
    debug = "--debug" in arguments or os.environ.get("DICOM_INGEST_DEBUG", "").lower() in ("1", "true")
    try:
        with _terminated_like_interrupted():
            return int(app(arguments, exit_on_error=False, print_error=True) or 0)
    except CycloptsError:
        return 2  # as UsageError; the library has said what is wrong
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a person gets a sentence, whatever happened
        return _tell(_error_to_tell(error), debug=debug)


def _error_to_tell(error: BaseException) -> "IngestError":
    from tasks.core.errors import IngestError, InternalError, InterruptedRunError

    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError(_INTERRUPTED)
    return error if isinstance(error, IngestError) else InternalError.hiding(error)


def _tell(error: "IngestError", *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        _say(f"dicom-ingest: {error}")
    return error.exit_code


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: in order, with a report."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _what_to_upload(path: Path) -> "tuple[StudyEntry, Callable[[StudyEntry, Territory], Iterator[Any]]]":
    """A directory as a study entry; a file as one in its directory, of which it is all."""
    from tasks.core.errors import UsageError
    from tasks.core.models import StudyEntry
    from tasks.scan import just_file, walk_study

    if path.is_dir():
        return StudyEntry(1, str(path.absolute())), walk_study
    if path.exists():
        return StudyEntry(1, str(path.absolute().parent)), just_file(path.absolute())
    raise UsageError("--path: there is no such file or directory. Nothing was sent.")


def _run_flow(name: Literal["backfill", "migrate"], **parameters: Any) -> "Summary":
    """The flow in this process; its exception, when it has one, is ours and comes out as itself."""
    _prepare_prefect()
    flow = getattr(import_module(f"flows.{name}"), name)
    from prefect.exceptions import Pause

    from tasks.core.errors import IngestError, NotAllStoredError, StoppedError
    from tasks.report import read_summary

    report_dir = Path(parameters["report_dir"])
    before = _last_run_id(report_dir)
    _say_warnings_of_flows()
    try:
        state = flow(**parameters, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, dict | NotAllStoredError):
            return read_summary(report_dir)
    except Pause:  # suspended in the UI: no deployment starts this one again, but the same command does
        return read_summary(report_dir)
    except Exception as error:  # noqa: BLE001 - Prefect's own trouble: what counts is whether we are done
        result = error
    if isinstance(result, IngestError):
        raise result
    if _last_run_id(report_dir) == before:
        raise StoppedError(
            f"Prefect ended the flow ({type(result).__name__}) before there was a report. Look after its "
            "server, then run the same command again: it goes on from here."
        )
    _say("Prefect's server went away: its UI may not show how this run ended. The report is complete.")
    return read_summary(report_dir)


def _say_warnings_of_flows() -> None:
    """Prefect's own console is silent here; what a run ends with is told at its end."""
    import logging

    class Warnings(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                _say(record.getMessage())

    logging.getLogger("prefect.flow_runs").addHandler(Warnings())


def _last_run_id(report_dir: Path) -> str:
    """Of the report that lies there; empty when there is none."""
    from tasks.core.errors import IngestError
    from tasks.report import read_summary

    try:
        return read_summary(report_dir).run_id
    except (OSError, IngestError):
        return ""


def _prepare_prefect() -> None:
    """Before Prefect is imported: its settings are read then. What the operator has set is left as it is."""
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the server has the log; errors are told below
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s, a few times in a row when the server is gone for good
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        _reach_prefect()
    else:
        _say("Starting an embedded Prefect server (its first start prepares a database: up to a minute) ...")
        _start_embedded_server()


def _has_prefect_server() -> bool:
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _reach_prefect() -> None:
    """The server that the operator named has to answer before anything is sent."""
    from prefect.client.orchestration import get_client

    from tasks.core.errors import UsageError

    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble is not None:
        raise UsageError(
            f"The Prefect server at PREFECT_API_URL does not answer ({type(trouble).__name__}). Nothing was "
            "sent. Start it, or unset PREFECT_API_URL for an embedded one."
        )


def _start_embedded_server() -> None:
    """From a thread that blocks SIGINT, which the server inherits: Ctrl-C at a terminal stops us, not it.

    The run has to end in order first, and tells Prefect so.
    """

    from concurrent.futures import ThreadPoolExecutor

    def start() -> None:
        from prefect.client.orchestration import get_client

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with get_client(sync_client=True) as client:  # starts it, and waits until it answers
            client.hello()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(start).result()


def _print_files(report_dir: Path) -> None:
    from tasks.core.escape import escape
    from tasks.report import read_report

    for row in read_report(report_dir):
        outcome = " ".join(part for part in (row["status"], row["reason"]) if part)
        print(f"{escape(row['path'])}\t{escape(row['key']) or '-'}\t{outcome}")


def _print_summary(summary: "Summary", report_dir: Path) -> None:
    for problem in summary.problems:
        _say(problem)
    statuses = ", ".join(f"{count:,} {status}" for status, count in summary.by_status.items())
    rate = summary.bytes_per_s / 1024 / 1024
    _say(f"{summary.files:,} files: {statuses or 'none'}")
    _say(f"{summary.complete_studies:,} of {summary.studies:,} studies complete")
    _say(f"{summary.wall_s:.1f} s, {summary.files_per_s:,.0f} files/s, {rate:,.1f} MiB/s")
    _say(f"Report: {report_dir.absolute() / 'report.csv'}")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
