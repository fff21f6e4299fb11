"""Counts in words, for whatever a person reads. Pure."""

from typing import Final

_VOWELS: Final = "aeiou"


def counted(count: int, noun: str) -> str:
    """A count with its noun in the right number: "1 file", "2,000 files", "0 study directories"."""
    return f"{count:,} {noun if count == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
