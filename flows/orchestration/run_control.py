"""What a person does to a run in Prefect's UI, heeded while it runs.

    Suspend   it ends in order, with its report; Resume starts it again, and the ledger knows what is left.
              So does Pause in the UI, with a time: when that is over, Prefect fails the run
    Pause     by the API: no further batch begins until it is resumed
    Cancel    whoever runs it sends SIGTERM; where nobody does (`dicom-ingest run`), it ends by itself

A run that is part of another (a manifest of a folder, a shard) heeds that one, too. A server that does not
answer changes nothing.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled

from tasks.core.errors import IngestError, InterruptedRunError, NotAllStoredError

log = logging.getLogger("dicom_ingest")

_LOOK_S: Final = 10.0  # a request or two: hundreds in an hour, whatever the files
_TERMINATED_WITHIN_S: Final = 30.0  # by whoever runs a cancelled flow: Prefect's runners look every 10 s
_CANCELLED: Final = frozenset({StateType.CANCELLING, StateType.CANCELLED})


@contextmanager
def heeded(stop: Callable[[IngestError], None], look_s: float = _LOOK_S) -> Iterator[threading.Event]:
    """Until the block ends: calls `stop` when the run is to end. The event is set while batches may begin."""
    heed = _Heed(stop, look_s)
    context = contextvars.copy_context()  # of the flow run, which it looks at
    thread = threading.Thread(target=context.run, args=(heed.look_until_ended,), name="heed", daemon=True)
    thread.start()
    try:
        yield heed.may_begin
    finally:
        heed.ended.set()
        thread.join(look_s)


def asked_end(error: NotAllStoredError) -> State[Any] | None:
    """The final state of a run that a person cancelled, or None. Raises Pause when it was suspended."""
    for state in _states():
        if _is_suspended(state):
            raise Pause(state=state)
        if state.type in _CANCELLED:
            return Cancelled(message=str(error), data=error)
    return None


class _Heed:
    """One run's eye on its own state."""

    def __init__(self, stop: Callable[[IngestError], None], look_s: float) -> None:
        self.ended = threading.Event()
        self.may_begin = threading.Event()
        self.may_begin.set()
        self._stop = stop
        self._look_s = look_s
        self._cancelled_at: float | None = None

    def look_until_ended(self) -> None:
        while not self.ended.wait(self._look_s):
            states = _states()
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
        self._cancelled_at = self._cancelled_at or time.monotonic()
        if time.monotonic() - self._cancelled_at < _TERMINATED_WITHIN_S:
            return None
        return InterruptedRunError("Cancelled in Prefect. The same parameters go on from here.")


def _is_suspended(state: State[Any]) -> bool:
    """Paused without a process: resuming starts one."""
    return state.is_paused() and bool(state.state_details.pause_reschedule)


def _states() -> list[State[Any]]:
    """Of this flow run and of the one that it is a part of; none when the server does not say."""
    try:
        run_ids = (flow_run.id, flow_run.parent_flow_run_id)
        with get_client(sync_client=True) as client:
            runs = [client.read_flow_run(run_id) for run_id in run_ids if run_id]
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect's server did not tell the run's state (%s)", type(error).__name__)
        return []
    return [run.state for run in runs if run.state]
