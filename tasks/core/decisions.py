"""What a person may decide about a row of a report that is a reason for exit 1. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.models import EXIT_ONE, Reason, Status

MOST_CHARS: Final = 1000  # of a reason in words


class Decision(StrEnum):
    """What is to become of a row: the words of `resolve`, and of the column `decision` of its list."""

    NONE = ""
    UPLOAD = "upload"  # its bytes are sent, beside those that are stored under its UID
    KEEP = "keep"  # what is stored stays: the row is accepted
    IGNORE = "ignore"  # the row is accepted as it is
    WITHDRAW = "withdraw"  # what was decided does not hold any more


ACCEPTING: Final = frozenset({Decision.KEEP, Decision.IGNORE})
DECIDABLE: Final = tuple(status for status in Status if status in EXIT_ONE - {Status.NOT_ATTEMPTED})
_OF_STORED: Final = frozenset({Reason.DAMAGED, Reason.ALTERED})


def possible(status: str, reason: str) -> tuple[Decision, ...]:
    """The decisions that a row's outcome leaves open, but for taking one back.

    | status             | reason           | possible             |                                       |
    | ------------------ | ---------------- | -------------------- | ------------------------------------- |
    | conflict           |                  | upload, keep, ignore |                                       |
    | changed            | damaged, altered | keep, ignore         | its instance is stored                |
    | failed             | interrupted      |                      | nobody knows what would become of it  |
    | not_attempted      | any              |                      | the same                              |
    | any other of exit 1 | any             | ignore               |                                       |
    | of exit 0          | any              |                      |                                       |
    """
    if status == Status.CONFLICT:
        return Decision.UPLOAD, Decision.KEEP, Decision.IGNORE
    if status not in DECIDABLE or reason == Reason.INTERRUPTED:
        return ()
    if status == Status.CHANGED and reason in _OF_STORED:
        return Decision.KEEP, Decision.IGNORE
    return (Decision.IGNORE,)


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of a report, as far as a decision is concerned; `decided` is what holds for it now."""

    status: str
    reason: str
    decided: str = Decision.NONE


def objection(row: Standing, decision: Decision) -> str:
    """Why a decision can't be made about a row, in words that follow "it"; empty when it can."""
    if decision is Decision.WITHDRAW:
        return "" if row.decided else "has no decision that could be withdrawn"
    if row.decided == decision:
        return f"is decided already: {decision}"
    if decision in possible(row.status, row.reason):
        return ""
    what = "/".join(filter(None, (row.status, row.reason)))
    words = " or ".join(possible(row.status, row.reason))
    return (
        f"is {what}, for which the decision can be {words}" if words else f"is {what}: `retry` sends it again"
    )
