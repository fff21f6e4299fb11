"""Retry or not is decided here alone. Pure; `tasks/upload/transfer.py` acts on it.

Source: DESIGN.md section 7; full jitter as in the AWS Builders' Library, "Timeouts, retries and backoff".
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from tasks.core.errors import Fault, FaultKind


class Action(StrEnum):
    """What follows a fault."""

    RETRY = "retry"  # back off; same URL and key while the URL lives
    NEW_URL = "new_url"  # back off; ask for a new URL, the old key is superseded
    FAIL = "fail"  # the file is given up, the run goes on
    STOP = "stop"  # no file can do better: the run ends


# How many faults of a kind one file survives, unless settings say otherwise.
BUDGETS: Final = {
    FaultKind.NETWORK: 8,
    FaultKind.THROTTLED: 10,
    FaultKind.SERVER: 8,
    FaultKind.PRESIGN: 4,
    FaultKind.EXPIRED: 3,
    FaultKind.REFUSED: 1,
    FaultKind.INTEGRITY: 3,
    FaultKind.CHANGED: 3,
    FaultKind.FORBIDDEN: 2,
}
_SAME_URL: Final = frozenset(
    {FaultKind.NETWORK, FaultKind.THROTTLED, FaultKind.SERVER, FaultKind.INTEGRITY, FaultKind.CHANGED}
)
_STOPPING: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.SETTINGS, FaultKind.KEY_REUSED})
FORBIDDEN_IN_A_ROW: Final = 5  # refusals between which no file was granted a URL

_BASE_S: Final = 0.25
_CAP_S: Final = 30.0


def decide(
    kind: FaultKind,
    seen: int,
    *,
    any_granted: bool,
    forbidden_in_a_row: int,
    budgets: Mapping[FaultKind, int] = BUDGETS,
) -> Action:
    """What follows a fault of this `kind`, the `seen`-th of its kind on this file (counted from 1).

    `any_granted`: this run was given at least one URL. `forbidden_in_a_row`: 403s on presign since then.

    | kind                               | seen        | besides                        | action  |
    | ---------------------------------- | ----------- | ------------------------------ | ------- |
    | network, server                    | up to 8     |                                | retry   |
    | throttled                          | up to 10    |                                | retry   |
    | integrity, changed                 | up to 3     |                                | retry   |
    | presign                            | up to 4     |                                | new_url |
    | expired                            | up to 3     |                                | new_url |
    | refused                            | 1           |                                | new_url |
    | rejected                           | any         |                                | fail    |
    | any of the above                   | more        |                                | fail    |
    | forbidden                          | any         | nothing granted in this run    | stop    |
    | forbidden                          | any         | 5 in a row                     | stop    |
    | forbidden                          | up to 2     | otherwise                      | new_url |
    | forbidden                          | more        | otherwise                      | fail    |
    | unauthorized, settings, key_reused | any         |                                | stop    |
    """
    if kind in _STOPPING:
        return Action.STOP
    if kind is FaultKind.FORBIDDEN and (not any_granted or forbidden_in_a_row >= FORBIDDEN_IN_A_ROW):
        return Action.STOP
    if seen > budgets.get(kind, 0):
        return Action.FAIL
    return Action.RETRY if kind in _SAME_URL else Action.NEW_URL


def backoff_s(fault: Fault, seen: int, jitter: float) -> float:
    """How long to wait: full jitter under a doubling bound, never less than the server's Retry-After.

    `jitter` is drawn evenly from [0, 1); `seen` counts from 1.
    """
    bound = min(_CAP_S, _BASE_S * 2.0 ** min(seen - 1, 30))
    return max(fault.retry_after_s, bound * jitter)
