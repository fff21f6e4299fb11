"""The slots: at most `parallel` PUTs at once over the whole process, and URLs minted just in time.

A worker takes a *place* when its file is read, hashed and claimed; in it, it asks for a URL and then waits
for a *slot* to PUT. There are as many places as slots, plus those whose URL will be ready just as a slot
falls free: presign time x slots / PUT time. So no slot waits for a URL, and no URL waits long for a slot,
however long one PUT may last.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.core.errors import InterruptedRunError

_SMOOTHING = 0.1  # weight of the newest measurement in the moving averages


class Slots:
    """Shared by all workers of a process."""

    def __init__(self, parallel: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = parallel
        self._clock = clock
        self._lock = threading.Lock()
        self._place_free = threading.Condition(self._lock)
        self._slot_free = threading.Condition(self._lock)
        self._places = 0
        self._busy = 0
        self._presign_s = 0.0
        self._put_s = 0.0
        self._closed = False
        self.peak = 0  # most PUTs that were under way at once

    @property
    def busy(self) -> int:
        """PUTs under way."""
        return self._busy

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room to hold one URL, from asking for it to the end of its PUT."""
        with self._lock:
            while self._places >= self._limit + self._ahead() and not self._closed:
                self._place_free.wait()
            self._refuse_when_closed()
            self._places += 1
        try:
            yield
        finally:
            with self._lock:
                self._places -= 1
                self._place_free.notify()

    @contextmanager
    def minting(self) -> Iterator[None]:
        """Around asking for a URL, to learn how long that takes."""
        began = self._clock()
        yield
        with self._lock:
            self._presign_s = _moved(self._presign_s, self._clock() - began)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Around a PUT."""
        with self._lock:
            while self._busy >= self._limit and not self._closed:
                self._slot_free.wait()
            self._refuse_when_closed()
            self._busy += 1
            self.peak = max(self.peak, self._busy)
        began = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._put_s = _moved(self._put_s, self._clock() - began)
                self._slot_free.notify()

    def close(self) -> None:
        """Let nobody in any more: whoever waits, or comes, gets InterruptedRunError."""
        with self._lock:
            self._closed = True
            self._place_free.notify_all()
            self._slot_free.notify_all()

    def _ahead(self) -> int:
        if not self._put_s:
            return 1
        return min(self._limit, 1 + math.ceil(self._limit * self._presign_s / self._put_s))

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise InterruptedRunError("The run is stopping.")


def _moved(average: float, newest: float) -> float:
    return newest if not average else average + _SMOOTHING * (newest - average)
