"""The far side's weather: how many slots it bears, and whether it is down. Pure.

Throttling halves the slots in use; success gives them back one at a time, unless it takes longer and longer.
When every request of a step fails in a transient way the breaker opens: nothing is sent but one probe now and
then, until one gets through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.errors import FaultKind

TRANSIENT: Final = frozenset({FaultKind.NETWORK, FaultKind.SERVER, FaultKind.THROTTLED, FaultKind.PRESIGN})
_HALVE_EVERY_S: Final = 1.0  # one burst of refusals is one reason to halve, not twenty
_RISING: Final = 2.0  # a PUT that takes so many times the usual is no sign of room for more
_FIRST_PROBE_S: Final = 1.0
_LONGEST_PROBE_S: Final = 30.0


class Step(StrEnum):
    """What is asked of the far side; each may be down while the other works."""

    PRESIGN = "presign"
    PUT = "put"


@dataclass(frozen=True, slots=True)
class PlatformState:
    """What is known of the platform at a moment, by one process or more. Times in seconds, by one clock.

    A request that does not work is one of a step; it is failing when none of that step has worked since.
    """

    slots: int = 0
    slots_in_use: int = 0  # PUTs under way
    slots_withheld: int = 0  # by throttling
    throttled_since: float | None = None
    failing: Step | None = None
    failing_since: float = 0.0
    is_down: bool = False  # nothing is sent but one request now and then
    http_status: int | None = None  # of the last request that failed; None when there was no answer
    next_try_at: float | None = None  # None while one is under way
    processes: int = 1
    processes_failing: int = 0


def joint_state(states: Sequence[PlatformState]) -> PlatformState:
    """What several processes know, each of its own requests: of failing ones the worst, with the next try."""
    failing = [state for state in states if state.failing]
    worst = min(failing, key=lambda state: (not state.is_down, state.failing_since), default=PlatformState())
    tries = [state.next_try_at for state in failing]
    throttled = [state.throttled_since for state in states if state.throttled_since is not None]
    return PlatformState(
        slots=sum(state.slots for state in states),
        slots_in_use=sum(state.slots_in_use for state in states),
        slots_withheld=sum(state.slots_withheld for state in states),
        throttled_since=min(throttled, default=None),
        failing=worst.failing,
        failing_since=worst.failing_since,
        is_down=worst.is_down,
        http_status=worst.http_status,
        next_try_at=None if None in tries else min((at for at in tries if at is not None), default=None),
        processes=sum(state.processes for state in states),
        processes_failing=len(failing),
    )


class Throttle:
    """How many slots may be in use: halved when the far side asks for less, grown back by success.

    | seen                                                   | slots in use            |
    | ------------------------------------------------------ | ----------------------- |
    | throttled, none in the second before                   | half as many, at least 1|
    | throttled again within a second                        | as many: the same burst |
    | throttled, then as many successes as slots are in use  | one more, up to `most`  |
    | throttled, then successes that take twice the usual    | as many                 |
    | successes, however slow, never throttled               | `most`                  |
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = most
        self.since: float | None = None  # that the far side throttles, until all slots may be used again
        self._successes = 0
        self._halved_at = float("-inf")

    def resize(self, most: int) -> None:
        """So many from now on; throttled slots stay throttled."""
        self.limit = most if self.limit == self.most else min(self.limit, most)
        self.most = most

    def refused(self, now: float) -> bool:
        """The far side throttles. Whether that changed the limit."""
        self._successes = 0
        self.since = now if self.since is None else self.since
        if self.limit == 1 or now - self._halved_at < _HALVE_EVERY_S:
            return False
        self.limit //= 2
        self._halved_at = now
        return True

    def succeeded(self, took_s: float = 0.0, usual_s: float = 0.0) -> bool:
        """A PUT went through. Whether that changed the limit."""
        if self.limit == self.most:
            self.since = None
            return False
        if usual_s and took_s > _RISING * usual_s:
            return False
        self._successes += 1
        if self._successes < self.limit:
            return False
        self._successes = 0
        self.limit += 1
        if self.limit == self.most:
            self.since = None
        return True


class Breaker:
    """Open when nothing has worked for so many faults of one step, of more than one file.

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

    def fault(self, step: Step, file_id: int, now: float, retry_after_s: float = 0.0) -> None:
        """A transient fault of this step; nothing is asked before the server permits."""
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

    def success(self, step: Step) -> None:
        """A request of this step worked."""
        self._faults[step].clear()
        if self._failing is step:
            self._failing = None

    def outage_s(self, now: float) -> float:
        """For how long it has been open; 0 when it is closed."""
        return now - self._opened_at if self.is_open else 0.0

    def wait_s(self, now: float) -> float:
        """How long until a request may be sent: 0 at once, infinite while a probe is under way."""
        if not self.is_open:
            return 0.0
        return float("inf") if self._probing else max(0.0, self._probe_at - now, self._not_before - now)

    def begin_probe(self) -> None:
        """One request goes out although it is open."""
        self._probing = True

    def end_probe(self, now: float) -> None:
        """The probe is over; the next one comes later than it did."""
        self._probing = False
        self._pause_s = min(_LONGEST_PROBE_S, 2 * self._pause_s)
        self._probe_at = now + self._pause_s
