"""The words of the platform's side: what becomes of an object of the bucket, and why (DESIGN.md section 9).

Times are Unix nanoseconds. A key may name a patient: it is in ledger, report and audit trail alone, and in
logs an object is its number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.models import Reason


class ObjectStatus(StrEnum):
    """What became of an object; `OBJECTS_EXIT_ONE` says which of them make a run exit with 1."""

    REGISTERED = "registered"
    ALREADY_REGISTERED = "already_registered"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    MISSING = "missing"
    FAILED = "failed"
    NOT_ATTEMPTED = "not_attempted"


DONE: Final = frozenset({ObjectStatus.REGISTERED, ObjectStatus.ALREADY_REGISTERED})
OBJECTS_EXIT_ONE: Final = frozenset(ObjectStatus) - DONE


class ObjectReason(StrEnum):
    """Why an object has its status; the closed list, grouped by the status it goes with."""

    NONE = ""
    # quarantined: it is no Part 10 file ...
    EMPTY = "empty"
    NOT_DICOM = "not_dicom"
    NO_PREAMBLE = "no_preamble"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    # ... or no instance that a registry could take, or not the one that was uploaded under its key
    NO_UID = "no_uid"
    NO_STUDY = "no_study"
    NOT_STORAGE = "not_storage"
    OTHER_INSTANCE = "other_instance"
    OTHER_CONTENT = "other_content"
    # failed
    AUTH = "auth"
    THROTTLED = "throttled"
    NETWORK = "network"
    SERVER = "server"
    REFUSED = "refused"
    ALTERED = "altered"
    UNKNOWN = "unknown"
    LEDGER = "ledger"
    INTERRUPTED = "interrupted"
    # not_attempted
    STOPPED = "stopped"


_OF_FAULTS: Final[Mapping[Reason, ObjectReason]] = {
    Reason.AUTH: ObjectReason.AUTH,
    Reason.THROTTLED: ObjectReason.THROTTLED,
    Reason.NETWORK: ObjectReason.NETWORK,
    Reason.SERVER: ObjectReason.SERVER,
}


def reason_of(fault_reason: Reason) -> ObjectReason:
    """What is said of an object that a fault of this reason is the end of."""
    return _OF_FAULTS.get(fault_reason, ObjectReason.REFUSED)


class After(StrEnum):
    """What is done with an object once it has its outcome."""

    LEAVE = "leave"
    TAG = "tag"
    MOVE = "move"


# Where objects are moved to, and how they are tagged, by status; others stay as they are.
PREFIXES: Final[Mapping[ObjectStatus, str]] = {
    ObjectStatus.REGISTERED: "registered/",
    ObjectStatus.ALREADY_REGISTERED: "registered/",
    ObjectStatus.QUARANTINED: "quarantine/",
}
_NUMBER: Final = re.compile(r"\.[0-9]+\Z")
TAG_NAME: Final = "dicom-ingest"
TAGS: Final[Mapping[ObjectStatus, str]] = {
    ObjectStatus.REGISTERED: "registered",
    ObjectStatus.ALREADY_REGISTERED: "registered",
    ObjectStatus.QUARANTINED: "quarantined",
}


def keys_before_move(key: str) -> list[str]:
    """The keys that an object may have come under which lies at this one; none, if nothing is moved there.

    Where the place was taken, it has a number behind its key.
    """
    for prefix in sorted({*PREFIXES.values()}):
        if key.startswith(prefix):
            was = key.removeprefix(prefix)
            unnumbered = _NUMBER.sub("", was)
            return [was] if unnumbered == was else [was, unnumbered]
    return []


@dataclass(frozen=True, slots=True)
class Expected:
    """What the upload's ledger says of the object with a key; empty: it does not know."""

    sop_instance_uid: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ObjectTodo:
    """An object that a run has claimed. `str(todo)` is its only name in logs and in Prefect."""

    object_id: int  # its row in the ledger
    key: str
    size_bytes: int | None = None  # None: it was named, and nobody has looked
    etag: str = ""
    attempts: int = 0  # STOW requests, of earlier runs, too
    status: str = ""  # of the last look at it: one that is done is open again to be moved, or tagged
    sha256: str = ""
    study_instance_uid: str = ""
    moved_to: str = ""
    expected: Expected = Expected()

    @property
    def location(self) -> str:
        """The key under which it lies."""
        return self.moved_to or self.key

    def __str__(self) -> str:
        return f"object {self.object_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectOutcome:
    """What became of one object in this run. Everything registration.csv says of it but its key."""

    status: ObjectStatus
    reason: ObjectReason = ObjectReason.NONE
    detail: str = ""  # in a closed form: of the server's answer, of the flaw, of the difference
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    size_bytes: int | None = None
    etag: str = ""
    sha256: str = ""
    attempts: int = 0
    started_ns: int | None = None
    finished_ns: int | None = None
    moved_to: str = ""
    tagged: str = ""


@dataclass(frozen=True, slots=True)
class InstanceClaim:
    """Whose a SOP Instance UID is in a registry."""

    mine: bool  # this object may be stored under it now
    registered_sha256: str = ""  # of what the ledger knows to be registered; empty when nothing is
