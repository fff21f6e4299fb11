"""The far side's weather: how many slots it bears, and when it counts as down."""

from collections.abc import Callable

import pytest

from tasks.core.weather import Breaker, Step, Throttle

Weather = Callable[[Throttle], None]


def throttled(*at_s: float) -> Weather:
    def apply(throttle: Throttle) -> None:
        for now in at_s:
            throttle.refused(now)

    return apply


def after(first: Weather, successes: int, took_s: float = 1.0) -> Weather:
    def apply(throttle: Throttle) -> None:
        first(throttle)
        for _ in range(successes):
            throttle.succeeded(took_s, usual_s=1.0)

    return apply


class TestThrottle:
    @pytest.mark.parametrize(
        ("weather", "limit"),
        [
            (throttled(0), 10),
            (throttled(0, 2), 5),
            (throttled(0, 2, 4, 6, 8, 10), 1),
            (throttled(0, 0.5, 0.9), 10),
            (after(throttled(0), 9), 10),
            (after(throttled(0), 10), 11),
            (after(throttled(0), 10 + 11), 12),
            (after(throttled(0), 1000), 20),
            (after(throttled(0), 1000, took_s=2.5), 10),
            (after(throttled(), 1000, took_s=2.5), 20),
        ],
    )
    def test_has_so_many_slots_after(self, weather: Weather, limit: int) -> None:
        throttle = Throttle(20)
        weather(throttle)
        assert throttle.limit == limit

    def test_says_when_the_limit_changes(self) -> None:
        """The summary's course has a point for each."""
        throttle = Throttle(2)
        assert throttle.refused(0)
        assert not throttle.refused(0.1)
        assert not throttle.refused(5), "one slot is the least"
        assert throttle.succeeded()
        assert not throttle.succeeded()


class TestBreaker:
    @pytest.mark.parametrize(
        ("files", "is_open"),
        [([1, 2, 1, 2], False), ([1] * 9, False), ([1, 1, 1, 1, 2], True), ([1, 2, 3, 4, 5], True)],
    )
    def test_opens_after_so_many_faults_of_these_files(self, files: list[int], is_open: bool) -> None:
        breaker = Breaker(threshold=5)
        for file_id in files:
            breaker.fault(Step.PUT, file_id, now=0)
        assert breaker.is_open is is_open

    def test_counts_faults_since_the_last_success(self) -> None:
        breaker = Breaker(threshold=3)
        for file_id in (1, 2):
            breaker.fault(Step.PUT, file_id, now=0)
        breaker.success(Step.PUT)
        breaker.fault(Step.PUT, 3, now=0)
        assert not breaker.is_open

    @pytest.mark.parametrize(("works", "is_open"), [(Step.PRESIGN, True), (Step.PUT, False)])
    def test_closes_when_the_step_that_failed_works(self, works: Step, is_open: bool) -> None:
        """An API that answers says nothing about a store that does not."""
        breaker = down()
        breaker.success(works)
        assert breaker.is_open is is_open

    def test_lets_one_probe_through_at_a_time_and_waits_longer_after_each(self) -> None:
        breaker, now = down(), 100.0
        waits = []
        for _ in range(7):
            wait_s = breaker.wait_s(now)
            waits.append(wait_s)
            now += wait_s
            assert breaker.wait_s(now) == 0
            breaker.begin_probe()
            assert breaker.wait_s(now) == float("inf")
            breaker.end_probe(now)
        assert waits == [1, 2, 4, 8, 16, 30, 30]
        assert breaker.outage_s(now) == now - 100

    def test_asks_nothing_before_the_server_permits(self) -> None:
        breaker = down(retry_after_s=50)
        assert breaker.wait_s(100) == 50


def down(retry_after_s: float = 0.0) -> Breaker:
    """Since 100 s."""
    breaker = Breaker(threshold=2)
    for file_id in (1, 2):
        breaker.fault(Step.PUT, file_id, now=100.0, retry_after_s=retry_after_s)
    return breaker
