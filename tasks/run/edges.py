"""What a run has of the world around it, beside disk and network: clocks, chance, and how long it waits.

Tests pass others, so that they neither sleep nor patch.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tasks.core.plan import batch_target
from tasks.ledger.liveness import awake_or_asleep
from tasks.upload.uploader import GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """`clock` is monotonic, in seconds; `clock_ns` gives Unix nanoseconds; `jitter` draws from [0, 1)."""

    clock: Callable[[], float] = time.monotonic
    clock_ns: Callable[[], int] = time.time_ns
    elapsed: Callable[[], float] = awake_or_asleep  # as `clock`, and a suspended machine does not stop it
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    grace_s: float = GRACE_S  # how long PUTs under way may last after a stop
    longest_pause_s: float = 10.0  # before the API is asked again at the start, whatever Retry-After says
    announced_after_s: float = 3.0  # that a person who waits at the start is given the reason
    batch_target: Callable[[int], int] = batch_target  # how many files to do fill the batch of a number
    rows_at_once: int = 1000  # of the scan, in one commit


REAL: Final = Edges()
