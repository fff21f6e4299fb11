"""How long a run takes: the slowest of slots, network and processor has its way, hour by hour."""

import json
import math

import pytest

from tasks.core.forecast import Limit, Rates, Work, duration_s, forecast, in_numbers

MIB = 1024 * 1024
HOUR = 3600.0
WORK = Work(files=100_000, bytes=100_000 * MIB)


def rates(**given: float) -> Rates:
    """Nothing takes any time but what is given."""
    return Rates(**{"slots": 20, "slot_s_per_file": 0.0, "cpu_s_per_file": 0.0, **given})  # type: ignore[arg-type]


def night(at_s: float) -> Limit:
    """From 19:00 to 06:00 at any rate, else nothing."""
    hour = at_s % (24 * HOUR) / HOUR
    day = at_s - at_s % (24 * HOUR)
    if hour < 6:
        return Limit(math.inf, day + 6 * HOUR)
    if hour < 19:
        return Limit(0.0, day + 19 * HOUR)
    return Limit(math.inf, day + 30 * HOUR)


@pytest.mark.parametrize(
    ("given", "took_s"),
    [
        ({"slot_s_per_file": 2.0}, 10_000),
        ({"cpu_s_per_file": 0.005}, 500),
        ({"cpu_s_per_byte": 1e-8}, 1048.576),
        ({"bytes_per_s": 10 * MIB}, 10_000),
        ({"bytes_per_s": 10 * MIB, "slot_s_per_file": 2.2, "cpu_s_per_file": 0.1}, 11_000),
        ({}, 0),
    ],
)
def test_the_slowest_has_its_way(given: dict[str, float], took_s: float) -> None:
    assert duration_s(WORK, rates(**given), 0) == pytest.approx(took_s)


def test_nothing_takes_no_time() -> None:
    assert duration_s(Work(0, 0), rates(bytes_per_s=0.0), 0) == 0


def test_what_is_read_and_not_sent_takes_the_processor_alone() -> None:
    assert duration_s(Work(0, 0, files_read=1000), rates(cpu_s_per_file=0.1, slot_s_per_file=9.0), 0) == 100


class TestWindows:
    """Twelve hours of work, from 19:00 to 06:00 each night."""

    RATES = rates(bytes_per_s=100_000 * MIB / (12 * HOUR))

    @pytest.mark.parametrize(
        ("begins", "ends"),
        [(19.0, 24 + 20), (20.0, 24 + 21), (6.0, 24 + 20), (12.0, 24 + 20), (5.0, 24 + 6), (0.0, 24 + 1)],
    )
    def test_work_goes_on_in_the_next_one(self, begins: float, ends: float) -> None:
        took = duration_s(WORK, self.RATES, begins * HOUR, night)
        assert begins + took / HOUR == pytest.approx(ends)

    def test_one_that_never_opens_is_no_end(self) -> None:
        found = forecast(WORK, self.RATES, 0, lambda at: Limit(0.0, math.inf))
        assert math.isinf(found.duration_s)
        assert in_numbers(found, WORK, self.RATES)["duration_s"] is None

    def test_limits_that_do_not_go_on_are_no_end(self) -> None:
        """A defect elsewhere must not hang a plan."""
        assert math.isinf(duration_s(WORK, self.RATES, 0, lambda at: Limit(0.0, at)))
        assert math.isinf(duration_s(WORK, self.RATES, 0, lambda at: Limit(0.0, at + 60)))


def test_a_timetable_changes_the_rate() -> None:
    """An hour at 10 MiB/s, then at 20."""

    def by_day(at_s: float) -> Limit:
        return Limit(10 * MIB, HOUR) if at_s < HOUR else Limit(20 * MIB, math.inf)

    took = duration_s(WORK, rates(), 0, by_day)
    assert took == pytest.approx(HOUR + (100_000 - 36_000) / 20)
    assert duration_s(WORK, rates(bytes_per_s=10 * MIB), 0, by_day) == pytest.approx(10_000)


def test_what_would_change_it_most_is_found_by_computing_it() -> None:
    found = forecast(WORK, rates(bytes_per_s=10 * MIB, slot_s_per_file=1.5, cpu_s_per_file=0.01), 0)
    assert found.duration_s == pytest.approx(10_000)
    assert found.with_twice_the_bandwidth_s == pytest.approx(2_500)  # then the slots have their way
    assert found.with_twice_the_slots_s == found.with_twice_the_cpu_s == 0


def test_twice_the_bandwidth_is_twice_that_of_the_timetable() -> None:
    found = forecast(WORK, rates(), 0, lambda at: Limit(10 * MIB, math.inf))
    assert found.with_twice_the_bandwidth_s == pytest.approx(5_000)


def test_is_json_whatever_is_not_known() -> None:
    given = rates()
    numbers = in_numbers(forecast(WORK, given, 1e9), WORK, given)
    assert json.loads(json.dumps(numbers, allow_nan=False))["bytes_per_s"] is None
    assert (numbers["files"], numbers["bytes"]) == (WORK.files, WORK.bytes)
