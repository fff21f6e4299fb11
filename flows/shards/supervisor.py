"""The supervisor of a migration: each shard comes to its end, whatever happens to workers and Prefect.

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

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Crashed

from flows.orchestration.api_client import Connect, connect
from tasks.core.errors import IngestError, InterruptedRunError, StoppedError
from tasks.ledger.shard_runs import ShardStanding
from tasks.run.shards import Migration
from tasks.settings import MOST_PARALLEL

MOST_STARTS_IN_VAIN: Final = 5  # of one shard, that stored nothing; a person looks after it then
_RUNS_AT_ONCE: Final = 100  # of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorEdges:
    """Prefect's server, the clock, and how long each wait lasts, in seconds."""

    connect: Connect = connect
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    look_s: float = 5.0
    pending_s: float = 1800.0  # an image may have to be pulled, a node to come up
    start_s: float = 180.0  # from Running to the first sign of life in the ledger
    end_s: float = 120.0  # from the last sign of life to the flow run's final state
    pause_s: float = 2.5  # before a shard that crashed is started again; doubles
    longest_pause_s: float = 300.0
    no_worker_s: float = 60.0  # that a shard waits for a worker before a person reads of it


_EDGES: Final = SupervisorEdges()


@dataclass(slots=True)
class Shard:
    """A shard as the supervisor sees it."""

    number: int
    flow_run_id: UUID | None = None
    starts: int = 0
    in_vain: int = 0  # starts since it last stored anything
    began: float = 0.0
    was_alive: bool = False  # since its last start
    started_ns: int = 0  # of its last process before that, as the ledger has it
    state: str = ""
    since: float = 0.0  # that its state is what it is, or that it last gave a sign of life
    is_cancelled: bool = False
    is_done: bool = False
    has_warned: bool = False  # that no worker is there for it


