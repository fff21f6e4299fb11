"""How many slots the platform bears: the table of `ConcurrencyLimit`, line by line."""

from collections.abc import Callable

import pytest

from tasks.core.concurrency_limit import ConcurrencyLimit

Answers = Callable[[ConcurrencyLimit], None]


def throttled(*at_s: float) -> Answers:
    def apply(concurrency: ConcurrencyLimit) -> None:
        for now in at_s:
            concurrency.record_throttling(now)

    return apply


def after(before: Answers, successes: int, took_s: float = 1.0) -> Answers:
    def apply(concurrency: ConcurrencyLimit) -> None:
        before(concurrency)
        for _ in range(successes):
            concurrency.record_success(took_s, usual_s=1.0)

    return apply


class TestConcurrencyLimit:
    @pytest.mark.parametrize(
        ("answers", "slots"),
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
    def test_has_so_many_slots_after(self, answers: Answers, slots: int) -> None:
        concurrency = ConcurrencyLimit(20)
        answers(concurrency)
        assert concurrency.limit == slots

    def test_says_when_the_limit_changes(self) -> None:
        """The summary's course has a point for each."""
        concurrency = ConcurrencyLimit(2)
        assert concurrency.record_throttling(0)
        assert not concurrency.record_throttling(0.1)
        assert not concurrency.record_throttling(5), "one slot is the least"
        assert concurrency.record_success()
        assert not concurrency.record_success()

    def test_is_throttled_until_all_slots_may_be_used_again(self) -> None:
        concurrency = ConcurrencyLimit(2)
        concurrency.record_throttling(5)
        concurrency.record_throttling(7)
        assert concurrency.throttled_since == 5
        concurrency.record_success()
        assert concurrency.throttled_since is None

    def test_also_where_there_is_one_slot_that_none_can_be_taken_of(self) -> None:
        concurrency = ConcurrencyLimit(1)
        concurrency.record_throttling(5)
        assert (concurrency.throttled_since, concurrency.limit) == (5, 1)
        concurrency.record_success()
        assert concurrency.throttled_since is None
