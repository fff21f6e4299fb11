"""A folder of manifests: each that is not finished is a flow run of its own, all with one ledger."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.orchestration.events import emit_stopped
from flows.orchestration.lifecycle import TO_BE_CONTINUED, failed, one_sentence
from flows.orchestration.parameters import Options
from flows.orchestration.run_control import requested_end
from flows.orchestration.run_names import run_name
from tasks.core.errors import (
    IngestError,
    ManifestError,
    ManifestFileError,
    NotAllStoredError,
    StoppedError,
    UsageError,
)
from tasks.core.words import counted
from tasks.ledger.liveness import awake_or_asleep
from tasks.report.finished import is_finished
from tasks.run.preflight import target_of
from tasks.settings import Settings


def run_each(
    backfill: Flow[..., State[Any]],
    manifests: list[Path],
    settings: Settings,
    *,
    options: Options,
    **target: Any,
) -> State[Any]:
    """Runs `backfill` for each manifest that is not finished. One that is wrong keeps no other back."""
    options = options.model_copy(update={"ledger": str(settings.ledger_at)})
    left = _Left(settings)
    of_campaign = settings.ledger_at, settings.campaign, target_of(settings), settings.root
    counts = dict.fromkeys(("done", "finished before", "incomplete", "wrong", TO_BE_CONTINUED), 0)
    for number, manifest in enumerate(manifests, 1):
        report_dir = settings.report_dir / manifest.name
        if is_finished(manifest, report_dir, *of_campaign):
            counts["finished before"] += 1
            continue
        if left.is_nothing:
            counts[TO_BE_CONTINUED] += 1
            break
        numbered = backfill.with_options(flow_run_name=partial(run_name, number, len(manifests)))
        state: State[Any] = numbered(
            str(manifest),
            report_dir=str(report_dir),
            options=options.model_copy(update=left.options()),
            return_state=True,
            **target,
        )
        result = state.result(raise_on_failure=False)
        kind = _kind_of(result)
        if kind is None:  # what stopped this one would stop the others
            why = (
                f"Manifest {number} of {len(manifests)} stopped early: see its flow run, then run this again."
            )
            return _requested_or_raise(result, NotAllStoredError(why, counts), settings.campaign)
        if kind == "wrong":
            get_run_logger().error("Manifest %d of %d: %s", number, len(manifests), one_sentence(result))
        counts[kind] += 1
        if kind == TO_BE_CONTINUED:  # so would be those that follow
            break
        left.deduct(result)
    return _state_of_all(len(manifests), counts)


class _Left:
    """What is left of the bounds of a folder's run, for its next manifest."""

    def __init__(self, settings: Settings) -> None:
        self._files = settings.max_files
        most_s = settings.max_duration_s
        self._ends_at = None if most_s is None else awake_or_asleep() + most_s

    @property
    def is_nothing(self) -> bool:
        """Whether another manifest would send nothing."""
        return self._files == 0 or self._seconds == 0

    def options(self) -> dict[str, Any]:
        """The bounds of the next manifest's run."""
        files = {} if self._files is None else {"max_files": self._files}
        return files | ({} if self._seconds is None else {"max_duration": str(self._seconds)})

    def deduct(self, result: object) -> None:
        """What a manifest's run has begun."""
        counts = result.counts if isinstance(result, NotAllStoredError) else result
        if self._files is not None and isinstance(counts, Mapping):
            self._files = max(0, self._files - int(counts.get("begun", 0)))

    @property
    def _seconds(self) -> int | None:
        return None if self._ends_at is None else max(0, int(self._ends_at - awake_or_asleep()))


def _state_of_all(manifests: int, counts: dict[str, int]) -> State[Any]:
    outcomes = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    message = f"{counted(manifests, 'manifest')}: {outcomes or 'nothing to do'}"
    if counts[TO_BE_CONTINUED]:
        message = f"{TO_BE_CONTINUED}: {message}"
    if counts["incomplete"] or counts["wrong"]:
        return failed(NotAllStoredError(message, counts))
    return Completed(message=message, data=counts)


def _kind_of(result: object) -> str | None:
    """How a manifest's run ended, as it is counted; None when it was stopped.

    | result                                           | counted as      |
    | ------------------------------------------------ | --------------- |
    | counts                                           | done            |
    | counts, and the bound that was reached           | to be continued |
    | not all is stored, exit code 1                   | incomplete      |
    | the manifest can't be read, or is refused        | wrong           |
    | any other error, of the settings or the platform |                 |
    """
    if isinstance(result, NotAllStoredError):
        return "incomplete" if result.counts["exit_code"] == NotAllStoredError.exit_code else None
    if isinstance(result, ManifestError | ManifestFileError):
        return "wrong"
    if not isinstance(result, dict):
        return None
    return TO_BE_CONTINUED if "ended_by" in result else "done"


def _requested_or_raise(result: object, error: NotAllStoredError, campaign: str) -> State[Any]:
    """The end that a person asked for, or else what stopped the manifest's run."""
    if requested := requested_end(error):
        return requested
    if not isinstance(result, UsageError):  # as of a run of one manifest
        emit_stopped("backfill", campaign, dict(error.counts))
    if isinstance(result, IngestError) and not isinstance(result, NotAllStoredError):
        raise result
    raise StoppedError(str(error))