class Supervisor:
    """Sees to it that each shard comes to its end, whatever happens to workers."""

    def __init__(
        self,
        migration: Migration,
        start: Callable[[int, int], UUID],
        shards: int,
        edges: SupervisorEdges = _EDGES,
    ) -> None:
        """`start` makes the flow run of a shard, by its number from 1 and how often it was started."""
        self._migration = migration
        self._start = start
        self._shards = [Shard(number) for number in range(1, shards + 1)]
        self._edges = edges
        self._log = get_run_logger()
        self._away_since: float | None = None
        self._interrupted_by: IngestError | None = None
        self._interrupted = threading.Event()
        # With fewer slots than the platform has, nothing but their number bounds the shards at work.
        parallel = migration.settings.parallel
        self._at_once = parallel if parallel < MOST_PARALLEL else shards

    def interrupt(self, why: IngestError) -> None:
        """`supervise` raises this; from any thread."""
        self._interrupted_by = why
        self._interrupted.set()

    def supervise(self) -> None:
        """Looks after the shards until each is done. Raises IngestError when the migration has to stop."""
        while not self._interrupted_by:
            self._look()
            if not self._unfinished():
                return
            self._interrupted.wait(self._edges.look_s)
        raise self._interrupted_by

    def stop(self, why: IngestError) -> None:
        """Cancels what is under way, and waits until it has ended; a server that is away changes nothing."""
        self._log.warning("Stopping: %s", why)
        try:
            with self._edges.connect() as client:
                for shard in self._unfinished():
                    if shard.flow_run_id:
                        with suppress(ObjectNotFound):
                            client.set_flow_run_state(shard.flow_run_id, Cancelling())
        except Exception as error:  # noqa: BLE001 - the report is due whatever happened
            self._log.warning("Shards could not be cancelled (%s): look after them", type(error).__name__)
            return
        until = self._edges.clock() + 2 * self._migration.settings.dead_after
        with suppress(IngestError):
            while any(each.is_alive for each in self._migration.standings()) and self._edges.clock() < until:
                self._edges.sleep(1)

    def _unfinished(self) -> list[Shard]:
        return [shard for shard in self._shards if not shard.is_done]

    def _look(self) -> None:
        """One look at every shard."""
        standings = self._migration.standings()
        try:
            with self._edges.connect() as client:
                states = self._states(client)
                for shard in self._unfinished():
                    self._advance(shard, standings[shard.number - 1], states, client)
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
            self._away_since = self._edges.clock()
            self._log.warning("Prefect's server does not answer (%s); asked again", type(error).__name__)
        if self._edges.clock() - self._away_since > self._migration.settings.max_outage:
            raise StoppedError(
                "Prefect's server was away for too long. Look after it, then run the same command again: "
                "what was stored is not sent twice."
            )

    def _states(self, client: SyncPrefectClient) -> dict[UUID, State[Any]]:
        """Of the shards' newest flow runs, in few requests; one that was deleted has none."""
        run_ids = [shard.flow_run_id for shard in self._unfinished() if shard.flow_run_id]
        states = {}
        for begin in range(0, len(run_ids), _RUNS_AT_ONCE):
            of_these = FlowRunFilterId(any_=run_ids[begin : begin + _RUNS_AT_ONCE])
            for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=of_these)):
                if run.state:
                    states[run.id] = run.state
        return states

    def _advance(
        self,
        shard: Shard,
        standing: ShardStanding,
        states: Mapping[UUID, State[Any]],
        client: SyncPrefectClient,
    ) -> None:
        if standing.facts and standing.facts.stopped_exit_code != InterruptedRunError.exit_code:
            shard.is_done = True
            if standing.facts.stopped_exit_code is not None:  # what stopped this one would stop the others
                raise StoppedError(
                    f"Shard {shard.number} stopped early: see its flow run, then run this again."
                )
        elif shard.flow_run_id:
            self._watch(shard, standing, states.get(shard.flow_run_id), client)
        elif sum(each.flow_run_id is not None for each in self._unfinished()) < self._at_once:
            self._begin(shard, standing)

    def _watch(
        self, shard: Shard, standing: ShardStanding, state: State[Any] | None, client: SyncPrefectClient
    ) -> None:
        now = self._edges.clock()
        # One that was killed on this host counts as dead at once, maybe before it was seen alive.
        shard.was_alive |= standing.is_alive or standing.started_ns != shard.started_ns
        if state is None or state.is_final():
            self._begin_again(shard, standing, state, now)
            return
        if state.type.value != shard.state or standing.is_alive:
            shard.state, shard.since = state.type.value, now
        shard.is_cancelled |= state.is_cancelling()
        if state.is_scheduled():
            self._warn_without_worker(shard, now)
        elif not standing.is_alive and now - shard.since > self._may_be_silent_s(shard, standing, state):
            self._log.warning("Shard %d gives no sign of life: its run has crashed", shard.number)
            message = "No sign of life in the ledger: the worker was killed."
            with suppress(ObjectNotFound):
                client.set_flow_run_state(shard.flow_run_id, Crashed(message=message), force=True)  # type: ignore[arg-type]

    def _begin(self, shard: Shard, standing: ShardStanding) -> None:
        shard.flow_run_id = self._start(shard.number, shard.starts + 1)
        shard.starts += 1
        shard.in_vain += 1
        shard.was_alive, shard.has_warned, shard.started_ns = False, False, standing.started_ns
        shard.began = shard.since = self._edges.clock()

    def _begin_again(
        self, shard: Shard, standing: ShardStanding, state: State[Any] | None, now: float
    ) -> None:
        if standing.is_alive:  # its process is still at its end, or was killed a moment ago
            return
        if standing.progress.get("files_stored"):
            shard.in_vain = 0
        ended_as = state.name if state else "deleted"
        if shard.is_cancelled or (state and state.is_cancelled()) or shard.in_vain >= MOST_STARTS_IN_VAIN:
            self._log.warning("Shard %d is given up: %s", shard.number, ended_as)
            shard.is_done = True
        elif now - shard.began >= min(self._edges.longest_pause_s, self._edges.pause_s * 2**shard.in_vain):
            self._log.warning("Shard %d ended as %s: started again", shard.number, ended_as)
            self._begin(shard, standing)

    def _warn_without_worker(self, shard: Shard, now: float) -> None:
        if not shard.has_warned and now - shard.since > self._edges.no_worker_s:
            shard.has_warned = True
            self._log.warning(
                "Shard %d waits for a worker with a place for it, beside the one of this migration: "
                "prefect worker start --pool POOL",
                shard.number,
            )

    def _may_be_silent_s(self, shard: Shard, standing: ShardStanding, state: State[Any]) -> float:
        """How long a shard that gives no sign of life may be left alone."""
        if state.is_paused():  # by a person, who resumes it
            return math.inf
        if standing.facts or state.is_cancelling():  # it writes its report, and Prefect learns of it
            return self._edges.end_s
        if shard.was_alive:
            return 0.0
        return self._edges.pending_s if state.is_pending() else self._edges.start_s
