"""How fast a run may send, by the week: a rate, or rclone's timetable. Pure.

    200M                                            always the same
    off                                             no limit; so is 0
    08:00,512k 19:00,off                            every day
    Mon-Fri 08:00,20M 19:00,off Europe/Berlin       days hold for times after them; zone last or first
    Mon-08:00,20M Fri-19:00,off                     as rclone writes days

Rates are bytes a second, sizes as rclone has them: B, k, M, G, T, P, E are powers of 1024, a number alone is
KiB. Before the first change of a week what the last one began holds on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tasks.core.week_times import EVERY_DAY, WeekTable, days_of, minute_of_day, week_minute, zone_of

OFF: Final = "off"
_RATE: Final = re.compile(r"(\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})(?:([kmgtpe])(?:ib?)?|(b))?\Z", re.ASCII | re.I)
_POWERS: Final = {suffix: power for power, suffix in enumerate("kmgtpe", 1)}
_ENTRY: Final = re.compile(r"(?:([A-Za-z][A-Za-z,-]*)-)?([^,-]+),([^,]+)\Z")
_DAYS: Final = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*(?:[,-][a-z]+)*\Z", re.I)
_UNITS: Final = ("B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", "PiB/s", "EiB/s")
_LONGEST: Final = 4000  # characters

Rate = int | None  # bytes a second; None: as fast as can be


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What was asked for. Instants are Unix seconds."""

    text: str
    _table: WeekTable[Rate]

    def rate_at(self, instant: float) -> Rate:
        """What is in force then."""
        return self._table.at(instant)

    def next_change(self, instant: float) -> float:
        """From when on another rate is; infinite when none ever is."""
        return self._table.next_change(instant)


def bandwidth_of(text: str) -> Bandwidth:
    """What a text asks for; nothing, where it is empty. Raises ValueError."""
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    words = text.replace(";", " ").split()
    if len(words) == 1 and "," not in words[0]:
        return always(rate_of(words[0]), text)
    zone = None
    for at in (0, -1):
        if words and not ("," in words[at] or _DAYS.match(words[at])):
            zone = zone_of(words.pop(at))
            break
    if not words:
        return always(None, text)
    return Bandwidth(text, WeekTable(_changes(words), zone))


def always(rate: Rate, text: str = "") -> Bandwidth:
    """One rate, whenever."""
    return Bandwidth(text or OFF, WeekTable([(0, rate)], None))


def rate_of(text: str) -> Rate:
    """Bytes a second. Raises ValueError."""
    if ":" in text:
        raise ValueError(f"{text!r} has two rates: what is sent is limited alone, so give one, such as 10M")
    if text.lower() == OFF:
        return None
    match = _RATE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no rate in bytes a second, such as 200M, 512k or off")
    number, suffix, in_bytes = match.groups()
    power = 0 if in_bytes else _POWERS[suffix.lower()] if suffix else 1
    rate = float(number) * 1024**power
    if 0 < rate < 1:
        raise ValueError(f"{text!r} is less than a byte a second")
    return int(rate) or None


def in_words(rate: Rate) -> str:
    """Such as "20 MiB/s", or "off"."""
    if rate is None:
        return OFF
    power = max(0, min(len(_UNITS) - 1, (rate.bit_length() - 1) // 10))
    return f"{round(rate / 1024**power, 3):,.15g} {_UNITS[power]}"


def part_of(rate: Rate, slots: int, of_slots: int) -> Rate:
    """What so many of a run's slots may send of its rate: a byte a second at the least."""
    return None if rate is None else max(1, rate * slots // of_slots)


def _changes(words: list[str]) -> Iterator[tuple[int, Rate]]:
    days, is_used = EVERY_DAY, True
    for word in words:
        if _DAYS.match(word):
            days, is_used = days_of(word), False
            continue
        match = _ENTRY.match(word)
        if match is None:
            raise ValueError(f"{word!r} is no time and rate, such as 08:00,20M or Mon-08:00,20M")
        is_used = True
        minute, rate = minute_of_day(match[2]), rate_of(match[3])
        for day in days_of(match[1]) if match[1] else days:
            yield week_minute(day, minute), rate
    if not is_used:
        raise ValueError(f"{words[-1]!r} is followed by no time and rate, such as 08:00,20M")
