"""Counts and durations in words, for whatever a person reads. Pure."""

import math
from typing import Final

_VOWELS: Final = "aeiou"
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


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


def of_bytes(part: int, whole: int) -> str:
    """So many bytes of all, in the unit of all: "6.2 of 154.7 MiB", "0 of 512 bytes"."""
    if not (power := _power(whole)):
        return f"{part:,} of {counted(whole, 'byte')}"
    scale = 1024**power
    return f"{part / scale:,.1f} of {whole / scale:,.1f} {_UNITS[power]}"


def byte_count(count: int) -> str:
    """So many bytes in a unit that suits: "154.7 MiB", "512 bytes"."""
    power = _power(count)
    return f"{count / 1024**power:,.1f} {_UNITS[power]}" if power else counted(count, "byte")


def _power(count: int) -> int:
    return min(len(_UNITS) - 1, max(0, count.bit_length() - 1) // 10)


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def one_word(detail: str) -> str:
    """A row's `detail` where that is a word; a sentence stands in the row alone."""
    return "" if " " in detail else detail
