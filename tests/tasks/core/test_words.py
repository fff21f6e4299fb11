"""Counts in words: one is one."""

import pytest

from tasks.core.words import counted, duration


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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.01, "1 s"),
        (59.5, "60 s"),
        (61, "2 min"),
        (3599, "1 h 0 min"),
        (3 * 3600 + 1190, "3 h 20 min"),
        (47 * 3600, "47 h 0 min"),
        (53 * 3600, "2 days 5 h"),
    ],
)
def test_a_duration_is_no_more_exact_than_a_forecast(seconds: float, words: str) -> None:
    """Rounded up."""
    assert duration(seconds) == words
