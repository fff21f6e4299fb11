"""What a person asks of a run in Prefect's UI while it runs.

    Suspend   it ends in order, with its report; Resume starts it again, and the ledger knows what is left.
              So does Pause in the UI, with a time: when that is over, Prefect fails the run
    Pause     by the API: no further batch begins until it is resumed
    Cancel    whoever runs it sends SIGTERM; where nobody does (`dicom-ingest run`), it ends by itself

A run that is part of another (a manifest of a folder, a shard) ends with that one, too. A server that does
not answer changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.orchestration.api_client import Connect, connect
from flows.orchestration.background import running_beside
from tasks.core.errors import IngestError, InterruptedRunError, NotAllStoredError

log = logging.getLogger("dicom_ingest")

_CANCELLED: Final = frozenset({StateType.CANCELLING, StateType.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlEdges:
    """Prefect's server, the clock, and how long each wait lasts, in seconds."""

    connect: Connect = connect
    clock: Callable[[], float] = time.monotonic
    look_s: float = 10.0  # a request or two: hundreds in an hour, whatever the files
    terminated_within_s: float = 30.0  # by whoever runs a cancelled flow: Prefect's runners look every 10 s


_EDGES: Final = ControlEdges()


@contextmanager
def obey_requests(
    stop: Callable[[IngestError], None], edges: ControlEdges = _EDGES
) -> Iterator[threading.Event]:
    """Until the block ends: calls `stop` when the run is to end. The event is set while batches may begin."""
    control = _Control(stop, edges)
    with running_beside(control.look_until_ended, "run-control", ends_within_s=edges.look_s):
        yield control.may_begin


def requested_end(error: NotAllStoredError) -> State[Any] | None:
    """The final state of a run that a person cancelled, or None. Raises Pause when it was suspended."""
    for state in _states(_EDGES):
        if _is_suspended(state):
            raise Pause(state=state)
        if state.type in _CANCELLED:
            return Cancelled(message=str(error), data=error)
    return None


class _Control:
    """Looks at the run's own state, and does what it says."""

    def __init__(self, stop: Callable[[IngestError], None], edges: ControlEdges) -> None:
        self.may_begin = threading.Event()
        self.may_begin.set()
        self._stop = stop
        self._edges = edges
        self._cancelled_at: float | None = None

    def look_until_ended(self, ended: threading.Event) -> None:
        while not ended.wait(self._edges.look_s):
            states = _states(self._edges)
            if why := self._reason_to_end(states):
                self.may_begin.set()  # what waits there finds out that the run has stopped
                self._stop(why)
                return
            if any(state.is_paused() for state in states):
                self.may_begin.clear()
            elif states:
                self.may_begin.set()

    def _reason_to_end(self, states: list[State[Any]]) -> IngestError | None:
        if any(_is_suspended(state) for state in states):
            return InterruptedRunError("Suspended in Prefect: resume it there, and it goes on from here.")
        if any(state.is_failed() for state in states):
            return InterruptedRunError(
                "Failed in Prefect while it was at work, as it is when the time of a pause is over. "
                "Retry it there, and it goes on from here."
            )
        if not any(state.type in _CANCELLED for state in states):
            return None
        self._cancelled_at = self._cancelled_at or self._edges.clock()
        if self._edges.clock() - self._cancelled_at < self._edges.terminated_within_s:
            return None
        return InterruptedRunError("Cancelled in Prefect. The same parameters go on from here.")


def _is_suspended(state: State[Any]) -> bool:
    """Paused without a process: resuming starts one."""
    return state.is_paused() and bool(state.state_details.pause_reschedule)


def _states(edges: ControlEdges) -> list[State[Any]]:
    """Of this flow run and of the one that it is a part of; none when the server does not say."""
    try:
        run_ids = (flow_run.id, flow_run.parent_flow_run_id)
        with edges.connect() as client:
            runs = [client.read_flow_run(run_id) for run_id in run_ids if run_id]
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect's server did not say the run's state (%s)", type(error).__name__)
        return []
    return [run.state for run in runs if run.state]
