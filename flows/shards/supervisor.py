"""The follower of a migration: each shard comes to its end, whatever happens to workers and Prefect's server.

Whether a shard lives, and how it ended, the ledger says; Prefect says what became of its flow run. A shard
that falls silent is marked Crashed, and one that crashed is started again, after a pause that grows.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Crashed

from tasks.core.errors import IngestError, InterruptedRunError, StoppedError
from tasks.ledger.runs import ShardStanding
from tasks.run.shards import Migration
from tasks.settings import MOST_PARALLEL

MOST_STARTS_IN_VAIN: Final = 5  # of one shard, that stored nothing; a person looks after it then
_LOOK_S: Final = 5.0
_RUNS_AT_ONCE: Final = 100  # of one request
_PENDING_S: Final = 1800.0  # an image may have to be pulled, a node to come up
_START_S: Final = 180.0  # from Running to the first sign of life in the ledger
_END_S: Final = 120.0  # from the last sign of life to the flow run's final state
_PAUSE_S, _LONGEST_PAUSE_S = 2.5, 300.0  # before a shard that crashed is started again; doubles
_NO_WORKER_S: Final = 60.0


@dataclass(slots=True)
class Part:
    """A shard as the follower sees it."""

    number: int
    flow_run_id: UUID | None = None
    starts: int = 0
    in_vain: int = 0  # starts since it last stored anything
    began: float = 0.0
    was_alive: bool = False  # since its last start
    state: str = ""
    since: float = 0.0  # that its state is what it is, or that it last gave a sign of life
    is_cancelled: bool = False
    is_done: bool = False
    was_told: bool = False


class Follower:
    """Sees to it that each shard comes to its end, whatever happens to workers."""

    def __init__(
        self,
        migration: Migration,
        start: Callable[[int, int], UUID],
        parts: list[Part],
        look_s: float = _LOOK_S,
    ) -> None:
        self._migration = migration
        self._start = start
        self._parts = parts
        self._look_s = look_s
        self._log = get_run_logger()
        self._away_since: float | None = None
        self._interrupted_by: IngestError | None = None
        self._interrupted = threading.Event()
        # With fewer slots than the platform has, nothing but their number bounds the shards at work.
        parallel = migration.settings.parallel
        self._at_once = parallel if parallel < MOST_PARALLEL else len(parts)

    def interrupt(self, why: IngestError) -> None:
        """`follow` raises this; from any thread."""
        self._interrupted_by = why
        self._interrupted.set()

    def follow(self) -> None:
        """Until every shard is done with. Raises IngestError when the migration has to stop."""
        while not self._interrupted_by:
            self._look()
            if not self._open():
                return
            self._interrupted.wait(self._look_s)
        raise self._interrupted_by

    def stop(self, why: IngestError) -> None:
        """Cancels what is under way, and waits until it has ended; a server that is away changes nothing."""
        self._log.warning("Stopping: %s", why)
        try:
            with get_client(sync_client=True) as client:
                for part in self._open():
                    if part.flow_run_id:
                        with suppress(ObjectNotFound):
                            client.set_flow_run_state(part.flow_run_id, Cancelling())
        except Exception as error:  # noqa: BLE001 - the report is due whatever happened
            self._log.warning("Shards could not be cancelled (%s): look after them", type(error).__name__)
            return
        until = time.monotonic() + 2 * self._migration.settings.dead_after
        with suppress(IngestError):
            while any(each.is_alive for each in self._migration.standings()) and time.monotonic() < until:
                time.sleep(1)

    def _open(self) -> list[Part]:
        return [part for part in self._parts if not part.is_done]

    def _look(self) -> None:
        """One look at every shard."""
        standings = self._migration.standings()
        try:
            with get_client(sync_client=True) as client:
                states = self._states(client)
                for part in self._open():
                    self._see_to(part, standings[part.number - 1], states, client)
            self._away_since = None
        except IngestError:
            raise
        except (ObjectNotFound, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code >= 500:
                self._wait_for_server(error)
                return
            raise StoppedError(
                "Prefect's server refuses to start shards: is their deployment there, of the same version? "
                "Deploy it, then run the same command again."
            ) from None
        except Exception as error:  # noqa: BLE001 - Prefect's server is away: the shards go on without
            self._wait_for_server(error)

    def _wait_for_server(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._log.warning("Prefect's server does not answer (%s); asked again", type(error).__name__)
        if time.monotonic() - self._away_since > self._migration.settings.max_outage:
            raise StoppedError(
                "Prefect's server was away for too long. Look after it, then run the same command again: "
                "what was stored is not sent twice."
            )

    def _states(self, client: SyncPrefectClient) -> dict[UUID, State[Any]]:
        """Of the shards' newest flow runs, in few requests; one that was deleted has none."""
        run_ids = [part.flow_run_id for part in self._open() if part.flow_run_id]
        states = {}
        for begin in range(0, len(run_ids), _RUNS_AT_ONCE):
            of_these = FlowRunFilterId(any_=run_ids[begin : begin + _RUNS_AT_ONCE])
            for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=of_these)):
                if run.state:
                    states[run.id] = run.state
        return states

    def _see_to(
        self,
        part: Part,
        standing: ShardStanding,
        states: Mapping[UUID, State[Any]],
        client: SyncPrefectClient,
    ) -> None:
        if standing.facts and standing.facts.stopped_exit_code != InterruptedRunError.exit_code:
            part.is_done = True
            if standing.facts.stopped_exit_code is not None:  # what stopped this one would stop the others
                raise StoppedError(
                    f"Shard {part.number} stopped early: see its flow run, then run this again."
                )
        elif part.flow_run_id:
            self._watch(part, standing, states.get(part.flow_run_id), client)
        elif sum(each.flow_run_id is not None for each in self._open()) < self._at_once:
            self._begin(part)

    def _watch(
        self, part: Part, standing: ShardStanding, state: State[Any] | None, client: SyncPrefectClient
    ) -> None:
        now = time.monotonic()
        part.was_alive |= standing.is_alive
        if state is None or state.is_final():
            self._begin_again(part, standing, state, now)
            return
        if state.type.value != part.state or standing.is_alive:
            part.state, part.since = state.type.value, now
        part.is_cancelled |= state.is_cancelling()
        if state.is_scheduled():
            self._tell_no_worker(part, now)
        elif not standing.is_alive and now - part.since > _may_be_silent_s(part, standing, state):
            self._log.warning("Shard %d gives no sign of life: its run has crashed", part.number)
            message = "No sign of life in the ledger: the worker was killed."
            with suppress(ObjectNotFound):
                client.set_flow_run_state(part.flow_run_id, Crashed(message=message), force=True)  # type: ignore[arg-type]

    def _begin(self, part: Part) -> None:
        part.flow_run_id = self._start(part.number, part.starts + 1)
        part.starts += 1
        part.in_vain += 1
        part.was_alive, part.was_told = False, False
        part.began = part.since = time.monotonic()

    def _begin_again(self, part: Part, standing: ShardStanding, state: State[Any] | None, now: float) -> None:
        if standing.is_alive:  # its process is still at its end, or was killed a moment ago
            return
        if standing.progress.get("files_stored"):
            part.in_vain = 0
        ended_as = state.name if state else "deleted"
        if part.is_cancelled or (state and state.is_cancelled()) or part.in_vain >= MOST_STARTS_IN_VAIN:
            self._log.warning("Shard %d is given up: %s", part.number, ended_as)
            part.is_done = True
        elif now - part.began >= min(_LONGEST_PAUSE_S, _PAUSE_S * 2**part.in_vain):
            self._log.warning("Shard %d ended as %s: started again", part.number, ended_as)
            self._begin(part)

    def _tell_no_worker(self, part: Part, now: float) -> None:
        if not part.was_told and now - part.since > _NO_WORKER_S:
            part.was_told = True
            self._log.warning(
                "Shard %d waits for a worker with a place for it, beside the one of this migration: "
                "prefect worker start --pool POOL",
                part.number,
            )


def _may_be_silent_s(part: Part, standing: ShardStanding, state: State[Any]) -> float:
    """How long a shard that gives no sign of life may be left alone."""
    if state.is_paused():  # by a person, who resumes it
        return math.inf
    if standing.facts or state.is_cancelling():  # it writes its report, and Prefect hears of it
        return _END_S
    if part.was_alive:
        return 0.0
    return _PENDING_S if state.is_pending() else _START_S
