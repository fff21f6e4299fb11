"""backfill: from a manifest, or a folder of them, to reconciliation reports, as a Prefect flow.

Prefect carries batches, never single files. A task knows its batch by a number; which files that is, and
which of them are left to do, the ledger says. Nothing that names a patient, and no secret, is a parameter, a
result, a state's message or a log line.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture
from prefect.logging import get_run_logger
from prefect.runtime import deployment
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.artifacts import publish_summary, published
from flows.orchestration.blocks import settings_of
from flows.orchestration.events import emit_end, emit_stopped
from flows.orchestration.incomplete import not_complete
from flows.orchestration.parameters import (
    ApiBlock,
    ApiEndpoint,
    ManifestPath,
    Options,
    ReportDirectory,
    RunOptions,
)
from flows.orchestration.progress_display import display_progress
from flows.orchestration.run_control import asked_end, heeded
from flows.orchestration.run_names import prefix_label, run_name
from flows.shards.slot_lease import Awaited, Holder, free_slots, is_standing_server
from tasks.core.errors import (
    CredentialsRefusedError,
    IngestError,
    InterruptedRunError,
    ManifestError,
    NotAllStoredError,
    StoppedError,
    UsageError,
)
from tasks.core.models import EXIT_ONE, Summary
from tasks.core.words import counted
from tasks.report.finished import is_finished
from tasks.run.engine import BATCHES_IN_FLIGHT, LOOK_UP_S, Engine, ended_by, safe_errors
from tasks.settings import Settings, load, unknown_variables
from tasks.source.manifest_folder import manifests_at
from tasks.source.manifest_reader import load_manifest

if TYPE_CHECKING:
    from tasks.run.shards import Migration

_DEFAULTS: Final = Options()
_INTERRUPTED: Final = "Interrupted"  # of a batch whose run a person ended
_Begun = TypeVar("_Begun", "Engine", "Migration")


@flow(
    name="backfill",
    flow_run_name=run_name,
    description="Uploads the studies of a manifest and writes the reconciliation report.",
    task_runner=ThreadPoolTaskRunner(max_workers=BATCHES_IN_FLIGHT),  # type: ignore[arg-type]
    persist_result=False,
)
def backfill(
    manifest: ManifestPath,
    api_endpoint: ApiEndpoint = "",
    report_dir: ReportDirectory = "",
    api: ApiBlock = "",
    options: RunOptions = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Uploads the studies of a manifest and writes the reconciliation report.

    Args:
        manifest: Path of the manifest: CSV, JSON Lines or Parquet, one row per study directory. A folder, or
            a pattern such as /manifests/*.csv: each that is not finished, into a report directory of its own.
        api_endpoint: The upload API; empty: the setting DICOM_INGEST_API_ENDPOINT of the worker.
        api: Name of a block dicom-upload-api: endpoint and credentials; empty: the worker's settings.
        report_dir: Where the report is written; empty: the setting DICOM_INGEST_REPORT_DIR, or ./report.
        options: How the run behaves. Empty: the settings of the worker, or the default.
    """

    def run() -> State[dict[str, Any]]:
        settings = settings_for(api_endpoint, report_dir, api, options)
        if (manifests := manifests_at(manifest)) is not None:
            return _each(manifests, settings, api_endpoint=api_endpoint, api=api, options=options)
        entries = load_manifest(Path(manifest), Path(settings.root) if settings.root else None)
        prefix_label(entries, settings.campaign)
        engine = begun("backfill", settings, lambda: Engine(entries, settings))
        get_run_logger().info("%s in the manifest", counted(len(entries), "study entry"))
        return carried_out("backfill", engine, lambda: _slots_of(engine))

    return final_state(run)


