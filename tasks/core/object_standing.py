"""What is to be done about an object that a listing brings, by what the ledger has of it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.core.object_outcomes import DONE, TAGS, After, ObjectStatus


@dataclass(frozen=True, slots=True)
class KnownObject:
    """An object's row in the ledger, as far as it decides that."""

    object_id: int
    etag: str
    size_bytes: int | None
    status: str
    is_open: bool
    seen: int
    moved_to: str
    tagged: str


class ObjectStanding(StrEnum):
    """What is to be done about it."""

    SETTLED = "settled"  # nothing
    REOPEN = "reopen"  # looked at afresh, or another object under a known key
    AFTERWARDS = "afterwards"  # registered already, to be moved or tagged


def object_standing(
    known: KnownObject, etag: str, size_bytes: int | None, serial: int, after: After
) -> ObjectStanding:
    """Where an object stands that a listing of the run with this serial brings.

    | registered | same bytes | besides                                  | standing   |
    | ---------- | ---------- | ---------------------------------------- | ---------- |
    | yes        | yes        | moved, and it is here: it was cut short  | afterwards |
    | yes        | yes        | to be moved, or tagged, and is not       | afterwards |
    | yes        | yes        | otherwise                                | settled    |
    | yes        | no         |                                          | reopen     |
    | no         | yes        | looked at since this listing began       | settled    |
    | no         |            | otherwise                                | reopen     |

    Bytes are the same when ETag and size are.
    """
    is_same = (known.etag, known.size_bytes) == (etag, size_bytes)
    if known.status in DONE and is_same:
        wants_tag = after is After.TAG and known.tagged != TAGS[ObjectStatus.REGISTERED]
        is_due = bool(known.moved_to) or after is After.MOVE or wants_tag
        return ObjectStanding.AFTERWARDS if is_due else ObjectStanding.SETTLED
    if is_same and not known.is_open and known.seen >= serial:
        return ObjectStanding.SETTLED
    return ObjectStanding.REOPEN
