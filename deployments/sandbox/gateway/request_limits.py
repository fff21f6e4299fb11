"""How often, and how many at the same time: what a request is refused by before its body is read."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import HTTPException


class Rate:
    """So many requests a second in the long run; as many at once after a pause. 0: any number."""

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left, self._at = float(per_s), clock()

    def take(self) -> None:
        """Counts one request. Raises 429 with Retry-After when it is one too many."""
        if not self._per_s:
            return
        now = self._clock()
        self._left = min(float(self._per_s), self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            wait_s = math.ceil((1 - self._left) / self._per_s)
            raise HTTPException(429, "too many requests", {"Retry-After": str(wait_s)})
        self._left -= 1


class AtOnce:
    """So many at the same time."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def one(self) -> Iterator[None]:
        """While the block lasts. Raises 503 with Retry-After when there are so many."""
        if not self._left:
            raise HTTPException(503, "too many requests at the same time", {"Retry-After": "1"})
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1
