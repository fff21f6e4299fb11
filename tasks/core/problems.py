"""What a report's rows add up to that an operator should know, in sentences: `problems` of summary.json."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tasks.core.api_answers import WRONG_SHAPES, what_is_wrong
from tasks.core.errors import FaultKind
from tasks.core.models import ACCEPTABLE, ZEROS, Outcome, Proof, Reason, RunFacts, Status
from tasks.core.remedies import REMEDIES
from tasks.core.store_answers import advice
from tasks.core.words import counted

# What to do with a file that is held back.
_HELD_BACK: Final = (Reason.NO_PREAMBLE, Reason.TRUNCATED, Reason.NO_UID, Reason.MALFORMED)
CURES: Final = {reason: REMEDIES[Status.INVALID, reason].action.replace("`", "") for reason in _HELD_BACK}
_ADVISED: Final = frozenset(
    {Reason.REFUSED, Reason.INTEGRITY, Reason.EXPIRED, Reason.THROTTLED, Reason.NETWORK, Reason.SERVER}
)


def why_held_back(reason: Reason, detail: str) -> str:
    """In a line of the log, behind the file's numbers: what is wrong with it, and what to do."""
    what = f"{reason}, {detail}" if detail else reason
    return f"is held back ({what}): {CURES[reason]}"


def why_failed(outcome: Outcome) -> str:
    """The same of one that failed, as far as the answer says; in the words of the troubleshooting table."""
    answer = f"{outcome.reason}, HTTP {outcome.http_status or '-'} {outcome.detail}".rstrip()
    if outcome.detail in WRONG_SHAPES:
        return f"{answer}; {what_is_wrong(outcome.detail)}"
    cure = advice_on(outcome.reason, outcome.detail)
    return f"{answer}. {cure}" if cure else answer


def advice_on(reason: str, detail: str) -> str:
    """What to do about a failure with this `detail`; empty where the reason says all."""
    return advice(detail, FaultKind(reason)) if reason in _ADVISED and detail != "ledger" else ""


class Verdict(NamedTuple):
    """What the report says of a row."""

    status: str
    reason: str
    detail: str


def _is_damaged(row: Verdict) -> bool:
    return row.status == Status.CHANGED and row.reason == Reason.DAMAGED


def _is_altered(row: Verdict) -> bool:
    return row.status == Status.CHANGED and row.reason == Reason.ALTERED


def _is_hollow(row: Verdict) -> bool:
    return row.status == Status.INVALID and row.detail in (ZEROS, Reason.EMPTY)


def _is_accepted(row: Verdict) -> bool:
    return row.status == Status.UPLOADED and row.reason in ACCEPTABLE


_ROWS: Final[tuple[tuple[Callable[[Verdict], bool], str], ...]] = (
    (
        _is_damaged,
        "damaged since their instances were stored: {} (changed, damaged; with the stored objects' keys)",
    ),
    (
        _is_altered,
        "other bytes under the size and time of what is stored, so no edit: {} (changed, altered)",
    ),
    (
        _is_hollow,
        "all zeros, or empty beside images of that name, and never stored: {} (invalid, truncated)",
    ),
    (
        _is_accepted,
        "sent though malformed, truncated or without preamble, as --accept says: {}",
    ),
)
_LEFT: Final = (
    "stored objects of earlier content that no row names, for their files hold something else now: {}"
)


def row_problems(rows: Mapping[Verdict, int], objects_left: int) -> list[str]:
    """A sentence for each kind of loss among the rows, with their number.

    `objects_left`: keys that are an instance's object, of files that hold something else now.
    """
    problems = []
    for is_one, sentence in _ROWS:
        if count := sum(number for row, number in rows.items() if is_one(row)):
            problems.append(sentence.format(counted(count, "file")))
    if objects_left:
        problems.append(_LEFT.format(counted(objects_left, "object")))
    return problems


_PROOFS: Final[tuple[tuple[Proof, str], ...]] = (
    (Proof.NOTHING, "stored, but no checksum in the store's answers vouches for the bytes: {}"),
    (
        Proof.OTHER_ETAG,
        "the store's ETags look like MD5s and are none; its check of Content-MD5 vouches for: {}",
    ),
)


def proof_problems(proofs: Mapping[str, int]) -> list[str]:
    """What is to be known of the proofs of stored objects, by their number."""
    return [
        sentence.format(counted(proofs[proof], "file")) for proof, sentence in _PROOFS if proofs.get(proof)
    ]


def run_problems(run: RunFacts) -> list[str]:
    """What no row says: a sentence for each thing that a run counted."""
    problems = []
    if run.touched:
        files = counted(run.touched, "file")
        problems.append(f"read for their ctime alone: {files} (--no-trust-ctime, where a backup touches it)")
    if run.gone:
        problems.append(f"gone since the run before, and stored: {counted(run.gone, 'file')}")
    return problems
