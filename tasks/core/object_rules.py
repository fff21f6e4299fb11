"""What an object of the bucket has to be, to be offered to a registry. Pure.

| rule          | an object is quarantined                                   | reason            |
| ------------- | ---------------------------------------------------------- | ----------------- |
| part10        | that has no bytes                                          | empty             |
|               | that is no DICOM, or an index of a disc                    | not_dicom         |
|               | without a preamble                                         | no_preamble       |
|               | that ends too early, or has no end that can be found       | truncated,        |
|               |                                                            | malformed         |
| uids          | in which what stands in place of a UID is none             | malformed         |
| storage_class | whose SOP class is the standard's and stores no instances  | not_storage       |
| uploaded      | of another SOP Instance UID than was uploaded to its key   | other_instance    |
|               | of other bytes than were uploaded to its key               | other_content     |
| always        | without SOP or Study Instance UID: nobody can ask for it   | no_uid, no_study  |

UIDs are judged as by the upload: leading zeros pass. Private SOP classes do, too. Each rule but the last can
be switched off by its name; an object that no rule holds back travels as it is, byte for byte.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.models import Flaw, Header, Reason, Rejected, Status
from tasks.core.object_outcomes import Expected, ObjectReason


class ObjectRule(StrEnum):
    """By what name a rule is switched off."""

    PART10 = "part10"
    UIDS = "uids"
    STORAGE_CLASS = "storage_class"
    UPLOADED = "uploaded"


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an object is held back."""

    reason: ObjectReason
    detail: str = ""  # closed words: what it is, or what is wrong with it


_STANDARD: Final = "1.2.840.10008."
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."  # PS3.4 B.5
# PS3.4 B.5, GG.3 and I.4: under roots of their own; the first three are retired.
_OTHER_STORAGE: Final = frozenset(
    {
        "1.2.840.10008.5.1.1.27",
        "1.2.840.10008.5.1.1.29",
        "1.2.840.10008.5.1.1.30",
        "1.2.840.10008.5.1.4.34.1",
        "1.2.840.10008.5.1.4.34.7",
        "1.2.840.10008.5.1.4.34.10",
        "1.2.840.10008.5.1.4.38.1",
        "1.2.840.10008.5.1.4.39.1",
        "1.2.840.10008.5.1.4.43.1",
        "1.2.840.10008.5.1.4.44.1",
        "1.2.840.10008.5.1.4.45.1",
    }
)
# Services that lie among the storage classes: protocols (PS3.4 HH), inventories (PS3.4 KK).
_NO_STORAGE: Final = tuple(
    f"{_STORAGE}{each}" for each in ("200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6")
)
_REASONS: Final = {
    Reason.NO_PREAMBLE: ObjectReason.NO_PREAMBLE,
    Reason.TRUNCATED: ObjectReason.TRUNCATED,
    Reason.MALFORMED: ObjectReason.MALFORMED,
    Reason.NO_UID: ObjectReason.NO_UID,
}


def judge_object(
    found: Header | Rejected, sha256: str, expected: Expected, off: Collection[ObjectRule] = ()
) -> Unfit | None:
    """Why an object is held back; None: it is not. `sha256` is empty while it is not known.

    `found`: what its bytes are; `expected`: what was uploaded under its key; `off`: rules that do not count.
    """
    header = found if isinstance(found, Header) else found.header
    if isinstance(found, Rejected) and (unfit := _unreadable(found, off)):
        return unfit
    if header is None or not header.sop_instance_uid:
        return Unfit(ObjectReason.NO_UID)
    if ObjectRule.STORAGE_CLASS not in off and not is_storage_class(header.sop_class_uid):
        return Unfit(ObjectReason.NOT_STORAGE)
    if ObjectRule.UPLOADED not in off and (unfit := _other(header, sha256, expected)):
        return unfit
    return None if header.study_instance_uid else Unfit(ObjectReason.NO_STUDY)


def is_storage_class(sop_class_uid: str) -> bool:
    """Whether instances of this SOP class are stored. Of a private one nobody else can know."""
    if not sop_class_uid.startswith(_STANDARD):
        return bool(sop_class_uid)
    is_storage = sop_class_uid.startswith(_STORAGE) and sop_class_uid not in _NO_STORAGE
    return is_storage or sop_class_uid in _OTHER_STORAGE


def _unreadable(found: Rejected, off: Collection[ObjectRule]) -> Unfit | None:
    if found.status is Status.NOT_DICOM:
        is_empty = found.reason is Reason.EMPTY
        return Unfit(ObjectReason.EMPTY) if is_empty else Unfit(ObjectReason.NOT_DICOM, found.reason)
    rule = ObjectRule.UIDS if found.detail == Flaw.NO_UID_AT_ALL else ObjectRule.PART10
    is_off = rule in off and (ObjectRule.PART10 in off or not found.reasons)
    if is_off or found.reason is Reason.NO_UID:
        return None
    return Unfit(_REASONS.get(found.reason, ObjectReason.MALFORMED), found.detail)


def _other(header: Header, sha256: str, expected: Expected) -> Unfit | None:
    if expected.sop_instance_uid and expected.sop_instance_uid != header.sop_instance_uid:
        return Unfit(ObjectReason.OTHER_INSTANCE)
    if expected.sha256 and sha256 and expected.sha256 != sha256:
        return Unfit(ObjectReason.OTHER_CONTENT)
    return None
