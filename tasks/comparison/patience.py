"""How often a side is asked again, and when it is given up: it may be down for hours."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.errors import Fault
from tasks.core.retry import backoff_s

_TRIES: Final = 6
_LONGEST_S: Final = 60.0  # whatever Retry-After says
_GIVEN_UP: Final = 3  # in a row: from then on each is asked once
_OVER: Final = 20  # in a row: from then on nothing is asked any more


@dataclass(slots=True)
class Patience:
    """Of one side. Questions that got no answer, between which none did, are counted."""

    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    given_up: int = 0
    answered: int = 0
    last: Fault | None = None  # for which a question has no answer

    @property
    def is_over(self) -> bool:
        """Whether the side does not answer at all: what is left to ask is not known."""
        return self.given_up >= _OVER

    def pause_s(self, fault: Fault, seen: int) -> float | None:
        """How long to wait after the `seen`-th fault of a question, from 1; None: it has no answer."""
        self.last = fault
        if fault.kind not in TRANSIENT or seen >= _TRIES or self.given_up >= _GIVEN_UP:
            return None
        return min(_LONGEST_S, backoff_s(fault, seen, self.jitter()))

    def record(self, *, is_answered: bool) -> None:
        """The end of a question."""
        self.answered += is_answered
        self.given_up = 0 if is_answered else self.given_up + 1
