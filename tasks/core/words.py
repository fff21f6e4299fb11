"""Counts and durations in words, for whatever a person reads. Pure."""

import math
from typing import Final

_VOWELS: Final = "aeiou"


def counted(count: int, noun: str) -> str:
    """A count with its noun in the right number: "1 file", "2,000 files", "0 study directories"."""
    return f"{count:,} {noun if count == 1 else _plural(noun)}"


def duration(seconds: float) -> str:
    """As exact as a forecast may be, rounded up: "40 s", "12 min", "3 h 20 min", "2 days 5 h"."""
    minutes = math.ceil(seconds / 60)
    if seconds <= 60:
        return f"{max(1, math.ceil(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = math.ceil(minutes / 60)
    return f"{counted(hours // 24, 'day')} {hours % 24} h"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def one_word(detail: str) -> str:
    """A row's `detail` where that is a word; a sentence stands in the row alone."""
    return "" if " " in detail else detail
