"""The platform's upload slots: taken once by a shard, held on a lease, given up when others have them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.slots import _acquire, slots_of_platform, taken
from tasks.core.errors import IngestError, StoppedError, UsageError
from tests.flows.test_control import await_that

pytestmark = pytest.mark.usefixtures("prefect_server")
_LIMIT = "dicom-ingest slots.example"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Nobody has a slot of it."""
    monkeypatch.setattr("flows.slots._RENEWED_EVERY_S", 0.1)
    monkeypatch.setattr("flows.slots._ASKED_EVERY_S", 0.05)
    yield slots_of_platform("https://slots.example/api", 20)
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(_LIMIT)


def active_slots() -> int:
    answer = httpx.get(f"{PREFECT_API_URL.value()}/v2/concurrency_limits/{_LIMIT}")
    return int(answer.json()["active_slots"])


def go_on() -> None:
    """Nothing has stopped the run."""


def never(why: IngestError) -> None:
    raise AssertionError(why)


def test_are_taken_for_as_long_as_the_block_lasts(limit: str) -> None:
    assert limit == _LIMIT
    with taken(limit, 15, go_on, never):
        assert active_slots() == 15
    assert active_slots() == 0


def test_that_others_have_are_waited_for(limit: str) -> None:
    order: list[str] = []

    def second() -> None:
        with taken(limit, 15, go_on, never):
            order.append("second")

    with taken(limit, 15, go_on, never):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(1)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_run_that_is_stopped_does_not_wait_for_them(limit: str) -> None:
    def stopped() -> None:
        raise StoppedError("Enough.")

    waits = taken(limit, 1, stopped, never)
    with taken(limit, 20, go_on, never), pytest.raises(StoppedError, match="Enough"), waits:
        raise AssertionError


class TestLost:
    """Prefect's server was away for longer than the lease."""

    @pytest.fixture
    def lose(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Ends the lease that was taken first."""
        leases: list[Any] = []

        def acquire(limit: str, slots: int) -> Any:
            leases.append(_acquire(limit, slots))
            return leases[-1]

        def lose() -> None:
            with get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(leases[0])

        monkeypatch.setattr("flows.slots._acquire", acquire)
        return lose

    def test_and_free_they_are_taken_again(self, limit: str, lose: Callable[[], None]) -> None:
        with taken(limit, 15, go_on, never):
            lose()
            await_that(lambda: active_slots() == 15)
        assert active_slots() == 0

    def test_and_given_to_others_they_end_the_run(
        self, limit: str, lose: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stops: list[IngestError] = []
        monkeypatch.setattr("flows.slots._RENEWED_EVERY_S", 3)
        with taken(limit, 15, go_on, stops.append):
            lose()
            assert _acquire(limit, 20)
            await_that(lambda: bool(stops))
        assert "were given to others" in str(stops[0])
        assert stops[0].exit_code == 130, "its follower starts it again"


def test_a_server_that_is_away_keeps_them(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def away(**_: Any) -> None:
        asked.set()
        raise ConnectionError

    with taken(limit, 15, go_on, never), monkeypatch.context() as patched:
        patched.setattr("flows.slots.get_client", away)
        assert asked.wait(30)
    await_that(lambda: active_slots() in (0, 15))


def test_a_limit_that_is_too_small_is_told_before_anything_is_sent(limit: str) -> None:
    with get_client(sync_client=True) as client:
        client._client.patch(f"/v2/concurrency_limits/{_LIMIT}", json={"limit": 4})
    with pytest.raises(UsageError, match="has 4 slots, and a shard wants 10"):
        slots_of_platform("https://slots.example/api", 10)
