"""Rates and timetables: what rclone's own tests say of them, and what it has not."""

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.bandwidth import bandwidth_of, in_words, part_of, rate_of

K, M = 1024, 1024**2


def utc(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


class TestARate:
    @pytest.mark.parametrize(
        ("text", "rate"),
        [
            ("200M", 200 * M),
            ("200m", 200 * M),
            ("666", 666 * K),  # rclone's: a number alone is KiB
            ("10b", 10),
            ("1B", 1),
            ("512k", 512 * K),
            ("10Mi", 10 * M),
            ("10MiB", 10 * M),
            ("1G", 1024 * M),
            ("0.625M", 655360),  # of rclone's documentation
            (".5k", 512),
            ("1.b", 1),
            ("off", None),
            ("OFF", None),
            ("0", None),
            ("0M", None),
        ],
    )
    def test_is_bytes_a_second_in_powers_of_1024(self, text: str, rate: int | None) -> None:
        assert rate_of(text) == rate
        assert bandwidth_of(text).rate_at(0.0) == rate
        assert bandwidth_of(text).next_change(0.0) == math.inf

    @pytest.mark.parametrize(
        "text", ["1000X", "bad", "-1M", "1e3", "inf", "10MB", "10Mbit", "10 M", "\u0661M", "M", "b", "."]
    )
    def test_is_nothing_else(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no "):
            bandwidth_of(text)

    def test_is_for_what_is_sent_alone(self) -> None:
        for text in ("666:333", "10M:off", "10:20,666:333"):
            with pytest.raises(ValueError, match="has two rates: what is sent is limited alone"):
                bandwidth_of(text)

    def test_is_a_byte_a_second_at_the_least(self) -> None:
        """As rclone reads it this would be no limit at all."""
        with pytest.raises(ValueError, match="is less than a byte a second"):
            bandwidth_of("0.1b")

    @pytest.mark.parametrize(
        ("rate", "words"),
        [
            (20 * M, "20 MiB/s"),
            (1, "1 B/s"),
            (1536, "1.5 KiB/s"),
            (1023, "1,023 B/s"),
            (None, "off"),
            (1024**6, "1 EiB/s"),
        ],
    )
    def test_is_said_in_words(self, rate: int | None, words: str) -> None:
        assert in_words(rate) == words

    def test_is_divided_by_slots(self) -> None:
        assert [part_of(100, slots, 20) for slots in (20, 5, 1)] == [100, 25, 5]
        assert (part_of(1, 1, 20), part_of(None, 1, 20)) == (1, None)

    @given(st.integers(1, 10**12), st.integers(1, 20))
    def test_is_never_exceeded_by_its_parts(self, rate: int, slots: int) -> None:
        parts = [part_of(rate + 20, slots, 20), part_of(rate + 20, 20 - slots, 20) if slots < 20 else 0]
        assert sum(filter(None, parts)) <= rate + 20


# TestBwTimetableSet and TestBwTimetableLimitAt of rclone's fs/bwtimetable_test.go, what is sent alone.
DAILY = "11:00,333 13:00,666 23:01,1M 23:50,off"
WEEKLY = "Mon-11:00,333 Tue-13:40,666 Fri-00:00,10M Sat-10:00,off Sun-23:00,666"


class TestRclonesTimetable:
    @pytest.mark.parametrize(
        "text",
        ["bad,bad", "bad bad", "2401,666", "1061,666", "bad-10:20,666", "Mon-bad,666", "Mon-10:20,bad"],
    )
    def test_is_refused_where_it_refuses_it(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is no |no time zone"):
            bandwidth_of(text)

    @pytest.mark.parametrize(
        ("text", "at", "rate"),
        [
            ("Sun-11:00,333 Mon-11:00,333 Thu-11:00,333", utc(2017, 4, 20, 15), 333 * K),
            (DAILY, utc(2017, 4, 20, 10, 15), None),  # since yesterday 23:50
            (DAILY, utc(2017, 4, 20, 11), 333 * K),
            (DAILY, utc(2017, 4, 20, 13, 1), 666 * K),
            (DAILY, utc(2017, 4, 20, 23, 59), None),
            (WEEKLY, utc(2017, 4, 20, 23, 59), 666 * K),  # Thursday: since Tuesday
            (WEEKLY, utc(2017, 4, 21, 23, 59), 10 * M),
            (WEEKLY, utc(2017, 4, 17, 10, 59), 666 * K),  # Monday: since Sunday
        ],
    )
    def test_says_at_each_moment_what_rclone_says(self, text: str, at: float, rate: int | None) -> None:
        assert bandwidth_of(f"{text} UTC").rate_at(at) == rate

    def test_may_have_semicolons(self) -> None:
        """For Docker, as rclone's documentation has it."""
        either = (
            "08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off UTC",
            "08:00,512k;12:00,10M;13:00,512k;18:00,30M;23:00,off;UTC",
        )
        hours = (0, 8, 12, 13, 18, 23)
        for text in either:
            rates = [bandwidth_of(text).rate_at(utc(2026, 11, 27, hour)) for hour in hours]
            assert rates == [None, 512 * K, 10 * M, 512 * K, 30 * M, None]

    def test_has_times_without_a_day_every_day(self) -> None:
        asked = bandwidth_of("Mon-00:00,512 12:00,1M Sun-20:00,off UTC")
        sunday = [asked.rate_at(utc(2026, 11, 29, hour)) for hour in (11, 12, 20)]
        monday = [asked.rate_at(utc(2026, 11, 30, hour)) for hour in (0, 12)]
        assert sunday + monday == [1 * M, 1 * M, None, 512 * K, 1 * M]

    def test_of_times_at_one_minute_has_the_later_one(self) -> None:
        assert bandwidth_of("08:00,1M Fri-08:00,2M UTC").rate_at(utc(2026, 11, 27, 8)) == 2 * M


class TestDaysBeforeTimes:
    OFFICE = "Mon-Fri 08:00,20M 19:00,off"

    @pytest.mark.parametrize("text", [f"{OFFICE} Europe/Berlin", f"Europe/Berlin {OFFICE}"])
    def test_hold_for_all_times_after_them_in_the_named_zone(self, text: str) -> None:
        asked, berlin = bandwidth_of(text), ZoneInfo("Europe/Berlin")
        friday = datetime(2026, 11, 27, 18, 59, tzinfo=berlin).timestamp()
        assert asked.rate_at(friday) == 20 * M
        assert asked.rate_at(friday + 60) is None
        assert asked.next_change(friday + 60) == datetime(2026, 11, 30, 8, tzinfo=berlin).timestamp()
        assert asked.text == text

    def test_hold_until_others_are_named(self) -> None:
        asked = bandwidth_of("Mon-Thu 08:00,1M Fri,Sat 09:00,2M Sun-10:00,3M 12:00,4M UTC")
        friday = [asked.rate_at(utc(2026, 11, 27, hour)) for hour in (8, 9, 12)]
        sunday = [asked.rate_at(utc(2026, 11, 29, hour)) for hour in (9, 10, 12)]
        assert friday + sunday == [1 * M, 2 * M, 4 * M, 4 * M, 3 * M, 3 * M]

    def test_need_a_time(self) -> None:
        with pytest.raises(ValueError, match="'Sat' is followed by no time and rate"):
            bandwidth_of("Mon-Fri 08:00,20M Sat")

    def test_without_a_zone_are_the_machines(self) -> None:
        assert bandwidth_of(self.OFFICE).rate_at(utc(2026, 11, 25, 12)) in (20 * M, None)

    @pytest.mark.parametrize(
        "text", [f"{OFFICE} Europe/Nowhere", f"{OFFICE} CET Europe/Berlin", f"CET {OFFICE} CET"]
    )
    def test_have_one_zone_that_is_known(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no "):
            bandwidth_of(text)


def test_nothing_is_no_limit() -> None:
    assert bandwidth_of("").rate_at(0.0) is None
    assert bandwidth_of("  ").next_change(0.0) == math.inf


@given(st.text("0123456789:,;- kMbofFMonFriSatUTC/", max_size=40))
def test_whatever_is_given_is_understood_or_refused_by_a_sentence(text: str) -> None:
    try:
        asked = bandwidth_of(text)
    except ValueError as refused:
        assert "is " in str(refused) or "has " in str(refused)
    else:
        assert asked.next_change(0.0) > 0
