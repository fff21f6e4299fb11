"""The commands of dicom-ingest and their options. Each imports what it needs: `upload` starts fast."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import App, Group, Parameter

from flows.cli.help import EXIT_CODES_HELP, SETTINGS_HELP, list_out, say
from tasks.core.options import DEFAULTS, HELP
from tasks.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tasks.core.models import StudyEntry, Summary
    from tasks.ledger.ledger import Begins
    from tasks.settings import Settings
    from tasks.source.scan import Territory


def _version() -> str:
    from importlib.metadata import version

    return version("dicom-ingest")


app = App(
    name="dicom-ingest",
    version=_version,
    help_epilogue=f"{SETTINGS_HELP}\n\n{EXIT_CODES_HELP}",  # of commands that take settings and secrets
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # what to do then, flows/cli/__main__.py says
)
_RUN: Final = Group("Where and how")
_NO_MANIFEST: Final = "Interrupted. A manifest is written whole or not at all: the same command begins anew."


def _option(name: str, *more: str) -> Parameter:
    return Parameter(
        name=[f"--{name.replace('_', '-')}", *more],
        help=HELP[name],
        negative="",
        show_default=DEFAULTS.get(name, False),
        group=_RUN,
    )


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
        bool,
        Parameter(
            name="--list", negative="", show_default=False, help="Print each file, its key and its outcome."
        ),
    ] = False,
    options: RunOptions = RunOptions(),
) -> int:
    """Upload one file or directory at once: no manifest, no Prefect, the same engine and report as `run`."""
    from flows.cli.progress import shown
    from tasks.run.early_end import safe_errors
    from tasks.run.engine import ingest
    from tasks.settings import load

    with safe_errors():
        entry, scan = _what_to_upload(path)
        settings = load(**options.given())
        summary = ingest(
            [entry], settings, shown, scan, announce=lambda begins: _say_what_begins(settings, begins)
        )
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
    return _run_flow("backfill", manifest, options)


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
    return _run_flow("migrate", manifest, options, _require_workers, shards=shards, balance=balance)


@app.command(help_epilogue="")
def manifest(
    *roots: Path,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Where to write it: .csv, .jsonl or .parquet.")
    ],
    scan: Annotated[
        bool,
        Parameter(
            negative="",
            help="Read the header of every file, and fill in study_instance_uid (where all agree), "
            "expected_instances (distinct SOP Instance UIDs that would be sent) and expected_bytes (theirs).",
        ),
    ] = False,
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Write a manifest of an existing archive: one row per study directory found.

    Parameters
    ----------
    roots
        The directories to look in; every regular file below them is covered by exactly one row.
    """
    del debug  # main looks at it
    from flows.cli.manifest_progress import scan_sentences, shown
    from tasks.core.errors import InterruptedRunError, UsageError
    from tasks.run.early_end import safe_errors
    from tasks.source.manifest_writer import scan_manifest, write_manifest

    if not roots:
        raise UsageError(
            "Name at least one directory to look in: dicom-ingest manifest ROOT... -o manifest.csv"
        )
    try:
        with safe_errors():
            counts = (scan_manifest if scan else write_manifest)(roots, output, shown)
    except KeyboardInterrupt:
        raise InterruptedRunError(_NO_MANIFEST) from None
    say(f"{counted(counts.study_dirs, 'study directory')} found, and written to {output}")
    for sentence in scan_sentences(counts) if scan else ():
        say(sentence)
    return 0


@app.command(help_epilogue=EXIT_CODES_HELP)
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
    from tasks.run.early_end import safe_errors
    from tasks.run.records import report_again
    from tasks.settings import ledger_at

    with safe_errors():
        key = os.environ.get("DICOM_INGEST_SIGNING_KEY")
        summary = report_again(
            report_dir, ledger_at(ledger, report_dir), campaign, Path(key) if key else None
        )
    _print_summary(summary, report_dir)
    return summary.exit_code


@app.command(help_epilogue="")
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
    from tasks.audit import certificate, check
    from tasks.run.early_end import safe_errors

    with safe_errors():
        key = certificate.public_key(public_key) if public_key else None
        found = check.audit(report_dir, key)
    for fault in found.faults:
        say(fault)
    if found.more_faults:
        say(f"and {found.more_faults:,} more")
    events = ", ".join(f"{count:,} {event}" for event, count in sorted(found.events.items()))
    say(f"{counted(found.lines, 'line')}: {events or 'none'}")
    if found.elsewhere:
        count = counted(found.elsewhere, "file")
        say(f"{count} stored by runs into other report directories: see their trails.")
    say("The trail does not hold." if found.faults else "The trail is whole and agrees with the report.")
    return 1 if found.faults else 0


