"""A path whose instance is stored: what it means when the file is not any more what was stored. Pure."""

from dataclasses import replace
from typing import Final

from tasks.core.models import ZEROS, Reason, Rejected, Status, StoredContent

_HELD_BACK: Final = frozenset({Status.NOT_DICOM, Status.INVALID})


def judge_rejected(rejected: Rejected, stored: StoredContent | None) -> Rejected:
    """What a file that can't be sent is said to be, by what is stored of its path.

    | stored | the file now                                   | said                               |
    | ------ | ---------------------------------------------- | ---------------------------------- |
    | no     | any                                            | that                               |
    | yes    | unreadable, too large, changing                | that                               |
    | yes    | an object without a UID, of one size and mtime | changed, altered                   |
    | yes    | invalid or not_dicom                           | changed, damaged; detail: what now |
    """
    if stored is None or rejected.status not in _HELD_BACK:
        return rejected
    if rejected.reason is Reason.NO_UID and is_unedited(stored, rejected.size_bytes, rejected.mtime_ns):
        return replace(rejected, status=Status.CHANGED, reason=Reason.ALTERED, header=None)
    return replace(
        rejected,
        status=Status.CHANGED,
        reason=Reason.DAMAGED,
        header=None,
        detail=rejected.detail if rejected.detail == ZEROS else rejected.reason,
    )


def is_unedited(stored: StoredContent, size_bytes: int | None, mtime_ns: int | None) -> bool:
    """Whether a file has size and mtime of what is stored: who edits it changes at least the mtime."""
    return (stored.size_bytes, stored.mtime_ns) == (size_bytes, mtime_ns)


def is_altered(stored: StoredContent | None, uid: str, size_bytes: int, mtime_ns: int, sha256: str) -> bool:
    """Whether an instance has other bytes than what is stored of its path, and nobody edited it."""
    return (
        stored is not None
        and stored.sha256 != sha256
        and stored.sop_instance_uid == uid
        and is_unedited(stored, size_bytes, mtime_ns)
    )


def is_cut_copy(rejected: Rejected, stored: StoredContent | None) -> bool:
    """Whether a truncated file is less than what is stored of its path: that is damage, and never sent."""
    if stored is None or rejected.reason is not Reason.TRUNCATED or rejected.header is None:
        return False
    is_same = rejected.header.sop_instance_uid == stored.sop_instance_uid
    return is_same and (rejected.size_bytes or 0) < (stored.size_bytes or 0)
