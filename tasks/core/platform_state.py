"""What a run knows of the platform at a moment, alone or together with other processes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """What a request is for; one of the two may be down while the other works."""

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
