"""How a flow run begins, what surrounds it while it lasts, and which state it ends in."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from flows.orchestration.artifacts import publish_progress, publish_summary
from flows.orchestration.blocks import settings_of
from flows.orchestration.events import emit_end, emit_stopped
from flows.orchestration.incomplete import not_complete
from flows.orchestration.output_settings import saying_as_set
from flows.orchestration.parameters import Options
from flows.orchestration.progress_display import display_progress
from flows.orchestration.run_control import obey_requests, requested_end
from tasks.core.errors import (
    CredentialsRefusedError,
    IngestError,
    InterruptedRunError,
    ManifestError,
    NotAllStoredError,
)
from tasks.core.models import EXIT_ONE, Status, Summary
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.known_settings import unknown_variables
from tasks.process_memory import forbid_memory_dumps
from tasks.run.early_end import safe_errors
from tasks.run.engine import Engine
from tasks.run.shards import Migration
from tasks.run.worker_bounds import load_bounded
from tasks.settings import Settings, load

TO_BE_CONTINUED: Final = "to be continued"
_Run = TypeVar("_Run", Engine, Migration)


def settings_for(api_endpoint: str, report_dir: str, api: str, options: Options) -> Settings:
    """A flow's parameters, and for what they leave open the block, then the worker's settings.

    In a deployment's run the worker's environment bounds the others; what a person types in a shell is bound
    by nothing.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker has started this process, for this run alone
        forbid_memory_dumps()
    for sentence in options.without_effect():
        get_run_logger().warning(sentence)
    block = settings_of(api) if api else {}
    parameters = (
        ({"report_dir": report_dir} if report_dir else {})
        | ({"api_endpoint": api_endpoint} if api_endpoint else {})
        | options.model_dump(exclude_unset=True)
    )
    if not (deployment.id or flow_run.parent_deployment_id):  # as a manifest's run has of its folder's
        return load(**block | parameters)
    for sentence in unknown_variables(os.environ) if deployment.id else ():  # else a command has said them
        get_run_logger().warning(sentence)
    return load_bounded(block, parameters)


def begin(flow: str, settings: Settings, make: Callable[[], _Run]) -> _Run:
    """Makes a run; when its ledger or campaign is new, its log begins with that.

    Credentials that are refused are an event: a schedule would find them refused again.
    """
    try:
        run = make()
    except CredentialsRefusedError as error:
        emit_stopped(flow, settings.campaign, {"exit_code": error.exit_code})
        raise
    if sentence := run.begins.sentence(settings.campaign):
        get_run_logger().info(sentence)
    return run


@contextmanager
def show_progress(flow: str, progress: Progress) -> Iterator[None]:
    """Shows it on standard error and in Prefect's UI, until the block ends."""
    with display_progress(progress), publish_progress(flow, progress):
        yield


class Work(Protocol):
    """A run in this process."""

    progress: Progress

    def stop(self, why: IngestError) -> None:
        """Begins nothing any more."""
        ...

    def close(self) -> None:
        """Lets everything go."""
        ...


@contextmanager
def under_way(flow: str, engine: Work) -> Iterator[threading.Event]:
    """Around a run until its report is written: shows how far it is, and does what a person asks of it.

    The event is set while batches may begin. The engine is closed in the end.
    """
    with (
        closing(engine),
        show_progress(flow, engine.progress),
        obey_requests(engine.stop) as may_begin,
    ):
        yield may_begin


def publish_end(flow: str, summary: Summary, report_dir: Path, begun: int = 0) -> State[dict[str, Any]]:
    """Publishes a run's end; the flow's final state. Raises Pause when it was suspended.

    A bound that the operator set is no failure: such a run is Completed, to be continued. `begun`: how many
    files the run has begun to send.
    """
    publish_summary(flow, summary, report_dir)
    emit_end(flow, summary, report_dir)
    counts = {"run_id": summary.run_id, "exit_code": summary.exit_code, "by_status": summary.by_status}
    counts |= {"begun": begun}
    if summary.exit_code == 0:
        return Completed(message=_what_is_stored(summary), data=counts)
    if summary.ended_by:
        left = summary.by_status.get(Status.NOT_ATTEMPTED, 0)
        message = f"{TO_BE_CONTINUED}: {_what_is_stored(summary)}, {left:,} not attempted"
        return Completed(message=message, data=counts | {"ended_by": summary.ended_by})
    incomplete = not_complete(summary, report_dir, most=0).incomplete
    error = NotAllStoredError(_why_failed(summary, incomplete), counts)
    requested = requested_end(error) if summary.exit_code == InterruptedRunError.exit_code else None
    return requested or failed(error)


def final_state(run: Callable[[], State[dict[str, Any]]]) -> State[dict[str, Any]]:
    """The state that the run ends with; Failed, with one sentence, where it can't go on.

    An error of ours says what there is to say: Prefect logs no traceback of it.
    """
    for name in ("prefect.flow_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_is_news)
    try:
        with safe_errors(), saying_as_set(os.environ):
            return run()
    except IngestError as error:
        return failed(error)


def failed(error: IngestError) -> State[Any]:
    """The state of a run that this error ends."""
    return Failed(message=one_sentence(error), data=error)


def one_sentence(error: object) -> str:
    """What the UI shows of an error; a command line has room for every fault of a manifest."""
    return error.summary if isinstance(error, ManifestError) else str(error)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], IngestError))


def _what_is_stored(summary: Summary) -> str:
    stored, known = (summary.by_status.get(status, 0) for status in ("uploaded", "already_uploaded"))
    accepted = f", {summary.accepted:,} accepted" if summary.accepted else ""
    return f"{counted(summary.files, 'file')}, {stored:,} stored, {known:,} already there{accepted}"


def _why_failed(summary: Summary, incomplete: int) -> str:
    bad = sum(count for status, count in summary.by_status.items() if status in EXIT_ONE) - summary.accepted
    early = "" if summary.exit_code == 1 else f"stopped early (exit code {summary.exit_code}): "
    return (
        f"{early}{bad:,} of {counted(summary.files, 'file')}, "
        f"{counted(incomplete, 'study')} incomplete, see report"
    )
