"""Days and times of a week by the wall clock of a zone, through gap and fold."""

import math
import os
import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tasks.core.week_times import (
    EVERY_DAY,
    MINUTES_OF_A_WEEK,
    WeekTable,
    days_of,
    minute_of_day,
    week_minute,
    zone_of,
)

BERLIN = ZoneInfo("Europe/Berlin")  # forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00


def instant(text: str, zone: ZoneInfo | None = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def wall(at: float, zone: ZoneInfo | None = BERLIN) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%a %H:%M:%S")


def table(*changes: tuple[str, str, str], zone: ZoneInfo | None = BERLIN) -> WeekTable[str]:
    """Of (days, time, what holds)."""
    minutes = (
        (week_minute(day, minute_of_day(at)), value) for days, at, value in changes for day in days_of(days)
    )
    return WeekTable(minutes, zone)


class TestDays:
    @pytest.mark.parametrize(
        ("text", "days"),
        [
            ("Mon", {0}),
            ("sunday", {6}),
            ("Mon-Fri", {0, 1, 2, 3, 4}),
            ("Fri-Mon", {4, 5, 6, 0}),
            ("Sat-Sat", {5}),
            ("Mon,Wed", {0, 2}),
            ("mon-WED,Saturday", {0, 1, 2, 5}),
            ("Mon-Sun", EVERY_DAY),
        ],
    )
    def test_are_named_singly_as_a_range_or_as_a_list(self, text: str, days: set[int]) -> None:
        assert days_of(text) == days

    @pytest.mark.parametrize(
        "text", ["", "bad", "Mon-bad", "bad-Mon", "Mon-", "-Mon", "Mon,", "Mo", "Mon-Tue-Wed"]
    )
    def test_are_nothing_else(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no day, and no days such as Mon-Fri"):
            days_of(text)


class TestTimesOfDay:
    @pytest.mark.parametrize(("text", "minute"), [("00:00", 0), ("08:30", 510), ("23:59", 1439)])
    def test_are_hours_and_minutes(self, text: str, minute: int) -> None:
        assert minute_of_day(text) == minute

    @pytest.mark.parametrize(
        "text", ["2401", "1061", "24:00", "10:60", "8:00", "bad", "", "08:00\n", "\u0660\u0668:00"]
    )
    def test_are_nothing_else(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no time of day from 00:00 to 23:59"):
            minute_of_day(text)

    def test_beyond_midnight_are_of_the_next_day_and_after_sunday_comes_monday(self) -> None:
        assert week_minute(4, minute_of_day("06:00") + 24 * 60) == week_minute(5, 360)
        assert week_minute(6, 24 * 60) == week_minute(0, 0) == 0
        assert week_minute(0, -1) == MINUTES_OF_A_WEEK - 1


class TestZones:
    def test_have_the_names_of_the_tz_database(self) -> None:
        assert (zone_of("Europe/Berlin").key, zone_of("UTC").key) == ("Europe/Berlin", "UTC")

    @pytest.mark.parametrize(
        "name", ["Europe", "Europe/Nowhere", "../zone", "/etc/localtime", "", "20M", "Mon-Fri"]
    )
    def test_are_nothing_else(self, name: str) -> None:
        with pytest.raises(ValueError, match="is no time zone such as Europe/Berlin"):
            zone_of(name)


class TestATable:
    OFFICE = table(("Mon-Fri", "08:00", "day"), ("Mon-Fri", "19:00", "night"))

    @pytest.mark.parametrize(
        ("at", "holds"),
        [
            ("2026-11-27 07:59:59", "night"),  # a Friday
            ("2026-11-27 08:00", "day"),
            ("2026-11-27 18:59:59.999", "day"),
            ("2026-11-27 19:00", "night"),
            ("2026-11-29 12:00", "night"),  # Sunday: as Friday ended
            ("2026-11-30 00:00", "night"),  # Monday: the last of the week before
            ("2026-11-30 08:00", "day"),
        ],
    )
    def test_says_what_holds_by_the_wall_clock(self, at: str, holds: str) -> None:
        assert self.OFFICE.at(instant(at)) == holds

    @pytest.mark.parametrize(
        ("after", "change"),
        [
            ("2026-11-27 07:59:59", "2026-11-27 08:00"),
            ("2026-11-27 08:00", "2026-11-27 19:00"),  # not the one that is now
            ("2026-11-27 19:00", "2026-11-30 08:00"),  # over the weekend
            ("2026-12-31 20:00", "2027-01-01 08:00"),
        ],
    )
    def test_says_when_something_else_will_hold(self, after: str, change: str) -> None:
        assert self.OFFICE.next_change(instant(after)) == instant(change)

    def test_of_one_value_never_changes(self) -> None:
        assert table(("Mon-Sun", "08:00", "same")).next_change(instant("2026-11-27 08:00")) == math.inf

    def test_goes_past_a_change_to_what_holds_already(self) -> None:
        twice = table(("Mon", "08:00", "a"), ("Tue", "08:00", "a"), ("Wed", "08:00", "b"))
        assert twice.next_change(instant("2026-11-23 09:00")) == instant("2026-11-25 08:00")

    def test_takes_the_later_of_two_at_one_minute(self) -> None:
        assert table(("Mon-Sun", "08:00", "a"), ("Fri", "08:00", "b")).at(instant("2026-11-27 08:00")) == "b"


class TestTheHourThatIsSkipped:
    NIGHT = table(("Sun", "02:30", "in the gap"), ("Sun", "04:00", "after"))

    def test_what_begins_in_it_begins_at_its_end(self) -> None:
        change = self.NIGHT.next_change(instant("2026-03-29 01:00"))
        assert wall(change) == "Sun 03:00:00"
        assert self.NIGHT.at(change - 1) == "after"
        assert self.NIGHT.at(change) == "in the gap"
        assert self.NIGHT.next_change(change) == instant("2026-03-29 04:00")

    def test_hides_no_change_of_the_hours_before_it(self) -> None:
        """Of the same day, when one asks on the day before."""
        nights = table(("Sat", "05:00", "open"), ("Sun", "00:20", "closed"))
        assert wall(nights.next_change(instant("2026-03-28T20:00"))) == "Sun 00:20:00"

    def test_what_begins_and_ends_in_it_does_not_hold_that_day(self) -> None:
        short = table(("Sun", "02:10", "open"), ("Sun", "02:50", "shut"))
        assert short.next_change(instant("2026-03-29 01:00")) == instant("2026-04-05 02:10")


class TestTheHourThatComesTwice:
    NIGHT = table(("Sun", "02:30", "late"), ("Sun", "04:00", "early"))

    def test_is_gone_through_twice(self) -> None:
        first = self.NIGHT.next_change(instant("2026-10-25 01:00"))
        put_back = self.NIGHT.next_change(first)
        second = self.NIGHT.next_change(put_back)
        assert first == instant("2026-10-25 02:30", fold=0)
        assert put_back == instant("2026-10-25 02:00", fold=1)
        assert second == instant("2026-10-25 02:30", fold=1)
        assert self.NIGHT.next_change(second) == instant("2026-10-25 04:00")
        assert [self.NIGHT.at(each) for each in (first, put_back, second)] == ["late", "early", "late"]

    def test_changes_nothing_where_the_table_has_nothing_in_it(self) -> None:
        calm = table(("Sun", "01:00", "a"), ("Sun", "05:00", "b"))
        assert calm.next_change(instant("2026-10-25 01:00")) == instant("2026-10-25 05:00")


class TestOddZones:
    def test_midnight_may_be_skipped(self) -> None:
        """In Beirut, on 2026-03-29, the clock goes from 24:00 to 01:00."""
        beirut = ZoneInfo("Asia/Beirut")
        midnights = table(("Sun", "00:00", "sunday"), ("Mon", "00:00", "other"), zone=beirut)
        change = midnights.next_change(instant("2026-03-28 12:00", beirut))
        assert wall(change, beirut) == "Sun 01:00:00"

    def test_a_clock_may_be_put_by_half_an_hour(self) -> None:
        """On Lord Howe, on 2026-10-04, from 02:00 to 02:30."""
        lord_howe = ZoneInfo("Australia/Lord_Howe")
        gap = table(("Sun", "02:15", "a"), ("Sun", "03:00", "b"), zone=lord_howe)
        assert wall(gap.next_change(instant("2026-10-04 01:00", lord_howe)), lord_howe) == "Sun 02:30:00"


class TestTheMachinesZone:
    @pytest.fixture(autouse=True)
    def _berlin(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    @pytest.mark.parametrize("after", ["2026-03-29 01:00", "2026-10-25 01:00", "2026-11-27 01:00"])
    def test_is_used_where_none_is_named_in_the_same_way(self, after: str) -> None:
        assert os.environ["TZ"] == "Europe/Berlin"
        changes = ("Mon-Sun", "02:30", "a"), ("Mon-Sun", "04:00", "b")
        named, unnamed = table(*changes), table(*changes, zone=None)
        at = instant(after)
        for _ in range(4):
            assert unnamed.at(at) == named.at(at)
            assert unnamed.next_change(at) == named.next_change(at)
            at = named.next_change(at)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "Africa/Casablanca"]
)
def test_between_now_and_the_next_change_nothing_changes(zone: str) -> None:
    """Over a year, minute by minute where it may go wrong: each change is found, and none too late."""
    week = table(
        ("Mon-Fri", "00:00", "a"), ("Sun,Wed", "02:15", "b"), ("Sat-Sun", "01:45", "c"), zone=ZoneInfo(zone)
    )
    at, end = instant("2026-01-01", ZoneInfo(zone)), instant("2027-01-01", ZoneInfo(zone))
    while at < end:
        change = week.next_change(at)
        held = week.at(at)
        assert week.at(change) != held
        assert all(week.at(at + share / 97 * (change - at)) == held for share in range(97))
        assert week.at(change - 1) == held
        at = change
