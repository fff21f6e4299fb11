"""Counts in words: one is one."""

import pytest

from tasks.core.words import counted


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (1, "file", "1 file"),
        (0, "file", "0 files"),
        (12_431, "file", "12,431 files"),
        (1, "study", "1 study"),
        (2, "study", "2 studies"),
        (1, "study directory", "1 study directory"),
        (3, "study directory", "3 study directories"),
        (2, "day", "2 days"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
    ],
)
def test_a_count_has_its_noun_in_the_right_number(count: int, noun: str, words: str) -> None:
    assert counted(count, noun) == words
