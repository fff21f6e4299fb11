"""Commands that move an archive: its manifest, and the runs that upload it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from flows.cli.options import ManifestOptions, MigrateOptions, RunOptions, ServeOptions
from flows.cli.run_messages import list_files, say_summary, say_what_begins
from flows.orchestration.standard_streams import say
from tasks.core.words import counted
from tasks.declaration import load_as
from tasks.process_memory import keep_imports, share_memory_between_threads
from tasks.settings import (
    AcceptSettings,
    ManifestSettings,
    MigrationSettings,
    ReportDirectorySettings,
    RunSettings,
    ServeSettings,
    Settings,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tasks.core.models import StudyEntry
    from tasks.source.scan import Ownership

_NO_MANIFEST: Final = "Interrupted. A manifest is written whole or not at all: the same command begins anew."


def upload(
    *,
    path: Annotated[Path, Parameter(name=["--path", "-p"], help="A DICOM file, or a directory of them.")],
    list_: Annotated[
        bool,
        Parameter(
            name="--list", negative="", show_default=False, help="Print each file, its key and its outcome."
        ),
    ] = False,
    options: RunOptions = RunOptions(),
) -> int:
    """Upload one file or directory at once: no manifest, no Prefect, the same engine and report as `run`."""
    from flows.orchestration.progress_display import display_progress
    from tasks.run.early_end import safe_errors
    from tasks.run.engine import ingest

    keep_imports()
    with safe_errors():
        entry, scan = _what_to_upload(path)
        settings = load(**options.given(Settings))
        summary = ingest(
            [entry],
            settings,
            display_progress,
            scan,
            announce=lambda begins: say_what_begins(settings, begins),
        )
    if list_:
        list_files(settings.report_dir)
    say_summary(summary, settings.report_dir)
    return summary.exit_code


def run(manifest: Path, /, *, options: RunOptions = RunOptions()) -> int:
    """Upload the studies of a manifest as a Prefect flow, and write the reconciliation report.

    It runs against the Prefect server that PREFECT_API_URL or the profile names, or else an embedded one.

    Parameters
    ----------
    manifest
        CSV, JSON Lines or Parquet with one row per study directory: see `dicom-ingest manifest`.
    """
    return _run_flow("backfill", manifest, options)


def migrate(
    manifest: Path,
    /,
    *,
    options: MigrateOptions = MigrateOptions(),
) -> int:
    """Upload the studies of a manifest by many workers of a Prefect work pool, and merge one report.

    Needs a Prefect server (PREFECT_API_URL), the deployment migrate-shard/worker on a work pool with workers,
    the manifest and the studies under the same paths everywhere, and --ledger postgresql://HOST/DB.

    Parameters
    ----------
    manifest
        CSV, JSON Lines or Parquet with one row per study directory: see `dicom-ingest manifest`.
    """

    cut = load_as(MigrationSettings, **options.given(MigrationSettings))
    return _run_flow("migrate", manifest, options, _require_workers, shards=cut.shards, balance=cut.balance)


def manifest(
    *roots: Path,
    options: ManifestOptions = ManifestOptions(),
) -> int:
    """Write a manifest of an existing archive: one row per study directory found.

    Parameters
    ----------
    roots
        The directories to look in; every regular file below them is covered by exactly one row.
    """
    from flows.cli.manifest_progress import scan_sentences, show_counts
    from tasks.core.errors import InterruptedRunError, UsageError
    from tasks.run.early_end import safe_errors
    from tasks.source.archives import Archives
    from tasks.source.manifest_writer import scan_manifest, write_manifest

    if not roots:
        raise UsageError(
            "Name at least one directory to look in: dicom-ingest manifest ROOT... -o manifest.csv"
        )
    settings = load_as(ManifestSettings, **options.given(ManifestSettings))
    accepts = load_as(AcceptSettings, **options.given(AcceptSettings))
    archives = Archives() if accepts.archives else None
    share_memory_between_threads()
    try:
        with safe_errors():
            scan = partial(scan_manifest, accepted=accepts.accepted, archives=archives)
            write = scan if settings.scan else write_manifest
            counts = write(roots, settings.output, show_counts, _begun_report_dir())
    except KeyboardInterrupt:
        raise InterruptedRunError(_NO_MANIFEST) from None
    say(f"{counted(counts.study_dirs, 'study directory')} found, and written to {settings.output}")
    for sentence in scan_sentences(counts) if settings.scan else ():
        say(sentence)
    return 0


def _begun_report_dir() -> Path | None:
    """Where a run would write its report, and one has: it leaves that out of what it sends."""
    from tasks.report.directory import AUDIT_JSONL

    report_dir = load_as(ReportDirectorySettings).report_dir
    return report_dir if (report_dir / AUDIT_JSONL).is_file() else None


def serve(*, options: ServeOptions = ServeOptions()) -> int:
    """Start a Prefect server with its UI and the deployments, ready to click "Run", until Ctrl-C.

    With PREFECT_API_URL set it starts no server, and serves the deployments at that one.
    """
    from flows.cli.serve import serve

    serve(load_as(ServeSettings, **options.given(ServeSettings)).port)
    return 0


def _run_flow(
    name: Literal["backfill", "migrate"],
    manifest: Path,
    options: RunOptions | MigrateOptions,
    require: "Callable[[Settings], None]" = lambda _settings: None,
    **parameters: Any,
) -> int:
    """Runs a flow over a manifest in this process: what the command ends with."""
    from flows.cli.local_flow import run_flow
    from flows.orchestration.parameters import Options
    from tasks.core.store_urls import as_url
    from tasks.run.early_end import safe_errors
    from tasks.run.preflight import read_manifest

    with safe_errors():  # what can be known to be wrong is said before Prefect takes seconds to start
        settings = load(**options.given(Settings))
        require(settings)
        entries = read_manifest(manifest, settings)
        checked = _check(settings, manifest, entries)
    keep_imports()
    with checked:
        summary = run_flow(
            name,
            manifest=as_url(str(manifest)) or str(manifest.absolute()),
            api_endpoint=settings.api_endpoint,
            report_dir=str(settings.report_dir.absolute()),
            options=Options(**options.given(RunSettings)),
            **parameters,
        )
    say_summary(summary, settings.report_dir)
    return summary.exit_code


def _require_workers(settings: Settings) -> None:
    """UsageError unless other machines can be reached: through a database, and a Prefect server."""
    from flows.cli.local_flow import has_server
    from tasks.core.errors import UsageError
    from tasks.run.shards import require_shared

    require_shared(settings)
    if not has_server():
        raise UsageError(
            "migrate needs the Prefect server that the workers have: set PREFECT_API_URL. Nothing was sent."
        )


def _what_to_upload(path: Path) -> "tuple[StudyEntry, Callable[[StudyEntry, Ownership], Iterator[Any]]]":
    """A directory as a study entry; a file as one in its directory, of which it is all."""
    from tasks.core.errors import UsageError
    from tasks.core.models import StudyEntry
    from tasks.core.store_urls import as_url
    from tasks.source.scan import just_file, walk_study
    from tasks.source.stores import require_stores

    if path.is_dir():
        return StudyEntry(1, str(path.absolute())), walk_study
    if url := as_url(str(path)):
        require_stores(True)
        return StudyEntry(1, url.rstrip("/")), walk_study
    if path.exists():
        return StudyEntry(1, str(path.absolute().parent)), just_file(path.absolute())
    raise UsageError("--path: there is no such file or directory. Nothing was sent.")


def _check(
    settings: Settings, manifest: Path, entries: "Sequence[StudyEntry]"
) -> "AbstractContextManager[None]":
    """Finds what is wrong before Prefect takes seconds to start; what the flow is to run within."""
    from flows.cli.local_flow import require_server
    from tasks.ledger.earlier_runs import begins
    from tasks.run.preflight import check, pass_on

    require_server()  # a key that is handed out needs a run that accounts for it
    anew = begins(settings.ledger_at, settings.campaign)
    answer = check(settings)
    say_what_begins(settings, anew)
    return pass_on(answer, manifest, entries)
