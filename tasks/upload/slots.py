"""The slots: at most `parallel` PUTs at once over the whole run, and URLs minted just in time.

A file takes a *place* when it is read, hashed and claimed; in it, it asks for a URL and then waits for a
*slot* to PUT. There are as many places as slots, plus those whose URL will be ready just as a slot falls
free: presign time x slots / PUT time. So no slot waits for a URL, and no URL waits long for a slot, however
long one PUT may last. Who may enter at all, the far side's weather decides.

All of it belongs to the event loop's thread, but for what says that any thread may call it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT, CircuitBreaker
from tasks.core.concurrency_limit import ConcurrencyLimit
from tasks.core.errors import Fault, FaultKind, InterruptedRunError
from tasks.core.platform_state import PlatformState, Step

_SMOOTHING: Final = 0.1  # weight of the newest measurement in the moving averages
_LONGEST_WAIT_S: Final = 0.1  # of a URL for a slot, where PUTs are shorter than that; else one PUT
_FAILING_AFTER: Final = 3  # requests in a row, where others are under way
_LONGEST_COURSE: Final = 200  # changes of the limit that are kept for the summary


class Slots:
    """Shared by all files of a run. Times by `clock`, in seconds."""

    def __init__(
        self, parallel: int, clock: Callable[[], float] = time.monotonic, began: float | None = None
    ) -> None:
        """`began`: when the run did, by the clock; now when not given."""
        self._clock = clock
        self.began = clock() if began is None else began
        self._for_place = _Queue()
        self._for_slot = _Queue()
        self._throttle = ConcurrencyLimit(parallel)
        self._breaker = CircuitBreaker(threshold=max(5, parallel))
        self._places = 0
        self._busy = 0
        self._usual_s = dict.fromkeys(Step, 0.0)  # moving average of how long each takes
        self._closed = False
        self._may_put = True
        self._last_status: dict[Step, int | None] = {}  # of each step's last transient fault
        self._resumes_at: dict[int, float] = {}  # files that pause, by file_id
        self.peak = 0  # most PUTs that were under way at once
        self.course = [(self._since(), parallel)]  # (seconds since the start, slots in use), at every change

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Room to hold one URL, from asking for it to the end of its PUT. Waits while the breaker is open."""
        while not (self._closed or self._has_place()):
            wait_s = self._breaker.wait_s(self._clock())
            await self._for_place.wait(wait_s if 0 < wait_s < math.inf else None)
        probing = self._enter()
        try:
            yield
        finally:
            self._places -= 1
            if probing:
                self._breaker.end_probe(self._clock())
                self._for_place.wake_all()
            else:
                self._for_place.wake()

    @asynccontextmanager
    async def slot(self, file_id: int) -> AsyncIterator[None]:
        """Around a PUT: one of `parallel`. Learns how long it takes, and whether the object store is up."""
        if self._is_full() or self._for_slot:  # whose URLs are older
            await self._for_slot.wait()
            while self._is_full() and not self._closed:
                await self._for_slot.wait(first=True)
        self._refuse_when_closed()
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        try:
            with self._watched(Step.PUT, file_id):
                yield
        finally:
            self._busy -= 1
            self._for_slot.wake()

    def minting(self, file_id: int) -> AbstractContextManager[None]:
        """Around asking for a URL: learns how long that takes, and whether the API is up."""
        return self._watched(Step.PRESIGN, file_id)

    @property
    def most(self) -> int:
        """How many there are, throttled or not."""
        return self._throttle.most

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on."""
        self._may_put = may_begin
        self._for_slot.wake_all()
        self._for_place.wake_all()

    @property
    def outage_s(self) -> float:
        """For how long the far side has been down; 0 when it is not."""
        return self._breaker.outage_s(self._clock())

    @contextmanager
    def pausing(self, file_id: int, seconds: float) -> Iterator[None]:
        """Around a file's pause before it is tried again: `state` says when the next one ends."""
        self._resumes_at[file_id] = self._clock() + seconds
        try:
            yield
        finally:
            del self._resumes_at[file_id]

    def state(self) -> PlatformState:
        """What there is to tell a person: slots in use, whether the platform fails or throttles, since when.

        From any thread. Requests that fail while others are under way are told from the third in a row on.
        """
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
        )

    def _next_try_at(self) -> float | None:
        """None while one is under way. Where all files pause, not before the first of them goes on."""
        resumes_at = min(list(self._resumes_at.values()), default=None)
        if not self._breaker.is_open:
            return None if self._places else resumes_at
        probe_at = self._breaker.next_probe_at
        if probe_at is None or resumes_at is None or self._for_place:
            return probe_at
        return max(probe_at, resumes_at)

    def close(self) -> None:
        """Let nobody in any more: whoever waits, or comes, gets InterruptedRunError."""
        self._closed = True
        self._for_place.wake_all()
        self._for_slot.wake_all()

    def _has_place(self) -> bool:
        is_permitted = not self._breaker.wait_s(self._clock())
        limit = self._throttle.limit
        return is_permitted and self._may_put and limit > 0 and self._places < limit + self._ahead()

    def _is_full(self) -> bool:
        return not self._may_put or self._busy >= self._throttle.limit

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
            self._learn_from(fault, step, file_id)
            raise
        self._learn_success(step, self._clock() - began)

    def _learn_success(self, step: Step, took_s: float) -> None:
        was_open = self._breaker.is_open
        self._breaker.record_success(step)
        if was_open and not self._breaker.is_open:
            self._for_place.wake_all()
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
        self._for_slot.wake()
        self._for_place.wake()

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


class _Queue:
    """Coroutines that wait, the oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(self, at_most_s: float | None = None, *, first: bool = False) -> None:
        """Until it is woken, or the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(future)
        try:
            if at_most_s is None:
                await future
            else:
                await asyncio.wait([future], timeout=at_most_s)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake()  # the next one, in its place
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(future)

    def wake(self) -> None:
        """The oldest one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """All who wait now."""
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_result(None)


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
