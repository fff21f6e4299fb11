"""Retry or not: the one place that decides it. Pure; `tasks/transfer.py` acts on it.

Source: DESIGN.md section 7; full jitter as in the AWS Builders' Library, "Timeouts, retries and backoff".
"""

from enum import StrEnum
from typing import Final

from tasks.core.errors import Fault, FaultKind


class Action(StrEnum):
    """What follows a fault."""

    RETRY = "retry"  # back off; same URL and key while the URL lives
    NEW_URL = "new_url"  # back off; ask for a new URL, the old key is superseded
    FAIL = "fail"  # the file is given up, the run goes on
    STOP = "stop"  # no file can do better: the run ends


# How many faults of a kind one file survives, and what is done about each of them.
_SURVIVED: Final = {
    FaultKind.NETWORK: (8, Action.RETRY),
    FaultKind.THROTTLED: (10, Action.RETRY),
    FaultKind.SERVER: (8, Action.RETRY),
    FaultKind.PRESIGN: (4, Action.NEW_URL),
    FaultKind.EXPIRED: (3, Action.NEW_URL),
    FaultKind.REFUSED: (1, Action.NEW_URL),
    FaultKind.REJECTED: (0, Action.FAIL),
    FaultKind.INTEGRITY: (3, Action.RETRY),
    FaultKind.CHANGED: (3, Action.RETRY),
    FaultKind.FORBIDDEN: (2, Action.NEW_URL),
}
_STOPPING: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.SETTINGS, FaultKind.KEY_REUSED})
FORBIDDEN_IN_A_ROW: Final = 5  # refusals between which no file was granted a URL

_BASE_S: Final = 0.25
_CAP_S: Final = 30.0


def decide(kind: FaultKind, seen: int, *, any_granted: bool, forbidden_in_a_row: int) -> Action:
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
    survived, action = _SURVIVED[kind]
    return action if seen <= survived else Action.FAIL


def backoff_s(fault: Fault, seen: int, jitter: float) -> float:
    """How long to wait: full jitter under a doubling bound, never less than the server's Retry-After.

    `jitter` is drawn evenly from [0, 1); `seen` counts from 1.
    """
    bound = min(_CAP_S, _BASE_S * 2.0 ** (seen - 1))
    return max(fault.retry_after_s, bound * jitter)
