"""The platform's upload slots: what is free, or a fixed part, on a lease; given up when others have them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.orchestration.api_client import connect
from flows.shards.slot_lease import (
    Lease,
    LeaseEdges,
    LeaseHolder,
    Moment,
    Wait,
    free_slots,
    hold_fixed_slots,
    is_standing_server,
    limit_name,
    slots_of_platform,
)
from tasks.core.errors import IngestError, StoppedError, UsageError
from tests.conftest import NearSide
from tests.far_side import Request, Step
from tests.processes import await_that

pytestmark = pytest.mark.usefixtures("prefect_server")
_API = "https://slots.example/api"
_LIMIT = "dicom-ingest slots.example:443"


QUICK = LeaseEdges(
    renewed_every_s=0.1,
    retried_every_s=0.1,
    asked_every_s=0.05,
    announced_after_s=0.1,
    looked_at_every_s=0.05,
)


@dataclass(slots=True)
class Server:
    """Prefect's server, as runs of a test reach it: away for a while, or seen as it was a moment ago."""

    is_away: bool = False
    shows_all_as_free: bool = False
    asked: threading.Event = field(default_factory=threading.Event)
    acquired: list[int] = field(default_factory=list)  # how many slots each request wanted
    leases: list[UUID] = field(default_factory=list)
    renewing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def edges(self) -> LeaseEdges:
        return replace(QUICK, connect=self.connect)

    @contextmanager
    def connect(self) -> Iterator[SyncPrefectClient]:
        self.asked.set()
        if self.is_away:
            raise ConnectionError
        with connect() as client:
            seen: Any = Client(self, client)
            yield seen


