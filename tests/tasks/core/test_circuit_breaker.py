"""When the platform counts as down, and when it is tried again."""

import pytest

from tasks.core.circuit_breaker import CircuitBreaker
from tasks.core.platform_state import Step


class TestBreaker:
    @pytest.mark.parametrize(
        ("files", "is_open"),
        [([1, 2, 1, 2], False), ([1] * 9, False), ([1, 1, 1, 1, 2], True), ([1, 2, 3, 4, 5], True)],
    )
    def test_opens_after_so_many_faults_of_these_files(self, files: list[int], is_open: bool) -> None:
        breaker = CircuitBreaker(threshold=5)
        for file_id in files:
            breaker.record_fault(Step.PUT, file_id, now=0)
        assert breaker.is_open is is_open

    def test_counts_faults_since_the_last_success(self) -> None:
        breaker = CircuitBreaker(threshold=3)
        for file_id in (1, 2):
            breaker.record_fault(Step.PUT, file_id, now=0)
        breaker.record_success(Step.PUT)
        breaker.record_fault(Step.PUT, 3, now=0)
        assert not breaker.is_open

    @pytest.mark.parametrize(("works", "is_open"), [(Step.PRESIGN, True), (Step.PUT, False)])
    def test_closes_when_the_step_that_failed_works(self, works: Step, is_open: bool) -> None:
        """An API that answers says nothing about a store that does not."""
        breaker = down()
        breaker.record_success(works)
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

    def test_a_step_fails_is_from_the_first_fault_that_no_success_followed(self) -> None:
        breaker = CircuitBreaker(threshold=3)
        breaker.record_fault(Step.PUT, 1, now=1)
        breaker.record_success(Step.PUT)
        assert breaker.failing is None
        for now in (4, 5):
            breaker.record_fault(Step.PUT, now, now=now)
        breaker.record_fault(Step.PRESIGN, 9, now=2)
        assert breaker.failing is Step.PUT
        assert (breaker.failing_since(Step.PUT), breaker.in_a_row(Step.PUT)) == (4, 2)

    def test_the_next_try_is_a_probes_and_none_while_it_is_under_way(self) -> None:
        """A Retry-After that is later counts."""
        assert down().next_probe_at == 101
        breaker = down(retry_after_s=50)
        assert breaker.next_probe_at == 150
        breaker.begin_probe()
        assert breaker.next_probe_at is None


def down(retry_after_s: float = 0.0) -> CircuitBreaker:
    """Since 100 s."""
    breaker = CircuitBreaker(threshold=2)
    for file_id in (1, 2):
        breaker.record_fault(Step.PUT, file_id, now=100.0, retry_after_s=retry_after_s)
    return breaker
