"""The slots: at most `parallel` PUTs at once over the whole process, and URLs minted just in time.

A worker takes a *place* when its file is read, hashed and claimed; in it, it asks for a URL and then waits
for a *slot* to PUT. There are as many places as slots, plus those whose URL will be ready just as a slot
falls free: presign time x slots / PUT time. So no slot waits for a URL, and no URL waits long for a slot,
however long one PUT may last. Who may enter at all, the far side's weather decides.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT, CircuitBreaker
from tasks.core.concurrency_limit import ConcurrencyLimit
from tasks.core.errors import Fault, FaultKind, InterruptedRunError
from tasks.core.platform_state import PlatformState, Step
from tasks.turn import waiting

_SMOOTHING: Final = 0.1  # weight of the newest measurement in the moving averages
_LONGEST_WAIT_S: Final = 0.1  # of a URL for a slot, where PUTs are shorter than that; else one PUT
_FAILING_AFTER: Final = 3  # requests in a row, where others are under way
_LONGEST_COURSE: Final = 200  # changes of the limit that are kept for the summary


class Slots:
    """Shared by all workers of a process. Times by `clock`, in seconds."""

    def __init__(
        self, parallel: int, clock: Callable[[], float] = time.monotonic, began: float | None = None
    ) -> None:
        """`began`: when the run did, by the clock; now when not given."""
        self._clock = clock
        self.began = clock() if began is None else began
        self._lock = threading.Lock()
        self._place_free = threading.Condition(self._lock)
        self._slot_free = threading.Condition(self._lock)
        self._throttle = ConcurrencyLimit(parallel)
        self._breaker = CircuitBreaker(threshold=max(5, parallel))
        self._places = 0
        self._busy = 0
        self._waiting = 0  # for a slot
        self._waiting_for_place = 0
        self._usual_s = dict.fromkeys(Step, 0.0)  # moving average of how long each takes
        self._closed = False
        self._may_put = True
        self._last_status: dict[Step, int | None] = {}  # of each step's last transient fault
        self._resumes_at: dict[int, float] = {}  # files that pause, by file_id
        self.peak = 0  # most PUTs that were under way at once
        self.course = [(self._since(), parallel)]  # (seconds since the start, slots in use), at every change

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room to hold one URL, from asking for it to the end of its PUT. Waits while the breaker is open."""
        with self._lock:
            probing = self._enter() if self._has_place() else None
        if probing is None:
            with waiting(), self._lock:
                probing = self._wait_for_place()
        try:
            yield
        finally:
            with self._lock:
                self._places -= 1
                if probing:
                    self._breaker.end_probe(self._clock())
                    self._place_free.notify_all()
                else:
                    self._place_free.notify()

    def minting(self, file_id: int) -> AbstractContextManager[None]:
        """Around asking for a URL: learns how long that takes, and whether the API is up."""
        return self._watched(Step.PRESIGN, file_id)

    @contextmanager
    def slot(self, file_id: int) -> Iterator[None]:
        """Around a PUT: one of `parallel`. Learns how long it takes, and whether the object store is up."""
        with self._lock:
            is_free = not (self._is_full() or self._waiting)  # whose URLs are older
            if is_free:
                self._begin_put()
        if not is_free:
            with waiting(), self._lock:
                self._waiting += 1
                while self._is_full() and not self._closed:
                    self._slot_free.wait()
                self._waiting -= 1
                self._begin_put()
        try:
            with self._watched(Step.PUT, file_id):
                yield
        finally:
            with self._lock:
                self._busy -= 1
                self._slot_free.notify()

    @property
    def busy(self) -> int:
        """How many PUTs are under way."""
        with self._lock:
            return self._busy

    @property
    def are_full(self) -> bool:
        """Whether no PUT could begin now, or the next would be the last that can."""
        with self._lock:
            return self._busy >= self._throttle.limit - 1

    @property
    def most(self) -> int:
        """How many there are, throttled or not."""
        return self._throttle.most

    def resize(self, parallel: int) -> None:
        """So many slots from now on; PUTs under way go on."""
        with self._lock:
            self._throttle.resize(parallel)
            self._limit_changed()
            self._slot_free.notify_all()
            self._place_free.notify_all()

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on."""
        with self._lock:
            self._may_put = may_begin
            self._slot_free.notify_all()
            self._place_free.notify_all()

    @property
    def outage_s(self) -> float:
        """For how long the far side has been down; 0 when it is not."""
        with self._lock:
            return self._breaker.outage_s(self._clock())

    @contextmanager
    def pausing(self, file_id: int, seconds: float) -> Iterator[None]:
        """Around a file's pause before it is tried again: `state` says when the next one ends."""
        with self._lock:
            self._resumes_at[file_id] = self._clock() + seconds
        try:
            yield
        finally:
            with self._lock:
                del self._resumes_at[file_id]

    def state(self) -> PlatformState:
        """What there is to tell a person: slots in use, whether the platform fails or throttles, since when.

        Requests that fail while others are under way are told from the third in a row on. Without slots of
        its own any more (they went to other processes) nothing is known of the platform.
        """
        with self._lock:
            if not self._throttle.most:
                return PlatformState(slots_in_use=self._busy, processes=0)
            state = PlatformState(
                slots=self._throttle.most,
                slots_in_use=self._busy,
                slots_withheld=self._throttle.most - self._throttle.limit,
                throttled_since=self._throttle.throttled_since,
            )
            step = self._failing_step()
            return self._failing(state, step) if step else state

    def _failing_step(self) -> Step | None:
        if self._closed:  # nothing is tried any more
            return None
        step = self._breaker.failing
        is_idle = not self._places and bool(self._resumes_at)
        if step and (self._breaker.is_open or is_idle or self._breaker.in_a_row(step) >= _FAILING_AFTER):
            return step
        return None

    def _failing(self, state: PlatformState, step: Step) -> PlatformState:
        return replace(
            state,
            failing=step,
            failing_since=self._breaker.failing_since(step),
            is_down=self._breaker.is_open,
            http_status=self._last_status[step],
            next_try_at=self._next_try_at(),
            processes_failing=1,
        )

    def _next_try_at(self) -> float | None:
        """None while one is under way. Where all files pause, not before the first of them goes on."""
        resumes_at = min(self._resumes_at.values(), default=None)
        if not self._breaker.is_open:
            return None if self._places else resumes_at
        probe_at = self._breaker.next_probe_at
        if probe_at is None or resumes_at is None or self._waiting_for_place:
            return probe_at
        return max(probe_at, resumes_at)

    def close(self) -> None:
        """Let nobody in any more: whoever waits, or comes, gets InterruptedRunError."""
        with self._lock:
            self._closed = True
            self._place_free.notify_all()
            self._slot_free.notify_all()

    def _wait_for_place(self) -> bool:
        """Also for the breaker; whether this is a probe."""
        self._waiting_for_place += 1
        while not (self._closed or self._has_place()):
            wait_s = self._breaker.wait_s(self._clock())
            self._place_free.wait(wait_s if 0 < wait_s < math.inf else None)
        self._waiting_for_place -= 1
        return self._enter()

    def _has_place(self) -> bool:
        is_permitted = not self._breaker.wait_s(self._clock())
        limit = self._throttle.limit
        return is_permitted and self._may_put and limit > 0 and self._places < limit + self._ahead()

    def _is_full(self) -> bool:
        return not self._may_put or self._busy >= self._throttle.limit

    def _begin_put(self) -> None:
        self._refuse_when_closed()
        self._busy += 1
        self.peak = max(self.peak, self._busy)

    def _enter(self) -> bool:
        """Whether this is a probe."""
        self._refuse_when_closed()
        self._places += 1
        if self._breaker.is_open:
            self._breaker.begin_probe()
        return self._breaker.is_open

    @contextmanager
    def _watched(self, step: Step, file_id: int) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except Fault as fault:
            with self._lock:
                self._learn_from(fault, step, file_id)
            raise
        with self._lock:
            self._learn_success(step, self._clock() - began)

    def _learn_success(self, step: Step, took_s: float) -> None:
        was_open = self._breaker.is_open
        self._breaker.record_success(step)
        if was_open and not self._breaker.is_open:
            self._place_free.notify_all()
        usual_s = self._usual_s[step]
        self._usual_s[step] = took_s if not usual_s else usual_s + _SMOOTHING * (took_s - usual_s)
        if step is Step.PUT and self._throttle.record_success(took_s, usual_s):
            self._limit_changed()

    def _learn_from(self, fault: Fault, step: Step, file_id: int) -> None:
        now = self._clock()
        if fault.kind in TRANSIENT:
            self._last_status[step] = fault.http_status
            self._breaker.record_fault(step, file_id, now, fault.retry_after_s)
        if fault.kind is FaultKind.THROTTLED and self._throttle.record_throttling(now):
            self._limit_changed()

    def _limit_changed(self) -> None:
        if len(self.course) < _LONGEST_COURSE:
            self.course.append((self._since(), self._throttle.limit))
        self._slot_free.notify()
        self._place_free.notify()

    def _since(self) -> float:
        return round(self._clock() - self.began, 1)

    def _ahead(self) -> int:
        presign_s, put_s = self._usual_s[Step.PRESIGN], self._usual_s[Step.PUT]
        if not put_s:
            return 1
        limit = self._throttle.limit
        most = limit * max(1.0, _LONGEST_WAIT_S / put_s)  # also when presigning takes long now and then
        return math.ceil(min(most, 1 + limit * presign_s / put_s))

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise InterruptedRunError("The run is stopping.")


def summed(courses: Sequence[list[tuple[float, int]]]) -> list[tuple[float, int]]:
    """What several processes used together, of what each one did."""
    changes = [(at, number, limit) for number, course in enumerate(courses) for at, limit in course]
    changes.sort(key=lambda change: change[0])
    limits = dict.fromkeys(range(len(courses)), 0)
    together: dict[float, int] = {}
    for at, number, limit in changes:
        limits[number] = limit
        together[at] = sum(limits.values())
    return [
        (at, limit)
        for (at, limit), (_, before) in zip(together.items(), [(0.0, -1), *together.items()], strict=False)
        if limit != before
    ]
