"""Days and times of a week, by the wall clock of a time zone: what holds at an instant, and until when. Pure.

What the wall clock shows counts, as it does for rclone. So where the clock is put forward, a time in the gap
comes at the end of the gap; where it is put back, the hour that comes twice is gone through twice, and what
it began with holds again from its second start on. Instants are Unix seconds. A zone of None is the
machine's.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final, Generic, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS: Final = {spelling: day for day, name in enumerate(_NAMES) for spelling in (name, name[:3])}
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*\Z")

EVERY_DAY: Final = frozenset(range(7))  # Monday is 0
MINUTES_OF_A_DAY: Final = 24 * 60
MINUTES_OF_A_WEEK: Final = 7 * MINUTES_OF_A_DAY
_LONGEST_WAIT_DAYS: Final = 16  # a change that falls into a gap in one week comes in the next
_SAMPLED_EVERY_H: Final = 6  # a clock is put once in such a time

_T = TypeVar("_T")


def days_of(text: str) -> frozenset[int]:
    """Those that `Sat`, `Mon-Fri`, `Fri-Mon`, `Mon,Wed` or whole names mean. Raises ValueError."""
    return frozenset(day for part in text.split(",") for day in _days_of_part(part))


def minute_of_day(text: str) -> int:
    """Of a time such as 08:00, from 00:00 to 23:59. Raises ValueError."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no time of day from 00:00 to 23:59")
    return int(match[1]) * 60 + int(match[2])


def week_minute(day: int, minute: int) -> int:
    """Of the week, which begins on Monday at 00:00; a minute of the next day, or the one before, is one."""
    return (day * MINUTES_OF_A_DAY + minute) % MINUTES_OF_A_WEEK


def zone_of(name: str) -> ZoneInfo:
    """The time zone of such a name as Europe/Berlin or UTC. Raises ValueError."""
    try:
        if _ZONE.match(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: of a directory of zones, such as Europe
        pass
    raise ValueError(f"{name!r} is no time zone such as Europe/Berlin")


class WeekTable(Generic[_T]):
    """What holds from which minute of the week on, until the next one; the last of a week until the first."""

    def __init__(self, changes: Iterable[tuple[int, _T]], zone: ZoneInfo | None) -> None:
        """`changes`: one at least; of two at one minute the later one holds."""
        ordered = sorted(dict(changes).items(), key=_minute)
        self._minutes = [minute for minute, _ in ordered]
        self._values = [value for _, value in ordered]
        self.zone = zone

    def at(self, instant: float) -> _T:
        """What holds then."""
        wall = _wall_clock(instant, self.zone)
        minute = week_minute(wall.weekday(), wall.hour * 60 + wall.minute)
        return self._values[bisect_right(self._minutes, minute) - 1]  # -1: last week's last

    def next_change(self, instant: float) -> float:
        """The first instant after it from which on something else holds; infinite when nothing ever does."""
        now = self.at(instant)
        if all(value == now for value in self._values):
            return math.inf
        first = _wall_clock(instant, self.zone).date() - timedelta(days=1)
        for days in range(_LONGEST_WAIT_DAYS):
            for candidate in sorted(self._candidates(first + timedelta(days=days))):
                if candidate > instant and self.at(candidate) != now:
                    return candidate
        return math.inf

    def _candidates(self, day: date) -> Iterator[float]:
        """The instants at which the wall clock of that day shows a minute of the table, or is put."""
        begin = day.weekday() * MINUTES_OF_A_DAY
        for minute in self._minutes:
            if 0 <= minute - begin < MINUTES_OF_A_DAY:
                at = datetime.combine(day, time(*divmod(minute - begin, 60)), self.zone)
                yield from {at.timestamp(), at.replace(fold=1).timestamp()}
        begins, ends = (
            datetime.combine(each, time(), self.zone).timestamp() for each in (day, day + timedelta(days=1))
        )
        # Of this day alone: what the next one puts comes after what it has in its first hours.
        samples = [*(begins + hours * 3600 for hours in range(0, 23, _SAMPLED_EVERY_H)), ends]
        for early, late in pairwise(samples):
            if _offset_s(early, self.zone) != _offset_s(late, self.zone):
                yield _put_at(early, late, self.zone)


def _minute(change: tuple[int, object]) -> int:
    return change[0]


def _days_of_part(text: str) -> Iterator[int]:
    first, dash, last = text.lower().partition("-")
    if first not in _DAYS or (dash and last not in _DAYS):
        raise ValueError(f"{text!r} is no day, and no days such as Mon-Fri")
    day = _DAYS[first]
    yield day
    while dash and day != _DAYS[last]:
        day = (day + 1) % 7
        yield day


def _wall_clock(instant: float, zone: ZoneInfo | None) -> datetime:
    """What it shows, without a zone."""
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None)


def _offset_s(instant: float, zone: ZoneInfo | None) -> float:
    in_utc = datetime.fromtimestamp(instant, UTC).replace(tzinfo=None)
    return (_wall_clock(instant, zone) - in_utc).total_seconds()


def _put_at(early: float, late: float, zone: ZoneInfo | None) -> float:
    """The second at which the clock was put forward or back between two instants."""
    before = _offset_s(early, zone)
    low, high = math.floor(early), math.ceil(late)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset_s(middle, zone) == before else (low, middle)
    return float(high)
