"""The far side's weather: how many slots it bears, and when it counts as down."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.core.circuit_breaker import Breaker, PlatformState, Step, Throttle, joint_state

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


class TestSince:
    """What a person is told: since when, and when the next try is."""

    def test_the_platform_throttles_until_all_slots_may_be_used_again(self) -> None:
        throttle = Throttle(2)
        throttle.refused(5)
        throttle.refused(7)
        assert throttle.since == 5
        throttle.succeeded()
        assert throttle.since is None

    def test_also_where_there_is_one_slot_that_none_can_be_taken_of(self) -> None:
        throttle = Throttle(1)
        throttle.refused(5)
        assert (throttle.since, throttle.limit) == (5, 1)
        throttle.succeeded()
        assert throttle.since is None

    def test_a_step_fails_is_from_the_first_fault_that_no_success_followed(self) -> None:
        breaker = Breaker(threshold=3)
        breaker.fault(Step.PUT, 1, now=1)
        breaker.success(Step.PUT)
        assert breaker.failing is None
        for now in (4, 5):
            breaker.fault(Step.PUT, now, now=now)
        breaker.fault(Step.PRESIGN, 9, now=2)
        assert breaker.failing is Step.PUT
        assert (breaker.failing_since(Step.PUT), breaker.in_a_row(Step.PUT)) == (4, 2)

    def test_the_next_try_is_a_probes_and_none_while_it_is_under_way(self) -> None:
        """A Retry-After that is later counts."""
        assert down().next_probe_at == 101
        breaker = down(retry_after_s=50)
        assert breaker.next_probe_at == 150
        breaker.begin_probe()
        assert breaker.next_probe_at is None


class TestTogether:
    """What several processes know, as one."""

    def test_slots_are_added_up(self) -> None:
        first = PlatformState(slots=10, slots_in_use=3, slots_withheld=5, throttled_since=7.0)
        second = PlatformState(slots=10, slots_in_use=4, slots_withheld=8, throttled_since=6.0)
        both = joint_state([first, second])
        assert (both.slots, both.slots_in_use, both.slots_withheld) == (20, 7, 13)
        assert (both.throttled_since, both.processes, both.processes_failing) == (6, 2, 0)

    def test_it_is_down_since_the_first_of_them_found_it_so_and_the_next_try_is_anybodys(self) -> None:
        first = PlatformState(
            failing=Step.PUT,
            failing_since=5,
            is_down=True,
            http_status=503,
            next_try_at=31,
            processes_failing=1,
        )
        second = PlatformState(
            failing=Step.PUT, failing_since=4, is_down=True, next_try_at=30, processes_failing=1
        )
        both = joint_state([first, PlatformState(), second])
        assert (both.failing, both.is_down, both.failing_since, both.next_try_at) == (Step.PUT, True, 4, 30)
        assert (both.http_status, both.processes_failing, both.processes) == (None, 2, 3)
        trying = replace(first, next_try_at=None)
        assert joint_state([trying, second]).next_try_at is None, "one is under way"

    def test_down_is_worse_than_a_few_faults(self) -> None:
        few = PlatformState(failing=Step.PRESIGN, failing_since=1, next_try_at=2)
        down = PlatformState(failing=Step.PUT, failing_since=9, is_down=True, next_try_at=10)
        assert joint_state([few, down]).failing is Step.PUT

    def test_a_process_without_slots_does_not_count(self) -> None:
        assert joint_state([PlatformState(processes=0), PlatformState(slots=20)]).processes == 1


def down(retry_after_s: float = 0.0) -> Breaker:
    """Since 100 s."""
    breaker = Breaker(threshold=2)
    for file_id in (1, 2):
        breaker.fault(Step.PUT, file_id, now=100.0, retry_after_s=retry_after_s)
    return breaker
