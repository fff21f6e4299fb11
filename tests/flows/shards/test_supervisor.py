"""How a migration's shards are supervised: which start again, which are given up, what stops all."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.logging import disable_run_logger
from prefect.states import Cancelled, Cancelling, Crashed, Failed, Running

from flows.orchestration.api_client import connect
from flows.shards.supervisor import MOST_STARTS_IN_VAIN, Supervisor, SupervisorEdges
from tasks.core.errors import StoppedError
from tasks.core.models import RunFacts
from tasks.ledger.shard_runs import ShardStanding
from tasks.settings import Settings, load

pytestmark = pytest.mark.usefixtures("prefect_server")


_QUICK = SupervisorEdges(look_s=0, pause_s=0)


@flow(name="shard-of-a-test")
def shard() -> None:
    """Only its runs are looked at."""


def facts(stopped_exit_code: int | None = None) -> RunFacts:
    return RunFacts("run-0001", "default", 1, 2, 0, [], [], stopped_exit_code)


@dataclass
class Ledger:
    """What shards tell the ledger, as a test has it; and the flow runs that were started for them."""

    settings: Settings
    told: dict[int, ShardStanding]
    on_start: Callable[[int, int], State[Any]]
    started: list[tuple[int, int]] = field(default_factory=list)
    runs: dict[int, UUID] = field(default_factory=dict)
    edges: SupervisorEdges = _QUICK

    def standings(self) -> list[ShardStanding]:
        return [self.told[number] for number in sorted(self.told)]

    def start(self, number: int, starts: int) -> UUID:
        self.started.append((number, starts))
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(shard)
            client.set_flow_run_state(run.id, self.on_start(number, starts), force=True)
        self.runs[number] = run.id
        return run.id

    def state(self, number: int) -> str:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(self.runs[number]).state
            assert state
            return state.name

    def end(self, number: int, stopped_exit_code: int | None = None) -> None:
        self.told[number] = ShardStanding(f"run-{number:04}", False, facts(stopped_exit_code), {})

    def supervisor(self) -> Supervisor:
        stand_in: Any = self
        return Supervisor(stand_in, self.start, len(self.told), self.edges)

    def supervise(self) -> None:
        self.supervisor().supervise()


def set_state(site: Ledger, number: int, state: State[Any]) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(site.runs[number], state, force=True)


@pytest.fixture
def ledger() -> Iterator[Callable[..., Ledger]]:
    def ledger(shards: int, on_start: Callable[[int, int], State[Any]], parallel: int = 20) -> Ledger:
        settings = load(api_endpoint="http://127.0.0.1:1", token="t", max_outage=2, parallel=parallel)
        silent = ShardStanding("run", False, None, {})
        return Ledger(settings, dict.fromkeys(range(1, shards + 1), silent), on_start)

    with disable_run_logger():
        yield ledger


def test_a_crashed_shard_is_started_again_and_one_that_keeps_crashing_given_up(
    ledger: Callable[..., Ledger],
) -> None:
    """The second ends at its second start; the first never does."""

    def on_start(number: int, starts: int) -> State[Any]:
        if (number, starts) == (2, 2):
            site.end(2)
        return Crashed()

    site = ledger(2, on_start)
    site.supervise()
    assert [starts for number, starts in site.started if number == 1] == list(
        range(1, MOST_STARTS_IN_VAIN + 1)
    )
    assert [starts for number, starts in site.started if number == 2] == [1, 2]


def test_a_shard_that_a_person_cancels_is_not_started_again(ledger: Callable[..., Ledger]) -> None:
    """What it has not stored, the merged report says; the others go on."""

    def on_start(number: int, starts: int) -> State[Any]:
        if number == 2:
            site.end(2)
        return Cancelled() if number == 1 else Running()

    site = ledger(2, on_start)
    site.supervise()
    assert sorted(site.started) == [(1, 1), (2, 1)]


def test_a_shard_that_a_person_is_cancelling_is_not_started_again(ledger: Callable[..., Ledger]) -> None:
    """It has told its end, writes its report, and Prefect does not know of it yet."""
    looks = 0

    def on_start(number: int, starts: int) -> State[Any]:
        if starts > 1:
            site.end(number)
        return Cancelling()

    def standings() -> list[ShardStanding]:
        nonlocal looks
        looks += 1
        if looks < 3:
            return [ShardStanding("run", True, None, {})]
        if looks == 3:
            site.end(1, stopped_exit_code=130)
        if looks == 6:
            assert site.state(1) == "Cancelling"
            set_state(site, 1, Crashed())
        return [site.told[1]]

    site = ledger(1, on_start)
    site.standings = standings  # type: ignore[method-assign]
    site.supervise()
    assert site.started == [(1, 1)]


def test_a_shard_that_was_killed_before_it_was_seen_alive_is_started_again(
    ledger: Callable[..., Ledger],
) -> None:
    """On this host it counts as dead at once; that it had begun, the ledger says."""
    looks = 0

    def on_start(number: int, starts: int) -> State[Any]:
        if starts == 2:
            site.end(number)
        else:
            site.told[number] = ShardStanding("run", False, None, {}, started_ns=5)
        return Running()

    def standings() -> list[ShardStanding]:
        nonlocal looks
        looks += 1
        assert looks < 20, "nobody noticed"
        return [site.told[1]]

    site = ledger(1, on_start)
    site.standings = standings  # type: ignore[method-assign]
    site.edges = replace(_QUICK, start_s=math.inf)
    site.supervise()
    assert site.started == [(1, 1), (1, 2)]


def test_a_shard_whose_flow_run_was_deleted_is_started_again(ledger: Callable[..., Ledger]) -> None:
    def on_start(number: int, starts: int) -> State[Any]:
        if starts == 2:
            site.end(number)
        return Running()

    def standings() -> list[ShardStanding]:
        if site.started == [(1, 1)]:
            with get_client(sync_client=True) as client, suppress(ObjectNotFound):
                client.delete_flow_run(site.runs[1])
        return [site.told[1]]

    site = ledger(1, on_start)
    site.standings = standings  # type: ignore[method-assign]
    site.supervise()
    assert site.started == [(1, 1), (1, 2)]


def test_no_more_shards_are_at_work_than_uploads_are_allowed(ledger: Callable[..., Ledger]) -> None:
    """Each has a slot at least."""
    at_work: list[int] = []

    def standings() -> list[ShardStanding]:
        begun = [number for number, _ in site.started if site.told[number].facts is None]
        at_work.append(len(begun))
        if begun:
            site.end(begun[0])
        return [site.told[number] for number in sorted(site.told)]

    site = ledger(4, lambda _number, _starts: Running(), parallel=2)
    site.standings = standings  # type: ignore[method-assign]
    site.supervise()
    assert [number for number, _ in site.started] == [1, 2, 3, 4]
    assert max(at_work) == 2


def test_a_server_that_is_away_keeps_no_report_back(ledger: Callable[..., Ledger]) -> None:
    """Whoever stops a migration gets its merged report."""
    why, is_away, asked = StoppedError("Enough."), False, 0

    def on_start(_number: int, _starts: int) -> State[Any]:
        supervisor.interrupt(why)
        return Running()

    def connect_unless_away() -> AbstractContextManager[SyncPrefectClient]:
        nonlocal asked
        asked += 1
        if is_away:
            raise ConnectionError
        return connect()

    site = ledger(1, on_start)
    site.edges = replace(site.edges, connect=connect_unless_away)
    supervisor = site.supervisor()
    with pytest.raises(StoppedError, match="Enough"):
        supervisor.supervise()
    is_away, asked_before = True, asked
    supervisor.stop(why)
    assert asked == asked_before + 1


def test_what_stops_one_shard_stops_all(ledger: Callable[..., Ledger]) -> None:
    """Credentials that are refused to one are refused to the next."""

    def on_start(number: int, starts: int) -> State[Any]:
        site.end(number, stopped_exit_code=3)
        return Failed()

    site = ledger(3, on_start)
    with pytest.raises(StoppedError, match="Shard 1 stopped early"):
        site.supervise()


def test_an_interrupted_shard_goes_on(ledger: Callable[..., Ledger]) -> None:
    """Its worker was told to end, by whoever updates that machine."""

    def on_start(number: int, starts: int) -> State[Any]:
        site.end(1, stopped_exit_code=130 if starts == 1 else None)
        return Failed()

    site = ledger(1, on_start)
    site.supervise()
    assert site.started == [(1, 1), (1, 2)]


def test_a_silent_shard_has_crashed(ledger: Callable[..., Ledger]) -> None:
    """Its run says Running for good: the machine is gone. Nobody has to look."""

    def on_start(number: int, starts: int) -> State[Any]:
        if starts == 2:
            assert site.state(1) == "Crashed"
            site.end(1)
        return Running()

    site = ledger(1, on_start)
    site.edges = replace(site.edges, start_s=0.5)
    site.supervise()
    assert site.started == [(1, 1), (1, 2)]


def test_prefects_server_may_be_away_for_a_while(
    ledger: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for longer than --max-outage."""
    asked = 0

    def away(self: Ledger, number: int, starts: int) -> UUID:
        nonlocal asked
        asked += 1
        if asked == 3:
            self.end(1)
        raise ConnectionError

    site = ledger(1, lambda _number, _starts: Running())
    monkeypatch.setattr(Ledger, "start", away)
    site.supervise()
    assert asked == 3

    monkeypatch.setattr(Ledger, "end", lambda *_: None)
    again = ledger(1, lambda _number, _starts: Running())
    with pytest.raises(StoppedError, match="away for too long"):
        again.supervise()
