"""Whether the platform is down: then only a probe is sent now and then, until one gets through. Pure."""

from typing import Final

from tasks.core.errors import FaultKind
from tasks.core.platform_state import Step

TRANSIENT: Final = frozenset({FaultKind.NETWORK, FaultKind.SERVER, FaultKind.THROTTLED, FaultKind.PRESIGN})
_FIRST_PROBE_S: Final = 1.0
_LONGEST_PROBE_S: Final = 30.0


class CircuitBreaker:
    """Open when a step has failed so many times in a row, with more than one file.

    | faults of a step since its last success         | breaker                                 |
    | ----------------------------------------------- | --------------------------------------- |
    | fewer than the threshold                        | closed                                  |
    | the threshold, all of one file                  | closed: it may be the file; its budget  |
    | the threshold, of two files or more             | open                                    |
    | open, a success of the step that failed         | closed                                  |
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._faults: dict[Step, list[int]] = {step: [] for step in Step}  # file_ids, the newest last
        self._first_at = dict.fromkeys(Step, 0.0)  # of these faults
        self._failing: Step | None = None
        self._opened_at = 0.0
        self._probe_at = 0.0
        self._not_before = float("-inf")  # the latest Retry-After
        self._pause_s = _FIRST_PROBE_S
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether nothing but probes may be sent."""
        return self._failing is not None

    @property
    def failing(self) -> Step | None:
        """The step that failed most often since it worked; None when each has worked since it failed."""
        worst = self._failing or max(Step, key=lambda step: len(self._faults[step]))
        return worst if self._faults[worst] else None

    def failing_since(self, step: Step) -> float:
        """When the first request of this step failed after the last that worked."""
        return self._first_at[step]

    def in_a_row(self, step: Step) -> int:
        """How many requests of this step have failed since one worked; no more are counted than open it."""
        return len(self._faults[step])

    @property
    def next_probe_at(self) -> float | None:
        """When one request may be sent although it is open; None while one is under way."""
        return None if self._probing else max(self._probe_at, self._not_before)

    def record_fault(self, step: Step, file_id: int, now: float, retry_after_s: float = 0.0) -> None:
        """Counts a transient fault of this step. No probe goes out before `retry_after_s` are over."""
        self._not_before = max(self._not_before, now + retry_after_s)
        faults = self._faults[step]
        if not faults:
            self._first_at[step] = now
        faults.append(file_id)
        del faults[: -self._threshold]
        if not self.is_open and len(faults) == self._threshold and len(set(faults)) > 1:
            self._failing = step
            self._opened_at = now
            self._pause_s = _FIRST_PROBE_S
            self._probe_at = now + self._pause_s

    def record_success(self, step: Step) -> None:
        """Forgets the faults of this step, and closes when they had opened it."""
        self._faults[step].clear()
        if self._failing is step:
            self._failing = None

    def outage_s(self, now: float) -> float:
        """For how long it has been open; 0 when it is closed."""
        return now - self._opened_at if self.is_open else 0.0

    def leave_out(self, since: float, until: float) -> None:
        """Nothing could be sent meanwhile, whatever the platform was: that is no part of an outage."""
        self._opened_at += max(0.0, until - max(since, self._opened_at))

    def wait_s(self, now: float) -> float:
        """How long until a request may be sent: 0 at once, infinite while a probe is under way."""
        if not self.is_open:
            return 0.0
        return float("inf") if self._probing else max(0.0, self._probe_at - now, self._not_before - now)

    def begin_probe(self) -> None:
        """Notes that a request goes out although it is open."""
        self._probing = True

    def end_probe(self, now: float) -> None:
        """Notes that the probe is over; the next one waits twice as long, at most half a minute."""
        self._probing = False
        self._pause_s = min(_LONGEST_PROBE_S, 2 * self._pause_s)
        self._probe_at = now + self._pause_s
