"""When a run may begin to send files: windows of the week, by the wall clock of a time zone. Pure.

    Mon-Fri 19:00-06:00 Europe/Berlin           the nights of workdays, until Saturday morning
    Mon-Fri 19:00-06:00, Sat-Sun 00:00-24:00 Europe/Berlin
    19:00-06:00 America/New_York                every night

What the wall clock shows counts (`core/week_times.py`): a window that begins in the hour that daylight
saving time leaves out begins when that is over, and what lies in the hour that comes twice is there twice.
Instants are Unix seconds.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tasks.core.week_times import (
    EVERY_DAY,
    MINUTES_OF_A_DAY,
    MINUTES_OF_A_WEEK,
    WeekTable,
    days_of,
    minute_of_day,
    week_minute,
    zone_of,
)

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = "(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*"
_ITEM: Final = re.compile(
    rf"(?P<days>{_DAY}(?:\s*-\s*{_DAY})?)?\s*"
    r"(?:(?P<begin>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d))?\s*(?P<zone>[A-Za-z][\w+-]*(?:/[\w+-]+)*)?\Z",
    re.IGNORECASE | re.ASCII,
)
_WRONG: Final = "is no list of windows, such as Mon-Fri 19:00-06:00 Europe/Berlin"
_LOOKED_AHEAD_S: Final = 17 * 24 * 3600  # what one week leaves out comes in the next
_DATED_AFTER_S: Final = 6 * 24 * 3600  # an instant so far off is said with its date


@dataclass(frozen=True, slots=True)
class Windows:
    """Some of them, those of one time zone in one table: open where any is. None at all is always open."""

    tables: tuple[WeekTable[bool], ...] = ()

    def is_open(self, at_s: float) -> bool:
        """Whether a file may start at this instant."""
        return not self.tables or any(table.at(at_s) for table in self.tables)

    def next_change(self, at_s: float) -> float | None:
        """The first instant after this one at which that changes; None when it never does."""
        is_open, until_s = self.is_open(at_s), at_s + _LOOKED_AHEAD_S
        while (at_s := min((table.next_change(at_s) for table in self.tables), default=math.inf)) < until_s:
            if self.is_open(at_s) is not is_open:
                return at_s
        return None

    def when_done(self, at_s: float, work_s: float) -> float | None:
        """The instant at which work of so many seconds is done that begins now; None: never.

        It rests while they are closed.
        """
        while True:
            change = self.next_change(at_s)
            if self.is_open(at_s):
                if change is None or at_s + work_s <= change:
                    return at_s + work_s
                work_s -= change - at_s
            elif change is None:
                return None
            at_s = change

    def in_words(self, at_s: float, now_s: float) -> str:
        """An instant by the wall clock, such as "Mon 19:00 CEST"; with the date when it is far off."""
        local = datetime.fromtimestamp(at_s, self.tables[0].zone if self.tables else ZoneInfo("UTC"))
        date = f" {local:%Y-%m-%d}" if at_s - now_s > _DATED_AFTER_S else ""
        return f"{_DAYS[local.weekday()]}{date} {local:%H:%M %Z}"


class _Window(NamedTuple):
    """Minutes of a day, on some days on which they begin; `end` is not after `begin` on the next day."""

    days: frozenset[int]
    begin: int
    end: int


def windows_of(text: str) -> Windows:
    """Those of a list, separated by commas or semicolons; none of an empty one. Raises ValueError.

    Days alone belong to the times that follow them; a time zone holds for what precedes it without one, too.
    """
    by_zone: dict[str, list[_Window]] = {}
    days: frozenset[int] = frozenset()
    without_zone: list[_Window] = []
    for item in filter(None, (each.strip() for each in re.split("[,;]", text))):
        if not (found := _ITEM.match(item)):
            raise ValueError(_WRONG)
        if found["days"]:
            days |= _days(found["days"])
        if found["begin"]:
            without_zone.append(_Window(days or EVERY_DAY, *_times(found["begin"], found["end"])))
            days = frozenset()
        elif found["zone"] or not found["days"]:
            raise ValueError(_WRONG)
        if found["zone"]:
            by_zone.setdefault(found["zone"], []).extend(without_zone)
            without_zone = []
    if days or without_zone:
        raise ValueError("ends without times" if days else "names no time zone, such as Europe/Berlin")
    return Windows(tuple(_tables(by_zone)))


def _tables(by_zone: Mapping[str, list[_Window]]) -> Iterator[WeekTable[bool]]:
    for name, windows in by_zone.items():
        is_open = bytearray(MINUTES_OF_A_WEEK)
        for window in windows:
            lasts = window.end - window.begin + (MINUTES_OF_A_DAY if window.end <= window.begin else 0)
            for day in window.days:
                for minute in range(window.begin, window.begin + lasts):
                    is_open[week_minute(day, minute)] = True
        changes = [0, *(minute for minute, (one, other) in enumerate(pairwise(is_open), 1) if one != other)]
        yield WeekTable([(minute, bool(is_open[minute])) for minute in changes], _zone(name))


def _days(text: str) -> frozenset[int]:
    try:
        return days_of("".join(text.split()))
    except ValueError:
        raise ValueError(_WRONG) from None


def _times(begin: str, end: str) -> tuple[int, int]:
    try:
        first = minute_of_day(begin.zfill(5))
        last = MINUTES_OF_A_DAY if end == "24:00" else minute_of_day(end.zfill(5))
    except ValueError:
        raise ValueError("has a time of day that is none") from None
    if first == last:
        raise ValueError("has a window that ends when it begins; a whole day is 00:00-24:00")
    return first, last


def _zone(name: str) -> ZoneInfo:
    try:
        return zone_of(name)
    except ValueError:
        raise ValueError("names a time zone that is not known; one is Europe/Berlin") from None
