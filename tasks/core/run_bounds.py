"""What an operator may bound a run by, and how a duration is written. Pure."""

import re
from enum import StrEnum
from typing import Final

DURATION: Final = r"^(|[0-9]{1,9}|([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?)$"
_UNITS_S: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class Bound(StrEnum):
    """What ended a run in order, before all was done: the next one goes on."""

    NONE = ""
    MAX_FILES = "max_files"
    MAX_DURATION = "max_duration"
    WINDOW = "window"


def duration_s(text: str) -> int | None:
    """Seconds: of `8h`, `90m`, `1h30m`, `2d`, or of a plain number of them; None of nothing.

    Raises ValueError.
    """
    if not re.match(DURATION, text):
        raise ValueError("is a duration, such as 8h, 90m, 1h30m, or seconds")
    if not text:
        return None
    if text.isdecimal():
        return int(text)
    return sum(int(count) * _UNITS_S[unit] for count, unit in re.findall(r"([0-9]+)([dhms])", text))
