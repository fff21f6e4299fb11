"""Files with one SOP Instance UID: which is sent, which waits, which is a duplicate or a conflict. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.core.models import OnConflict


class Verdict(StrEnum):
    """What to do with a file whose SOP Instance UID is claimed."""

    SEND = "send"
    KEEP = "keep"
    REPLACE = "replace"
    WAIT = "wait"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    ALTERED = "altered"
    SEND_ANYWAY = "send_anyway"


@dataclass(frozen=True, slots=True)
class Claim:
    """The ledger's claim on a SOP Instance UID, as the file asking for it sees it."""

    mine: bool
    stored_sha256: str  # empty: nothing is stored under this UID yet
    is_lost: bool = False  # what was stored is not in the store any more, as verify found


def judge(claim: Claim, sha256: str, on_conflict: OnConflict, *, is_altered: bool = False) -> Verdict:
    """The verdict on a file with this digest.

    `is_altered`: this path was stored with other bytes under the same UID, size and mtime.

    | claim     | stored      | on_conflict | verdict   |                                                  |
    | --------- | ----------- | ----------- | --------- | ------------------------------------------------ |
    | mine      | nothing     | any         | SEND      |                                                  |
    | mine      | same bytes  | any         | KEEP      | stored by this path before: nothing to send      |
    | mine      | same, lost  | any         | SEND      | again: the store has lost it                     |
    | mine      | other bytes | any         | REPLACE   | sent; `uploaded`, reason `replaced`              |
    | another's | nothing     | any         | WAIT      | until the claim settles                          |
    | another's | same bytes  | any         | DUPLICATE |                                                  |
    | another's | other bytes | report      | CONFLICT  | for a person                                     |
    | another's | other bytes | upload      | SEND_ANYWAY | sent although the UID is stored with other bytes |
    | any       | other bytes | report      | ALTERED   | where it is altered: bit rot or worse, no edit   |
    """
    if not claim.stored_sha256:
        return Verdict.SEND if claim.mine else Verdict.WAIT
    if claim.stored_sha256 == sha256:
        if not claim.mine:
            return Verdict.DUPLICATE
        return Verdict.SEND if claim.is_lost else Verdict.KEEP
    if is_altered and on_conflict is OnConflict.REPORT:
        return Verdict.ALTERED
    if claim.mine:
        return Verdict.REPLACE
    return Verdict.SEND_ANYWAY if on_conflict is OnConflict.UPLOAD else Verdict.CONFLICT


def judge_beside(claim: Claim, verdict: Verdict) -> Verdict:
    """The verdict on a file whose UID is stored with other bytes, by the claim on its own bytes beside them.

    | claim     | stored | `verdict` was SEND_ANYWAY | was CONFLICT |
    | --------- | ------ | ------------------------- | ------------ |
    | mine      | yes    | KEEP                      | KEEP         |
    | mine      | lost   | SEND_ANYWAY               | SEND_ANYWAY  |
    | another's | yes    | DUPLICATE                 | DUPLICATE    |
    | mine      | no     | SEND_ANYWAY               |              |
    | another's | no     | WAIT                      | CONFLICT     |
    """
    if claim.stored_sha256 and claim.mine:
        return Verdict.SEND_ANYWAY if claim.is_lost else Verdict.KEEP
    if claim.stored_sha256:
        return Verdict.DUPLICATE
    if verdict is Verdict.SEND_ANYWAY and not claim.mine:
        return Verdict.WAIT
    return verdict
