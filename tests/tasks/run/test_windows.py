"""The loop over batches: what is under way while the next window is planned, and how it ends."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tasks.core.errors import StoppedError
from tasks.run.windows import send_windows


class Shell:
    """Notes what happens, in order; each batch ends at the second look at it."""

    def __init__(self, failing: int = 0) -> None:
        self.events: list[str] = []
        self._failing = failing
        self._looks: dict[int, int] = {}

    def batches(self, count: int) -> Iterator[int]:
        for number in range(1, count + 1):
            self.events.append(f"plan {number}")
            yield number

    def submit(self, window: list[int]) -> list[Callable[[float], bool]]:
        self.events.append(f"submit {' '.join(map(str, window))}")
        return [partial(self._has_ended, number) for number in window]

    def _has_ended(self, number: int, timeout_s: float) -> bool:
        assert 0 < timeout_s <= 1, "a signal would be noticed late"
        self._looks[number] = self._looks.get(number, 0) + 1
        if self._looks[number] == 1:
            return False
        if number == self._failing:
            raise StoppedError("Enough.")
        self.events.append(f"end {number}")
        return True


def test_the_next_window_is_under_way_before_the_one_before_it_is_waited_for() -> None:
    """No slot waits at a batch's edge; and no window after the next is planned meanwhile."""
    shell = Shell()
    send_windows(shell.batches(3), shell.submit)
    assert shell.events == [
        *("plan 1", "submit 1", "plan 2", "plan 3", "submit 2 3"),
        *("end 1", "end 2", "end 3"),
    ]


def test_windows_grow_so_that_sending_begins_with_the_first_batch() -> None:
    shell = Shell()
    send_windows(shell.batches(10), shell.submit)
    windows = [event.split()[1:] for event in shell.events if event.startswith("submit")]
    assert windows == [["1"], ["2", "3"], ["4", "5", "6"], ["7", "8", "9"], ["10"]]
    assert {event for event in shell.events if event.startswith("end")} == {f"end {n}" for n in range(1, 11)}


def test_nothing_follows_a_batch_that_fails() -> None:
    shell = Shell(failing=2)
    with pytest.raises(StoppedError, match="Enough"):
        send_windows(shell.batches(10), shell.submit)
    assert shell.events[-1] == "submit 4 5 6"


def test_no_batch_is_no_window() -> None:
    shell = Shell()
    send_windows(shell.batches(0), shell.submit)
    assert shell.events == []
