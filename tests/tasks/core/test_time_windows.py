"""Windows of the week: when they are open, by the clock on the wall, over midnight and daylight saving time.

The oracle is rclone's timetable (fs/bwtimetable.go): it compares weekday, hour and minute of the local clock,
and nothing else.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.time_windows import Windows, windows_of

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def instant(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def local(at_s: float | None, zone: str = BERLIN) -> str:
    return (
        "never"
        if at_s is None
        else datetime.fromtimestamp(at_s, ZoneInfo(zone)).isoformat(timespec="minutes")
    )


NIGHTS = f"Mon-Fri 19:00-06:00 {BERLIN}"


@pytest.mark.parametrize(
    ("text", "at", "is_open", "changes"),
    [
        # 2026-11-27 is a Friday.
        (NIGHTS, "2026-11-27T18:59:59", False, "2026-11-27T19:00+01:00"),
        (NIGHTS, "2026-11-27T19:00", True, "2026-11-28T06:00+01:00"),
        (NIGHTS, "2026-11-28T00:00", True, "2026-11-28T06:00+01:00"),
        (NIGHTS, "2026-11-28T05:59:59", True, "2026-11-28T06:00+01:00"),
        (NIGHTS, "2026-11-28T06:00", False, "2026-11-30T19:00+01:00"),
        (NIGHTS, "2026-11-30T03:00", False, "2026-11-30T19:00+01:00"),
        (f"19:00-06:00 {BERLIN}", "2026-11-29T03:00", True, "2026-11-29T06:00+01:00"),
        (f"Sat-Sun 00:00-24:00 {BERLIN}", "2026-11-28T00:00", True, "2026-11-30T00:00+01:00"),
        (f"Fri-Mon 08:00-09:00 {BERLIN}", "2026-11-24T08:30", False, "2026-11-27T08:00+01:00"),
        (f"Mon,Wed 08:00-09:00 {BERLIN}", "2026-11-25T08:30", True, "2026-11-25T09:00+01:00"),
        (f"Sun 20:00-24:00 {BERLIN}", "2026-11-29T23:59", True, "2026-11-30T00:00+01:00"),
        (f"monday-friday 19:00 - 06:00 {BERLIN}", "2026-11-27T19:00", True, "2026-11-28T06:00+01:00"),
        (f"Mon-Fri 19:00-06:00; Sat-Sun 00:00-24:00 {BERLIN}", "2026-11-28", True, "2026-11-30T00:00+01:00"),
        (f"00:00-12:00, 12:00-24:00 {BERLIN}", "2026-11-27T20:00", True, "never"),
        ("00:00-12:00 UTC; 12:00-24:00 Etc/GMT", "2026-11-27T20:00", True, "never"),
        ("", "2026-11-27T20:00", True, "never"),
        (f"Sat 05:00-00:20 {BERLIN}", "2026-03-28T20:00", True, "2026-03-29T00:20+01:00"),
        # The hour that is left out: 02:00 to 03:00 on 2026-03-29.
        (f"02:30-05:00 {BERLIN}", "2026-03-29T01:59:59", False, "2026-03-29T03:00+02:00"),
        (f"01:00-02:30 {BERLIN}", "2026-03-29T01:59:59", True, "2026-03-29T03:00+02:00"),
        (f"Sun 02:15-02:45 {BERLIN}", "2026-03-29T01:00", False, "2026-04-05T02:15+02:00"),
        (NIGHTS, "2026-03-27T20:00", True, "2026-03-28T06:00+01:00"),
        (f"19:00-06:00 {BERLIN}", "2026-03-28T20:00", True, "2026-03-29T06:00+02:00"),
        # The hour that comes twice: 02:00 to 03:00 on 2026-10-25.
        (f"02:30-05:00 {BERLIN}", "2026-10-25T02:00", False, "2026-10-25T02:30+02:00"),
        (f"02:30-05:00 {BERLIN}", "2026-10-25T02:30", True, "2026-10-25T02:00+01:00"),
        (f"19:00-02:30 {BERLIN}", "2026-10-25T02:29", True, "2026-10-25T02:30+02:00"),
        (f"19:00-02:30 {BERLIN}", "2026-10-25T02:30", False, "2026-10-25T02:00+01:00"),
        (f"19:00-06:00 {BERLIN}", "2026-10-24T20:00", True, "2026-10-25T06:00+01:00"),
    ],
)  # fmt: skip
def test_is_open_and_changes(text: str, at: str, is_open: bool, changes: str) -> None:
    windows, at_s = windows_of(text), instant(at)
    assert windows.is_open(at_s) is is_open
    assert local(windows.next_change(at_s)) == changes


@pytest.mark.parametrize(
    ("at", "is_open", "changes"),
    [
        ("2026-03-08T01:59", False, "2026-03-08T03:00-04:00"),
        ("2026-11-01T01:30", True, "2026-11-01T01:00-05:00"),
    ],
)
def test_goes_by_the_clock_of_its_own_zone(at: str, is_open: bool, changes: str) -> None:
    """New York's change is on another day, and at 2 o'clock of its own."""
    windows = windows_of(f"02:10-04:00, 01:15-01:45 {NEW_YORK}")
    assert windows.is_open(instant(at, NEW_YORK)) is is_open
    assert (
        local(windows.next_change(instant("2026-03-08T01:50", NEW_YORK)), NEW_YORK)
        == "2026-03-08T03:00-04:00"
    )
    assert (
        local(windows.next_change(instant("2026-11-01T01:45", NEW_YORK)), NEW_YORK)
        == "2026-11-01T01:15-05:00"
    )
    assert changes


def test_of_two_zones_are_open_where_one_is() -> None:
    windows = windows_of(f"19:00-20:00 {BERLIN}; 19:00-20:00 {NEW_YORK}")
    assert windows.is_open(instant("2026-11-27T19:30"))
    assert windows.is_open(instant("2026-11-27T19:30", NEW_YORK))
    assert not windows.is_open(instant("2026-11-27T12:00"))


def changes_between(windows: Windows, from_s: float, to_s: float) -> list[float]:
    found, at = [], windows.next_change(from_s)
    while at is not None and at < to_s:
        found.append(at)
        at = windows.next_change(at)
    return found


def by_the_wall(text: str, at_s: float, zone: str) -> bool:
    """As rclone looks at it: each day of each window, minute by minute."""
    now = datetime.fromtimestamp(at_s, ZoneInfo(zone))
    today, minute = now.weekday(), 60 * now.hour + now.minute
    open_minutes: set[tuple[int, int]] = set()
    for item in text.removesuffix(f" {zone}").split(", "):
        days, times = item.split(" ")
        first, last = (DAYS.index(day) for day in days.split("-"))
        begin, end = (60 * int(each[:2]) + int(each[3:]) for each in times.split("-"))
        length = (end - begin) if end > begin else end + 1440 - begin
        for number in range((last - first) % 7 + 1):
            for passed in range(length):
                day, over = divmod(begin + passed, 1440)
                open_minutes.add(((first + number + day) % 7, over))
    return (today, minute) in open_minutes


TIMES = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
ITEMS = st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS), TIMES, TIMES).filter(
    lambda item: item[2] != item[3]
)


@pytest.mark.long
@settings(max_examples=8, deadline=None)
@given(
    st.lists(ITEMS, min_size=1, max_size=2),
    st.sampled_from([BERLIN, NEW_YORK]),
    st.sampled_from(["2026-03-28", "2026-10-24", "2026-03-07", "2026-10-31", "2026-11-27"]),
)
def test_agree_with_a_look_at_every_minute(items: list[tuple[str, ...]], zone: str, day: str) -> None:
    """Around the changes of both zones: is open, and when it changes next."""
    written = [f"{first}-{last} {begin}-{end}" for first, last, begin, end in items]
    text = f"{', '.join(written)} {zone}"
    windows = windows_of(text)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    minutes = [(begin + timedelta(minutes=number)).timestamp() for number in range(48 * 60)]
    looks = [by_the_wall(text, at, zone) for at in minutes[::7]]
    assert [windows.is_open(at) for at in minutes[::7]] == looks
    found = changes_between(windows, minutes[0], minutes[-1] + 60)
    expected = [at for before, at in pairwise(minutes) if windows.is_open(before) is not windows.is_open(at)]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Mon-Fri 19:00-06:00", "names no time zone"),
        ("Mon-Fri 19:00-06:00 Europe/Atlantis", "that is not known"),
        ("Mon-Fri 19:00-06:00 Europe", "that is not known"),
        ("Mon-Fri 19:00-06:00 ../../etc/passwd", "is no list of windows"),
        ("Mon-Fri", "ends without times"),
        (f"Mon {BERLIN}", "is no list of windows"),
        (f"19:00-25:00 {BERLIN}", "a time of day that is none"),
        (f"19:60-20:00 {BERLIN}", "a time of day that is none"),
        (f"19:00-19:00 {BERLIN}", "ends when it begins"),
        (f"24:00-00:00 {BERLIN}", "a time of day that is none"),
        (f"Funday 19:00-20:00 {BERLIN}", "is no list of windows"),
        ("always", "is no list of windows"),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        windows_of(text)


def test_say_when_work_will_be_done() -> None:
    """It rests while they are closed: for a forecast."""
    nights = windows_of(NIGHTS)
    friday = instant("2026-11-27T12:00")
    assert local(nights.when_done(friday, 3600)) == "2026-11-27T20:00+01:00"
    assert local(nights.when_done(friday, 12 * 3600)) == "2026-11-30T20:00+01:00"
    assert local(nights.when_done(friday, 11 * 3600)) == "2026-11-28T06:00+01:00"
    assert Windows().when_done(friday, 60) == friday + 60


def test_are_said_by_the_clock_on_the_wall() -> None:
    nights, now = windows_of(NIGHTS), instant("2026-07-03T12:00")
    assert nights.in_words(instant("2026-07-06T19:00"), now) == "Mon 19:00 CEST"
    assert nights.in_words(instant("2026-07-20T19:00"), now) == "Mon 2026-07-20 19:00 CEST"
