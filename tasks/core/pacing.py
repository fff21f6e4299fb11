"""How many uploads may be under way: what throttles, what is down, how far ahead URLs are asked for. Pure.

A file that has a URL, or asks for one, is *admitted*. There are as many of them as slots, plus those whose
URL will be ready just as a slot falls free: presign time x slots / PUT time. So no slot waits for a URL, and
no URL waits long for a slot, however long one PUT may last.
"""

import math
from dataclasses import replace
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT, CircuitBreaker
from tasks.core.concurrency_limit import ConcurrencyLimit
from tasks.core.errors import Fault, FaultKind
from tasks.core.platform_state import PlatformState, Step

_SMOOTHING: Final = 0.1  # weight of the newest measurement in the moving averages
_LONGEST_WAIT_S: Final = 0.1  # of a URL for a slot, where PUTs are shorter than that; else one PUT
_FAILING_AFTER: Final = 3  # requests in a row, where others are under way
_LONGEST_COURSE: Final = 200  # changes of the limit that are kept


class Pacing:
    """Learns from each request. Times in seconds, by one monotonic clock."""

    def __init__(self, parallel: int, now: float, began: float) -> None:
        """`began`: when the run did."""
        self._began = began
        self.course = [(round(now - began, 1), parallel)]  # (seconds since the start, limit), at every change
        self._throttle = ConcurrencyLimit(parallel)
        self._breaker = CircuitBreaker(threshold=max(5, parallel))
        self._usual_s = dict.fromkeys(Step, 0.0)  # moving average of how long each takes
        self._last_status: dict[Step, int | None] = {}  # of each step's last transient fault

    @property
    def most(self) -> int:
        """How many slots there are, throttled or not."""
        return self._throttle.most

    @property
    def limit(self) -> int:
        """How many of them may be used now."""
        return self._throttle.limit

    @property
    def is_down(self) -> bool:
        """Whether nothing but probes may be sent."""
        return self._breaker.is_open

    def admits(self, admitted: int, now: float) -> bool:
        """Whether one more may be, of whom so many are."""
        return not self._breaker.wait_s(now) and admitted < self.limit + self._ahead()

    def wait_s(self, now: float) -> float:
        """How long nobody may be admitted; infinite while a probe is under way."""
        return self._breaker.wait_s(now)

    def begin(self) -> bool:
        """One is admitted: whether it is a probe, of which `end_probe` is due."""
        if self._breaker.is_open:
            self._breaker.begin_probe()
        return self._breaker.is_open

    def end_probe(self, now: float) -> None:
        """It is over."""
        self._breaker.end_probe(now)

    def outage_s(self, now: float) -> float:
        """For how long the platform has been down; 0 when it is not."""
        return self._breaker.outage_s(now)

    def leave_out(self, since: float, until: float) -> None:
        """Nothing could be sent meanwhile: that is no part of an outage."""
        self._breaker.leave_out(since, until)

    def record_success(self, step: Step, took_s: float, now: float) -> bool:
        """A request that worked; whether that changed how many may be under way."""
        before = self.is_down, self.limit
        self._breaker.record_success(step)
        usual_s = self._usual_s[step]
        self._usual_s[step] = took_s if not usual_s else usual_s + _SMOOTHING * (took_s - usual_s)
        if step is not Step.PRESIGN:
            self._throttle.record_success(took_s, usual_s)
        return self._has_changed(before, now)

    def record_fault(self, step: Step, fault: Fault, file_id: int, now: float) -> bool:
        """The same of one that did not."""
        before = self.is_down, self.limit
        if fault.kind in TRANSIENT:
            self._last_status[step] = fault.http_status
            self._breaker.record_fault(step, file_id, now, fault.retry_after_s)
        if fault.kind is FaultKind.THROTTLED:
            self._throttle.record_throttling(now)
        return self._has_changed(before, now)

    def usage(self, busy: int) -> PlatformState:
        """The slots alone; `busy`: PUTs under way."""
        return PlatformState(
            slots=self.most,
            slots_in_use=busy,
            slots_withheld=self.most - self.limit,
            throttled_since=self._throttle.throttled_since,
        )

    def state(self, busy: int, admitted: int, resumes_at: float | None, *, is_awaited: bool) -> PlatformState:
        """What a person is to know. `resumes_at`: when the next of the files that pause goes on.

        `is_awaited`: files wait to be admitted. Requests that fail while others are under way are said from
        the third in a row on.
        """
        step = self._failing(is_idle=not admitted and resumes_at is not None)
        if step is None:
            return self.usage(busy)
        return replace(
            self.usage(busy),
            failing=step,
            failing_since=self._breaker.failing_since(step),
            is_down=self._breaker.is_open,
            http_status=self._last_status[step],
            next_try_at=self._next_try_at(admitted, resumes_at, is_awaited=is_awaited),
        )

    def _has_changed(self, before: tuple[bool, int], now: float) -> bool:
        if self.limit != before[1] and len(self.course) < _LONGEST_COURSE:
            self.course.append((round(now - self._began, 1), self.limit))
        return (self.is_down, self.limit) != before

    def _failing(self, *, is_idle: bool) -> Step | None:
        step = self._breaker.failing
        if step and (self._breaker.is_open or is_idle or self._breaker.in_a_row(step) >= _FAILING_AFTER):
            return step
        return None

    def _next_try_at(self, admitted: int, resumes_at: float | None, *, is_awaited: bool) -> float | None:
        """None while one is under way. Where all files pause, not before the first of them goes on."""
        if not self._breaker.is_open:
            return None if admitted else resumes_at
        probe_at = self._breaker.next_probe_at
        if probe_at is None or resumes_at is None or is_awaited:
            return probe_at
        return max(probe_at, resumes_at)

    def _ahead(self) -> int:
        presign_s, put_s = self._usual_s[Step.PRESIGN], self._usual_s[Step.PUT]
        if not put_s:
            return 1
        most = self.limit * max(1.0, _LONGEST_WAIT_S / put_s)  # also when presigning takes long now and then
        return math.ceil(min(most, 1 + self.limit * presign_s / put_s))