@app.command(help_epilogue="")
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


@app.command(help_epilogue=SETTINGS_HELP)
def serve(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server that is started.")] = 4200,
    debug: Annotated[bool, _option("debug")] = False,
) -> int:
    """Start a Prefect server with its UI and the deployments, ready to click "Run", until Ctrl-C.

    With PREFECT_API_URL set it starts no server, and serves the deployments at that one.
    """
    del debug
    from flows.cli.serve import serve

    serve(port)
    return 0


@app.command(help_epilogue="")
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


def _run_flow(
    name: Literal["backfill", "migrate"],
    manifest: Path,
    options: RunOptions,
    require: "Callable[[Settings], None]" = lambda _settings: None,
    **parameters: Any,
) -> int:
    """Runs a flow over a manifest in this process: what the command ends with."""
    from flows.cli.local_flow import run_flow
    from tasks.run.early_end import safe_errors
    from tasks.run.preflight import read_manifest
    from tasks.settings import Options, load

    given = options.given()
    with safe_errors():  # what can be known to be wrong is said before Prefect takes seconds to start
        settings = load(**given)
        require(settings)
        entries = read_manifest(manifest, settings)
        checked = _check(settings, manifest, entries)
    with checked:
        summary = run_flow(
            name,
            manifest=str(manifest.absolute()),
            api_endpoint=settings.api_endpoint,
            report_dir=str(settings.report_dir.absolute()),
            options=Options(**{each: value for each, value in given.items() if each in Options.model_fields}),
            **parameters,
        )
    _print_summary(summary, settings.report_dir)
    return summary.exit_code


def _require_workers(settings: "Settings") -> None:
    """UsageError unless other machines can be reached: through a database, and a Prefect server."""
    from flows.cli.local_flow import has_server
    from tasks.core.errors import UsageError
    from tasks.run.shards import require_shared

    require_shared(settings)
    if not has_server():
        raise UsageError(
            "migrate needs the Prefect server that the workers have: set PREFECT_API_URL. Nothing was sent."
        )


def _what_to_upload(path: Path) -> "tuple[StudyEntry, Callable[[StudyEntry, Territory], Iterator[Any]]]":
    """A directory as a study entry; a file as one in its directory, of which it is all."""
    from tasks.core.errors import UsageError
    from tasks.core.models import StudyEntry
    from tasks.source.scan import just_file, walk_study

    if path.is_dir():
        return StudyEntry(1, str(path.absolute())), walk_study
    if path.exists():
        return StudyEntry(1, str(path.absolute().parent)), just_file(path.absolute())
    raise UsageError("--path: there is no such file or directory. Nothing was sent.")


def _check(
    settings: "Settings", manifest: Path, entries: "Sequence[StudyEntry]"
) -> "AbstractContextManager[None]":
    """Finds what is wrong before Prefect takes seconds to start; what the flow is to run within."""
    from flows.cli.local_flow import require_server
    from tasks.ledger.ledger import begins
    from tasks.run.preflight import check, passed_on

    require_server()  # a key that is handed out needs a run that accounts for it
    anew = begins(settings.ledger_at, settings.campaign)
    answer = check(settings)
    _say_what_begins(settings, anew)
    return passed_on(answer, manifest, entries)


def _say_what_begins(settings: "Settings", begins: "Begins") -> None:
    from tasks.core.escape import escape

    where = settings.ledger_at
    place = escape(str(where.absolute() if isinstance(where, Path) else where))
    if sentence := begins.sentence(settings.campaign, place):
        say(sentence)


def _print_files(report_dir: Path) -> None:
    from tasks.core.escape import escape
    from tasks.report.directory import read_report

    def line(row: dict[str, str]) -> str:
        outcome = " ".join(part for part in (row["status"], row["reason"]) if part)
        return f"{escape(row['path'])}\t{escape(row['key']) or '-'}\t{outcome}"

    list_out(map(line, read_report(report_dir)))


def _print_summary(summary: "Summary", report_dir: Path) -> None:
    from flows.orchestration.incomplete import LINES_SHOWN, in_words, lines, not_complete

    for problem in summary.problems:
        say(problem)
    statuses = ", ".join(f"{count:,} {status}" for status, count in summary.by_status.items())
    rate = summary.bytes_per_s / 1024 / 1024
    say(f"{counted(summary.files, 'file')}: {statuses or 'none'}")
    found = not_complete(summary, report_dir, LINES_SHOWN)
    for sentence in (*in_words(summary, found), *lines(found)):
        say(sentence)
    say(f"{summary.wall_s:.1f} s, {summary.files_per_s:,.0f} files/s, {rate:,.1f} MiB/s")
    say(f"Report: {report_dir.absolute() / 'report.csv'}")