@dataclass(slots=True)
class Client:
    """Prefect's own, and what a test notes or changes of what goes through it."""

    server: Server
    client: SyncPrefectClient

    def increment_concurrency_slots_with_lease(
        self, names: list[str], slots: int, *rest: Any, **named: Any
    ) -> Any:
        self.server.acquired.append(slots)
        answer = self.client.increment_concurrency_slots_with_lease(names, slots, *rest, **named)
        if answer.json()["limits"]:
            self.server.leases.append(UUID(answer.json()["lease_id"]))
        return answer

    def read_global_concurrency_limit_by_name(self, name: str) -> Any:
        limit = self.client.read_global_concurrency_limit_by_name(name)
        if self.server.shows_all_as_free:
            limit.limit, limit.active_slots = 20, 0
        return limit

    def renew_concurrency_lease(self, lease_id: UUID, lease_s: float) -> None:
        with self.server.renewing:
            self.client.renew_concurrency_lease(lease_id, lease_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


@pytest.fixture
def limit() -> Iterator[str]:
    """Nobody has a slot of it."""
    yield slots_of_platform(_API, 20)
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(_LIMIT)


def active_slots() -> int:
    answer = httpx.get(f"{PREFECT_API_URL.value()}/v2/concurrency_limits/{_LIMIT}")
    return int(answer.json()["active_slots"])


def change(**what: Any) -> None:
    """As `prefect gcl` does."""
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(_LIMIT, GlobalConcurrencyLimitUpdate(**what))


@dataclass(slots=True)
class Run:
    """Whom slots are for. It goes on unless `stopped` says why not."""

    stopped: IngestError | None = None
    stops: list[IngestError] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    permitted: list[bool] = field(default_factory=list)
    max_outage_s: float = 3600.0

    def raise_if_stopped(self) -> None:
        if self.stopped:
            raise self.stopped

    @property
    def holder(self) -> LeaseHolder:
        return LeaseHolder(
            self.raise_if_stopped,
            self.stops.append,
            self.announce,
            self.permitted.append,
            self.max_outage_s,
        )

    def announce(self, wait: Wait | None) -> None:
        self.said.append(str(wait or ""))


@pytest.fixture
def run() -> Iterator[Run]:
    """Of which nobody was stopped, unless the test has looked at it."""
    run = Run()
    yield run
    assert run.stops == []


class TestTheLimit:
    @pytest.mark.parametrize(
        ("api_endpoint", "name"),
        [
            ("https://api.example.org", "dicom-ingest api.example.org:443"),
            ("https://API.example.org:443/api/", "dicom-ingest api.example.org:443"),
            ("http://api.example.org/", "dicom-ingest api.example.org:80"),
            ("http://127.0.0.1:8000", "dicom-ingest 127.0.0.1:8000"),
            ("http://[::1]:8000", "dicom-ingest [::1]:8000"),
        ],
    )
    def test_is_named_after_host_and_port_of_the_api(self, api_endpoint: str, name: str) -> None:
        """Two gateways of one machine are two platforms; how the address is written is no matter."""
        assert limit_name(api_endpoint) == name

    def test_that_is_too_small_for_a_shard_is_told_before_anything_is_sent(self, limit: str) -> None:
        change(limit=4)
        with pytest.raises(UsageError, match="has 4 slots, and a shard wants 10"):
            slots_of_platform(_API, 10)


class TestStandingServer:
    def test_is_one_that_is_named(self) -> None:
        assert is_standing_server()

    def test_is_none_of_a_run_that_has_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose address is set, too, in that run's process."""
        monkeypatch.setattr("flows.shards.slot_lease.has_own_server", lambda: True)
        assert not is_standing_server()

    def test_is_none_where_none_is_named(self) -> None:
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            assert not is_standing_server()


class TestFixed:
    def test_are_held_for_as_long_as_the_block_lasts(self, limit: str, run: Run) -> None:
        assert limit == _LIMIT
        with hold_fixed_slots(limit, 15, run.holder, QUICK):
            assert active_slots() == 15
        assert active_slots() == 0

    def test_that_others_have_are_waited_for(self, limit: str, run: Run) -> None:
        order: list[str] = []

        def second() -> None:
            with hold_fixed_slots(limit, 15, run.holder, QUICK):
                order.append("second")

        with hold_fixed_slots(limit, 15, run.holder, QUICK):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(1)
            order.append("first")
        thread.join(120)
        assert order == ["first", "second"]

    def test_of_a_limit_that_is_gone_are_none(self, run: Run) -> None:
        """For Prefect's server a limit that does not exist bounds nothing."""
        waits = hold_fixed_slots("dicom-ingest nobody.example:443", 3, run.holder, QUICK)
        with pytest.raises(StoppedError, match="has no global concurrency limit"), waits:
            raise AssertionError


class TestFree:
    def test_are_leased_as_far_as_they_go(self, limit: str, run: Run) -> None:
        """At the first try: how many there are was looked up."""
        server = Server()
        first_slots = free_slots(_API, 12, run.holder, server.edges)
        with first_slots as first, free_slots(_API, 20, run.holder, server.edges) as second:
            assert (first, second) == (12, 8)
            assert active_slots() == 20
        assert server.acquired == [12, 8]
        assert active_slots() == 0
        assert run.said == []

    def test_are_waited_for_when_there_is_none(self, limit: str, run: Run) -> None:
        """And it is said what for; one that falls free is enough."""
        waits = Run()
        got: list[int] = []

        def wait() -> None:
            with free_slots(_API, 20, waits.holder, QUICK) as slots:
                got.append(slots)

        with hold_fixed_slots(limit, 19, run.holder, QUICK):
            with hold_fixed_slots(limit, 1, run.holder, QUICK):
                thread = threading.Thread(target=wait)
                thread.start()
                await_that(lambda: bool(waits.said))
                assert got == []
            thread.join(120)
            assert got == [1]
        assert waits.said[0].startswith("Waiting for upload slots: other runs have what there is.")
        assert f'prefect gcl update "{_LIMIT}" --active-slots 0' in waits.said[0]
        assert waits.said[1:] == [""], "said once, and that it is over"

    def test_are_not_waited_for_by_a_run_that_is_stopped(self, limit: str, run: Run) -> None:
        waits = free_slots(_API, 1, Run(stopped=StoppedError("Enough.")).holder)
        with (
            hold_fixed_slots(limit, 20, run.holder, QUICK),
            pytest.raises(StoppedError, match="Enough"),
            waits,
        ):
            raise AssertionError

    def test_are_those_that_quicker_ones_leave(self, limit: str, run: Run) -> None:
        """Between the look and the request others took some, or somebody made the limit smaller."""
        edges = Server(shows_all_as_free=True).edges
        with hold_fixed_slots(limit, 15, run.holder, QUICK), free_slots(_API, 7, run.holder, edges) as slots:
            assert slots == 5
        change(limit=3)
        with free_slots(_API, 5, run.holder, edges) as slots:
            assert slots == 3

    def test_make_the_limit_when_it_is_missing(self, limit: str, run: Run) -> None:
        with get_client(sync_client=True) as client:
            client.delete_global_concurrency_limit_by_name(_LIMIT)
        with free_slots(_API, 7, run.holder, QUICK) as slots:
            assert (slots, active_slots()) == (7, 7)

    def test_of_a_limit_that_was_switched_off_are_all(self, limit: str, run: Run) -> None:
        with hold_fixed_slots(limit, 15, run.holder, QUICK):
            change(active=False)
            with free_slots(_API, 20, run.holder, QUICK) as slots:
                assert slots == 20
            change(active=True)

    def test_are_never_more_than_there_are(self, limit: str) -> None:
        """Many runs that begin at once."""
        lock, held, most = threading.Lock(), [0], [0]

        def take() -> None:
            with free_slots(_API, 6, Run().holder, QUICK) as slots:
                with lock:
                    held[0] += slots
                    most[0] = max(most[0], held[0])
                time.sleep(0.1)
                with lock:
                    held[0] -= slots

        threads = [threading.Thread(target=take) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert 1 <= most[0] <= 20
        assert active_slots() == 0

    def test_are_asked_for_until_a_server_that_is_away_answers(self, limit: str) -> None:
        run, server = Run(), Server(is_away=True)

        def come_back() -> None:
            await_that(lambda: bool(run.said))
            server.is_away = False

        thread = threading.Thread(target=come_back)
        thread.start()
        with free_slots(_API, 20, run.holder, server.edges) as slots:
            assert slots == 20
        thread.join()
        assert run.said[0] == "Waiting for upload slots: Prefect's server does not answer."


class TestLost:
    """Prefect's server was away for longer than the lease."""

    @pytest.mark.parametrize(
        ("monotonic_ago_s", "wall_ago_s", "forgotten"),
        [(10, 10, True), (130, 130, False), (10, 130, False), (10, -5, False)],
        ids=["just now", "long ago", "the machine slept", "the clock was set back"],
    )
    def test_that_is_gone_too_early_was_forgotten(
        self, monotonic_ago_s: float, wall_ago_s: float, forgotten: bool
    ) -> None:
        """Only then the server still counts its slots. One that may be over is no reason to take others'."""
        edges = LeaseEdges(monotonic=lambda: 1000.0, wall=lambda: 9000.0, lease_s=120.0)
        renewed_at = Moment(1000.0 - monotonic_ago_s, 9000.0 - wall_ago_s)
        assert Lease("limit", 5, uuid4(), renewed_at, edges).was_forgotten is forgotten

    @pytest.fixture
    def lost(self) -> "Lost":
        return Lost()

    def test_and_free_they_are_leased_again(self, limit: str, lost: "Lost", run: Run) -> None:
        with hold_fixed_slots(limit, 15, run.holder, lost.edges):
            lost.end_first_lease()
            await_that(lambda: active_slots() == 15)
        assert active_slots() == 0

    def test_and_given_to_others_they_end_the_run(self, limit: str, lost: "Lost") -> None:
        run = Run()
        with hold_fixed_slots(limit, 15, run.holder, lost.edges):
            lost.end_first_lease(others_get=20)
            await_that(lambda: bool(run.stops))
        assert str(run.stops[0]).startswith("Other runs were given this run's upload slots")
        assert run.stops[0].exit_code == 130, "a shard's supervisor starts it again"


class TestNotRenewed:
    """Prefect's server does not answer, and the lease is over by the clock: others may have its slots."""

    @pytest.fixture
    def lost(self) -> "Lost":
        return Lost()

    def test_for_its_time_no_put_begins_until_it_is(self, limit: str, lost: "Lost", run: Run) -> None:
        with hold_fixed_slots(limit, 15, run.holder, lost.edges):
            lost.is_away = True
            time.sleep(0.5)
            assert run.permitted == [], "the lease lasts: an outage costs nothing"
            lost.passed_s = 1000.0
            await_that(lambda: run.permitted == [False])
            assert "the lease on them is over" in run.said[0]
            lost.is_away = False
            await_that(lambda: run.permitted == [False, True])
        assert run.said[1:] == [""]
        assert active_slots() == 0

    def test_nor_taken_anew_before_it_is(self, limit: str, lost: "Lost", run: Run) -> None:
        """The server counts them no more: what is renewed is gone, and what is free is taken."""
        with hold_fixed_slots(limit, 15, run.holder, lost.edges):
            lost.is_away = True
            lost.end_first_lease()
            await_that(lambda: run.permitted == [False])
            assert active_slots() == 0
            lost.is_away = False
            await_that(lambda: run.permitted == [False, True])
            assert active_slots() == 15

    def test_while_a_request_hangs(self, limit: str, run: Run) -> None:
        """Prefect's client waits for minutes, and tries five times."""
        lost, let_go = Lost(), threading.Event()

        @contextmanager
        def hang() -> Iterator[SyncPrefectClient]:
            if lost.leases:
                lost.asked.set()
                let_go.wait(120)
            with lost.connect() as client:
                yield client

        with hold_fixed_slots(limit, 15, run.holder, replace(lost.edges, connect=hang)):
            assert lost.asked.wait(30)
            lost.passed_s = 1000.0
            await_that(lambda: run.permitted == [False])
            let_go.set()

    def test_for_max_outage_ends_the_run(self, limit: str, lost: "Lost") -> None:
        run = Run(max_outage_s=0.2)
        with hold_fixed_slots(limit, 15, run.holder, lost.edges):
            lost.is_away, lost.passed_s = True, 1000.0
            await_that(lambda: bool(run.stops))
        assert str(run.stops[0]).startswith("Prefect's server did not renew the run's upload slots")
        assert run.stops[0].exit_code == 3
        assert run.permitted == [False]

    def test_holds_what_a_run_sends(self, limit: str, lost: "Lost", near_side: NearSide) -> None:
        """Those under way go on; the others wait, and go on where they were."""
        near_side.put_many(120)
        far_side = near_side.far_side
        engine = near_side.engine(parallel=4)
        permitted: list[bool] = []

        def permit(may_begin: bool) -> None:
            engine.permit_puts(may_begin)
            permitted.append(may_begin)

        def answer_later(request: Request) -> None:
            if request.step is Step.PUT and request.n >= 12:
                if not permitted:  # a PUT that comes later must not bring the server back
                    lost.is_away, lost.passed_s = True, 1000.0
                await_that(lambda: bool(permitted), every_s=0.02)
                time.sleep(0.1)  # so that the loop hears of it before all is sent

        far_side.script = answer_later
        holder = LeaseHolder(engine.raise_if_stopped, engine.stop, lambda _wait: None, permit)
        runs: list[Any] = []
        with hold_fixed_slots(limit, 4, holder, lost.edges):
            thread = threading.Thread(target=lambda: runs.append(near_side.finished(engine)))
            thread.start()
            await_that(lambda: permitted == [False])
            before = -1
            while before != (begun := len(far_side.asked(Step.PUT))):
                before = begun
                time.sleep(0.4)  # what is under way ends
            assert begun < 120
            lost.is_away = False
            thread.join(120)
        assert runs[0].summary.by_status == {"uploaded": 120}


class Lost(Server):
    """The server was away for longer than the lease, which was over meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    @property
    def edges(self) -> LeaseEdges:
        return replace(QUICK, connect=self.connect, wall=lambda: time.time() + self.passed_s)

    def end_first_lease(self, others_get: int = 0) -> None:
        """No renewal comes in between."""
        with self.renewing, connect() as client:
            client.release_concurrency_slots_with_lease(self.leases[0])
            self.passed_s += 1000.0
            if others_get:
                client.increment_concurrency_slots_with_lease([_LIMIT], others_get, "concurrency", 60.0)


def test_a_server_that_is_away_keeps_them(limit: str, run: Run) -> None:
    server = Server()
    with hold_fixed_slots(limit, 15, run.holder, server.edges):
        server.is_away = True
        server.asked.clear()
        assert server.asked.wait(30)
        server.is_away = False
    await_that(lambda: active_slots() in (0, 15))