def final_state(run: Callable[[], State[dict[str, Any]]]) -> State[dict[str, Any]]:
    """The state that the run ends with; Failed, with one sentence, where it can't go on.

    An error of ours says what there is to say: Prefect logs no traceback of it.
    """
    for name in ("prefect.flow_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_is_news)
    try:
        with safe_errors():
            return run()
    except IngestError as error:
        return _failed(error)


def settings_for(api_endpoint: str, report_dir: str, api: str, options: Options) -> Settings:
    """A flow's parameters, and for what they leave open the block, then the worker's settings."""
    for sentence in unknown_variables(os.environ) if deployment.id else ():  # else a command has said them
        get_run_logger().warning(sentence)
    return load(
        **(settings_of(api) if api else {})
        | ({"report_dir": report_dir} if report_dir else {})
        | ({"api_endpoint": api_endpoint} if api_endpoint else {})
        | options.model_dump(exclude_unset=True)
    )


def begun(name: str, settings: Settings, begin: Callable[[], _Begun]) -> _Begun:
    """A run that may begin; that it makes a ledger anew is the first line of its log.

    Credentials that are refused are an event: a schedule would find them refused again.
    """
    try:
        run = begin()
    except CredentialsRefusedError as error:
        emit_stopped(name, settings.campaign, {"exit_code": error.exit_code})
        raise
    if sentence := run.begins.sentence(settings.campaign):
        get_run_logger().info(sentence)
    return run


def carried_out(
    name: str, engine: Engine, taking: Callable[[], AbstractContextManager[object]] = nullcontext
) -> State[dict[str, Any]]:
    """A whole run under Prefect, `taking` what it needs until no PUT is under way; how it ended."""

    def work() -> None:
        with taking():
            why = ended_by(engine, lambda: _upload_all(engine, may_begin))
            engine.drain()
        if why:
            raise why

    with (
        display_progress(engine.progress),
        published(name, engine.progress),
        heeded(engine.stop) as may_begin,
    ):
        summary = engine.finish(ended_by(engine, work))
    return ended(name, summary, engine.settings.report_dir)


@contextmanager
def _slots_of(engine: Engine) -> Iterator[None]:
    """At a standing Prefect server: as many upload slots as are free there, which is what the run uses."""
    if not is_standing_server():
        yield
        return
    wanted = engine.settings.parallel
    with free_slots(engine.settings.api_endpoint, wanted, holder_of(engine)) as slots:
        engine.limit_parallel(slots)
        if slots < wanted:
            get_run_logger().warning(
                "%d upload slots of %d that were asked for: other runs have the others", slots, wanted
            )
        yield


def holder_of(engine: Engine) -> Holder:
    """The run as a holder of slots: in its progress and its log it says what it waits for."""
    log = get_run_logger()

    def waits_for(awaited: Awaited | None) -> None:
        engine.progress.waiting_for = awaited.what if awaited else ""
        if awaited:
            log.warning("%s", awaited)

    return Holder(engine.raise_if_stopped, engine.stop, waits_for)


def ended(name: str, summary: Summary, report_dir: Path) -> State[dict[str, Any]]:
    """Tells Prefect of a run's end; the flow's final state. Raises Pause when it was suspended."""
    publish_summary(name, summary, report_dir)
    emit_end(name, summary, report_dir)
    return _final_state(summary, not_complete(summary, report_dir, most=0).incomplete)


def _each(manifests: list[Path], settings: Settings, *, options: Options, **where: str) -> State[Any]:
    """A flow run for each that is not finished. One ledger for all; a wrong one keeps no other back."""
    options = options.model_copy(update={"ledger": str(settings.ledger_at)})
    counts = dict.fromkeys(("done", "finished before", "incomplete", "wrong"), 0)
    for number, manifest in enumerate(manifests, 1):
        report_dir = settings.report_dir / manifest.name
        if is_finished(manifest, report_dir):
            counts["finished before"] += 1
            continue
        numbered = backfill.with_options(flow_run_name=partial(run_name, number, len(manifests)))
        state: State[Any] = numbered(
            str(manifest), report_dir=str(report_dir), options=options, return_state=True, **where
        )
        result = state.result(raise_on_failure=False)
        kind = _kind_of(result, manifest, settings)
        if kind is None:  # what stopped this one would stop the others
            why = (
                f"Manifest {number} of {len(manifests)} stopped early: see its flow run, then run this again."
            )
            return _asked_or_raise(result, NotAllStoredError(why, counts), settings.campaign)
        if kind == "wrong":
            get_run_logger().error("Manifest %d of %d: %s", number, len(manifests), one_sentence(result))
        counts[kind] += 1
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    message = f"{counted(len(manifests), 'manifest')}: {told or 'nothing to do'}"
    if counts["incomplete"] or counts["wrong"]:
        return _failed(NotAllStoredError(message, counts))
    return Completed(message=message, data=counts)


def _kind_of(result: object, manifest: Path, settings: Settings) -> str | None:
    """How a manifest's run ended, as `_each` counts it; None when it was stopped."""
    if isinstance(result, NotAllStoredError):
        return "incomplete" if result.counts["exit_code"] == NotAllStoredError.exit_code else None
    if isinstance(result, UsageError):  # of this manifest, or of the settings of all
        return "wrong" if _is_wrong(manifest, settings) else None
    return "done" if isinstance(result, dict) else None


def _is_wrong(manifest: Path, settings: Settings) -> bool:
    try:
        load_manifest(manifest, Path(settings.root) if settings.root else None)
    except UsageError:
        return True
    return False


def _asked_or_raise(result: object, error: NotAllStoredError, campaign: str) -> State[Any]:
    """The end that a person asked for, or else what stopped the manifest's run."""
    if asked := asked_end(error):
        return asked
    if not isinstance(result, UsageError):  # as of a run of one manifest
        emit_stopped("backfill", campaign, dict(error.counts))
    if isinstance(result, IngestError) and not isinstance(result, NotAllStoredError):
        raise result
    raise StoppedError(str(error))


@task(
    name="upload-batch",
    task_run_name="batch {batch_no}",
    persist_result=False,
    cache_policy=NO_CACHE,  # a batch that ran is not a batch whose files are stored: the ledger decides
)
def upload_batch(batch_no: int, engine: Engine) -> State[None] | None:
    """Sends what is left of one batch. That a person ends the run is no failure of it."""
    try:
        with safe_errors():
            engine.upload(batch_no)
    except InterruptedRunError:
        return Completed(name=_INTERRUPTED, message="The run was ended. The next one sends what is left.")
    return None


def _upload_all(engine: Engine, may_begin: threading.Event) -> None:
    """One window of batches after another; the next is mapped while the last is under way."""
    earlier: list[PrefectConcurrentFuture[Any]] = []
    for window in _windows(engine.batches(), BATCHES_IN_FLIGHT):
        while not may_begin.wait(LOOK_UP_S):
            engine.raise_if_stopped()
        current = upload_batch.map(window, unmapped(engine))
        _await(earlier, engine)
        earlier = cast("list[PrefectConcurrentFuture[Any]]", current)  # of a ThreadPoolTaskRunner
    _await(earlier, engine)


def _await(futures: list[PrefectConcurrentFuture[Any]], engine: Engine) -> None:
    """Raises what a task raised, and why the run was ended when a batch was."""
    for future in futures:
        while not future.wrapped_future.done():
            future.wait(LOOK_UP_S)
        future.result()
        if future.state.name == _INTERRUPTED:
            engine.raise_if_stopped()


def _windows(batch_nos: Iterator[int], size: int) -> Iterator[list[int]]:
    while window := list(islice(batch_nos, size)):
        yield window


def _final_state(summary: Summary, incomplete: int) -> State[dict[str, Any]]:
    """Counts, for whoever looks at Prefect; which file it was, the report says."""
    by_status = summary.by_status
    counts = {"run_id": summary.run_id, "exit_code": summary.exit_code, "by_status": by_status}
    if summary.exit_code == 0:
        stored, known = by_status.get("uploaded", 0), by_status.get("already_uploaded", 0)
        told = f"{counted(summary.files, 'file')}, {stored:,} stored, {known:,} already there"
        return Completed(message=told, data=counts)
    error = NotAllStoredError(_why_failed(summary, incomplete), counts)
    asked = asked_end(error) if summary.exit_code == InterruptedRunError.exit_code else None
    return asked or _failed(error)


def _failed(error: IngestError) -> State[Any]:
    return Failed(message=one_sentence(error), data=error)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], IngestError))


def one_sentence(error: object) -> str:
    """What the UI shows of an error; a command line has room for every fault of a manifest."""
    return error.summary if isinstance(error, ManifestError) else str(error)


def _why_failed(summary: Summary, incomplete: int) -> str:
    bad = sum(count for status, count in summary.by_status.items() if status in EXIT_ONE)
    ended = "" if summary.exit_code == 1 else f"stopped early (exit code {summary.exit_code}): "
    return (
        f"{ended}{bad:,} of {counted(summary.files, 'file')}, "
        f"{counted(incomplete, 'study')} incomplete, see report"
    )
