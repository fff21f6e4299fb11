"""When a run may begin to send files: windows of the week, by the clock on the wall of a time zone. Pure.

    Mon-Fri 19:00-06:00 Europe/Berlin           the nights of workdays, until Saturday morning
    Mon-Fri 19:00-06:00, Sat-Sun 00:00-24:00 Europe/Berlin
    19:00-06:00 America/New_York                every night

A window is open in each minute that the clock on the wall shows between its times, as rclone's timetable has
it: one that begins in the hour that daylight saving time leaves out begins when that is over, and what lies
in the hour that comes twice is there twice. Instants are Unix seconds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = "(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*"
_ITEM: Final = re.compile(
    rf"(?:(?P<first>{_DAY})(?:\s*-\s*(?P<last>{_DAY}))?)?\s*"
    r"(?:(?P<begin>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d))?\s*(?P<zone>[A-Za-z][\w+-]*(?:/[\w+-]+)*)?\Z",
    re.IGNORECASE | re.ASCII,
)
_DAY_MINUTES: Final = 24 * 60
_WEEK: Final = 7
_LOOKED_AHEAD: Final = 15  # days: a window of one day may fall into an hour that is left out
_MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of a day in one time zone, on some days of the week (0: Monday) on which they begin.

    `end` is not after `begin` where it is on the next day.
    """

    days: frozenset[int]
    begin: int
    end: int
    zone: str

    def is_open(self, at_s: float) -> bool:
        """Whether this instant lies in it."""
        local = datetime.fromtimestamp(at_s, _zone(self.zone))
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        before = (day - 1) % _WEEK
        return (day in self.days and minute >= self.begin) or (before in self.days and minute < self.end)

    def changes(self, at_s: float) -> Iterator[float]:
        """The instants of the next days at which it may open or close, in no order."""
        zone = _zone(self.zone)
        noon = datetime.fromtimestamp(at_s, zone).replace(hour=12, minute=0, second=0, microsecond=0, fold=0)
        for number in range(-1, _LOOKED_AHEAD):
            day = noon + timedelta(days=number)
            for minute in (self.begin, self.end):
                moment = day.replace(hour=0) + timedelta(minutes=minute)
                yield from (moment.replace(fold=fold).timestamp() for fold in (0, 1))
            following = day + timedelta(days=1)
            if day.utcoffset() != following.utcoffset():
                yield _transition(day.timestamp(), following.timestamp(), zone)


class _Parts(NamedTuple):
    days: frozenset[int]
    begin: int
    end: int
    zone: str


@dataclass(frozen=True, slots=True)
class Windows:
    """Some of them: open where any is. None at all is always open."""

    windows: tuple[Window, ...] = ()

    def is_open(self, at_s: float) -> bool:
        """Whether a file may start at this instant."""
        return not self.windows or any(window.is_open(at_s) for window in self.windows)

    def next_change(self, at_s: float) -> float | None:
        """The first instant after this one at which that changes; None when it never does."""
        is_open = self.is_open(at_s)
        changes = {change for window in self.windows for change in window.changes(at_s) if change > at_s}
        return next((change for change in sorted(changes) if self.is_open(change) is not is_open), None)

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
        """An instant by the clock on the wall, such as "Mon 19:00 CEST"; with the date when it is far off."""
        local = datetime.fromtimestamp(at_s, _zone(self.windows[0].zone) if self.windows else UTC)
        date = f" {local:%Y-%m-%d}" if at_s - now_s > (_WEEK - 1) * _DAY_MINUTES * _MINUTE_S else ""
        return f"{_DAYS[local.weekday()]}{date} {local:%H:%M %Z}"


def windows_of(text: str) -> Windows:
    """Those of a list, separated by commas or semicolons; none of an empty one. Raises ValueError.

    Days alone belong to the times that follow them; a time zone holds for what precedes it without one, too.
    """
    windows: list[Window] = []
    days: frozenset[int] = frozenset()
    without_zone: list[_Parts] = []
    for item in filter(None, (each.strip() for each in re.split("[,;]", text))):
        parts = _parts(item)
        days |= parts.days
        if parts.begin < 0:  # days alone
            if parts.zone or not parts.days:
                raise ValueError(_WRONG)
            continue
        without_zone.append(parts._replace(days=days or frozenset(range(_WEEK))))
        days = frozenset()
        if parts.zone:
            windows += [Window(each.days, each.begin, each.end, parts.zone) for each in without_zone]
            without_zone = []
    if days or without_zone:
        raise ValueError("ends without times" if days else "names no time zone, such as Europe/Berlin")
    return Windows(tuple(windows))


_WRONG: Final = "is no list of windows, such as Mon-Fri 19:00-06:00 Europe/Berlin"


def _parts(item: str) -> _Parts:
    found = _ITEM.match(item)
    if not found:
        raise ValueError(_WRONG)
    zone = found["zone"] or ""
    if zone and not _is_zone(zone):
        raise ValueError("names a time zone that is not known; one is Europe/Berlin")
    days = _days(found["first"], found["last"])
    if not found["begin"]:
        return _Parts(days, -1, -1, zone)
    begin, end = _minute(found["begin"]), _minute(found["end"])
    if begin % _DAY_MINUTES == end % _DAY_MINUTES and (begin, end) != (0, _DAY_MINUTES):
        raise ValueError("has a window that ends when it begins; a whole day is 00:00-24:00")
    return _Parts(days, begin % _DAY_MINUTES, end, zone)


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if not first:
        return frozenset()
    begin, end = (_DAYS.index(day[:3].capitalize()) for day in (first, last or first))
    return frozenset((begin + number) % _WEEK for number in range((end - begin) % _WEEK + 1))


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute >= 60 or 60 * hour + minute > _DAY_MINUTES:
        raise ValueError("has a time of day that is none")
    return 60 * hour + minute


def _is_zone(name: str) -> bool:
    try:
        return bool(_zone(name).key)
    except (KeyError, ValueError, OSError):  # OSError: of a directory such as Europe
        return False


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _transition(before_s: float, after_s: float, zone: ZoneInfo) -> float:
    """The minute at which the offset from UTC changes between two instants."""
    offset = datetime.fromtimestamp(before_s, zone).utcoffset()
    low, high = int(before_s // _MINUTE_S), int(after_s // _MINUTE_S)
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle * _MINUTE_S, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return float(high * _MINUTE_S)
