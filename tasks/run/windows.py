"""The loop over a run's batches that both shells share: one window of them after another."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Final, TypeAlias

BATCHES_IN_FLIGHT: Final = 3  # so that no slot waits at a batch's edge
# The main thread never waits for longer at once: a signal that comes in the moment before a wait begins
# interrupts nothing, and is noticed only when the thread runs again.
LOOK_UP_S: Final = 0.5

# Waits for the end of one batch, so many seconds at most: whether it has ended. Raises what the batch raised.
HasEnded: TypeAlias = Callable[[float], bool]


def send_windows(batches: Iterator[int], submit: Callable[[list[int]], Sequence[HasEnded]]) -> None:
    """`submit`s each window once the one before it is under way, and waits until all have ended.

    The first windows are small, so that sending begins while the rest is still scanned.
    """
    earlier: Sequence[HasEnded] = ()
    for window in _windows(batches):
        current = submit(window)
        _await(earlier)
        earlier = current
    _await(earlier)


def _await(window: Sequence[HasEnded]) -> None:
    for has_ended in window:
        while not has_ended(LOOK_UP_S):
            pass


def _windows(batches: Iterator[int]) -> Iterator[list[int]]:
    """Of one batch, of two, and so on until all that may be in flight."""
    for size in count(1):
        window = list(islice(batches, min(size, BATCHES_IN_FLIGHT)))
        if not window:
            return
        yield window
