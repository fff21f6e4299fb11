"""What report, bucket, registry and a retrieved copy say of an instance, as one sign; and of a study. Pure.

=  everywhere that was asked      +  in the registry alone
-  not in the registry            *  somewhere it differs
b  not in the bucket              !  not known
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.models import ArchiveState, Reason, Status

# What may go with the directory: the instance is stored, or nothing of an image is lost.
_MAY_GO: Final = frozenset({Status.UPLOADED, Status.ALREADY_UPLOADED, Status.DUPLICATE})
_NO_IMAGES: Final = frozenset({Reason.DICOMDIR, Reason.EMPTY, Reason.TEXT, Reason.SYSTEM_FILE})


class Sign(StrEnum):
    """An instance in one character."""

    EVERYWHERE = "="
    NOT_REGISTERED = "-"
    NOT_IN_BUCKET = "b"
    REGISTRY_ALONE = "+"
    DIFFERS = "*"
    UNKNOWN = "!"


MEANINGS: Final[Mapping[Sign, str]] = {
    Sign.EVERYWHERE: "confirmed",
    Sign.NOT_REGISTERED: "not in the registry",
    Sign.NOT_IN_BUCKET: "not in the bucket",
    Sign.REGISTRY_ALONE: "in the registry alone",
    Sign.DIFFERS: "other than what was sent",
    Sign.UNKNOWN: "not known",
}


class InBucket(StrEnum):
    """What the bucket says of an instance's object."""

    NOT_ASKED = ""
    SAME = "same bytes"  # by a checksum
    THERE = "there"  # of its size, and nothing vouches for its bytes
    DIFFERS = "other bytes"
    MISSING = "missing"
    UNKNOWN = "unknown"


class InRegistry(StrEnum):
    """What the registry says of an instance."""

    NOT_ASKED = ""
    THERE = "there"
    MISSING = "missing"  # also when it was asked for by itself
    ELSEWHERE = "another study"
    ONE_OF_SEVERAL = "one of several"  # stored files of one UID with other bytes: it has one, this or another
    UNKNOWN = "unknown"


class Retrieved(StrEnum):
    """What the registry's copy of an instance is, beside the file that was sent."""

    NOT_ASKED = ""
    SAME = "same"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    NO_SOURCE = "no source"  # the file is not any more what was sent: there is nothing to compare with


@dataclass(frozen=True, slots=True)
class Sides:
    """What each side says of an instance. `is_stored`: the report calls it stored."""

    is_stored: bool = True
    bucket: InBucket = InBucket.NOT_ASKED
    registry: InRegistry = InRegistry.NOT_ASKED
    retrieved: Retrieved = Retrieved.NOT_ASKED
    is_conflict: bool = False  # ingest found other bytes in the registry
    difference: str = ""  # of the registry's copy, in closed words

    @property
    def is_unknown(self) -> bool:
        """Whether a side that was asked could not say."""
        return (
            self.bucket is InBucket.UNKNOWN
            or self.registry is InRegistry.UNKNOWN
            or self.retrieved is Retrieved.UNKNOWN
        )

    @property
    def differs(self) -> bool:
        """Whether any side has it otherwise than it was sent."""
        return (
            self.bucket is InBucket.DIFFERS
            or self.registry in (InRegistry.ELSEWHERE, InRegistry.ONE_OF_SEVERAL)
            or self.retrieved is Retrieved.DIFFERS
            or self.is_conflict
        )

    @property
    def is_compared(self) -> bool:
        """Whether its bytes were."""
        return self.bucket is InBucket.SAME or self.retrieved is Retrieved.SAME


def sign_of(sides: Sides) -> Sign | None:
    """The sign of an instance; None for one that is not stored anywhere, nor said to be.

    | stored | bucket      | registry  | retrieved        | ingest   | sign |                               |
    | ------ | ----------- | --------- | ---------------- | -------- | ---- | ----------------------------- |
    | no     | any         | there     | any              | any      | +    |                               |
    | no     | any         | any other | any              | any      |      | the report's business         |
    | yes    | missing     | any       | any              | any      | b    | sent again, then registered   |
    | yes    | other bytes | any       | any              | any      | *    |                               |
    | yes    | any other   | any       | differs          | any      | *    |                               |
    | yes    | any other   | any       | any              | conflict | *    | the registry has other bytes  |
    | yes    | any other   | another   | any              | any      | *    | it is in another study there  |
    | yes    | any other   | one of several | any         | any      | *    | two files have its UID        |
    | yes    | any other   | missing   | any              | no       | -    |                               |
    | yes    | unknown     | any other | any other        | no       | !    |                               |
    | yes    | any other   | unknown   | any other        | no       | !    |                               |
    | yes    | any other   | any other | unknown          | no       | !    |                               |
    | yes    | there, same | there     | same, no source  | no       | =    | or not asked, any of the three |
    """
    if not sides.is_stored:
        return Sign.REGISTRY_ALONE if sides.registry is InRegistry.THERE else None
    if sides.bucket is InBucket.MISSING:
        return Sign.NOT_IN_BUCKET
    if sides.differs:
        return Sign.DIFFERS
    if sides.registry is InRegistry.MISSING:
        return Sign.NOT_REGISTERED
    return Sign.UNKNOWN if sides.is_unknown else Sign.EVERYWHERE


def verdict(sides: Sides) -> str:
    """The sign in words: closed ones, joined by "; "."""
    return "; ".join(_clauses(sides, sign_of(sides)))


def _clauses(sides: Sides, sign: Sign | None) -> Iterator[str]:
    match sign:
        case Sign.EVERYWHERE:
            yield (
                "confirmed, its bytes were compared" if sides.is_compared else "confirmed, by its name alone"
            )
        case Sign.NOT_REGISTERED:
            yield "not in the registry"
        case Sign.NOT_IN_BUCKET:
            neither = sides.registry is InRegistry.MISSING
            yield "neither in the bucket nor in the registry" if neither else "not in the bucket"
        case Sign.REGISTRY_ALONE:
            yield "in the registry, and the report does not call it stored"
        case Sign.DIFFERS:
            yield from _differences(sides)
    if sides.bucket is InBucket.UNKNOWN:
        yield "the bucket gave no certain answer"
    if sides.registry is InRegistry.UNKNOWN:
        yield "the registry gave no certain answer"
    if sides.retrieved is Retrieved.UNKNOWN:
        yield "the registry's copy could not be retrieved"
    if sides.retrieved is Retrieved.NO_SOURCE:
        yield "not compared with the registry's copy, for the file is not any more what was sent"


def _differences(sides: Sides) -> Iterator[str]:
    if sides.bucket is InBucket.DIFFERS:
        yield "the bucket has other bytes"
    if sides.retrieved is Retrieved.DIFFERS:
        yield f"the registry's copy differs: {sides.difference}"
    if sides.is_conflict:
        has = "had" if sides.registry is InRegistry.MISSING else "has"
        yield f"the registry {has} other bytes, as ingest found"
    if sides.registry is InRegistry.ELSEWHERE:
        yield "the registry has it in another study"
    if sides.registry is InRegistry.ONE_OF_SEVERAL:
        yield "stored files with other bytes have its UID, and the registry has one of them"
    if sides.registry is InRegistry.MISSING:
        yield "not in the registry"


@dataclass(frozen=True, slots=True)
class SeenObject:
    """A bucket's object, as a listing has it; `crc64nvme` when it was asked for by itself."""

    size_bytes: int
    etag: str
    crc64nvme: str = ""


@dataclass(frozen=True, slots=True)
class SentObject:
    """What the report says of an object."""

    size_bytes: int | None
    md5: str
    etag: str
    crc64nvme: str


def judge_listed(sent: SentObject, seen: SeenObject) -> InBucket | None:
    """What a listing says of an object; None: nothing, it has to be asked for by itself.

    | size    | ETag is the MD5 | said        |
    | ------- | --------------- | ----------- |
    | another | any             | other bytes |
    | same    | yes             | same bytes  |
    | same    | no              |             |
    """
    if sent.size_bytes is not None and sent.size_bytes != seen.size_bytes:
        return InBucket.DIFFERS
    return InBucket.SAME if sent.md5 and _plain(seen.etag) == sent.md5 else None


def judge_asked(sent: SentObject, seen: SeenObject) -> InBucket:
    """The same of an object that was asked for by itself, with its checksum.

    | size, ETag  | CRC64NVME | ETags there are MD5s | said        |                            |
    | ----------- | --------- | ------------------- | ----------- | -------------------------- |
    | say it      | any       | any                 | that        |                            |
    | say nothing | same      | any                 | same bytes  |                            |
    | say nothing | another   | any                 | other bytes |                            |
    | say nothing | none      | yes, and this is another | other bytes | it was the MD5 when it was sent |
    | say nothing | none      | otherwise           | there       |                            |
    """
    if said := judge_listed(sent, seen):
        return said
    if sent.crc64nvme and seen.crc64nvme:
        return InBucket.SAME if sent.crc64nvme == seen.crc64nvme else InBucket.DIFFERS
    was_md5 = bool(sent.md5) and _plain(sent.etag) == sent.md5
    return InBucket.DIFFERS if was_md5 and _is_md5(_plain(seen.etag)) else InBucket.THERE


def _plain(etag: str) -> str:
    return etag.strip('"').lower()


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and all(letter in "0123456789abcdef" for letter in etag)


class SafeToDelete(StrEnum):
    """May the directory go?"""

    YES = "yes"
    UNKNOWN = "unknown"
    NO = "no"


def may_go(status: str, reason: str, detail: str = "") -> bool:
    """Whether a row of the report lets its study's directory go.

    | status                                | reason                             | may go |
    | ------------------------------------- | ---------------------------------- | ------ |
    | uploaded, already_uploaded, duplicate | any                                | yes    |
    | not_dicom                             | dicomdir, empty, text, system_file | yes    |
    | not_dicom                             | archive, whose members have rows   | yes    |
    | not_dicom                             | any other archive, other           | no     |
    | any other                             | any                                | no     |
    """
    if (status, reason, detail) == (Status.NOT_DICOM, Reason.ARCHIVE, ArchiveState.READ):
        return True
    return status in _MAY_GO or (status == Status.NOT_DICOM and reason in _NO_IMAGES)


@dataclass(frozen=True, slots=True)
class StudyStanding:
    """What is known of a study whose directory may go, in counts of its stored instances."""

    is_complete: bool  # without accepted exceptions
    rows_may_go: bool  # all of its rows
    instances: int = 0
    registered: int = 0
    in_bucket: int = 0
    confirmed: int = 0  # sign =
    compared: int = 0  # bytes
    bucket_asked: bool = False

    @property
    def is_proved(self) -> bool:
        """Whether all holds that can be known without a look at the directory."""
        everywhere = self.registered == self.confirmed == self.instances > 0
        in_bucket = self.in_bucket == self.instances or not self.bucket_asked
        return self.is_complete and self.rows_may_go and everywhere and in_bucket


def safe_to_delete(study: StudyStanding, *, is_unchanged: bool) -> SafeToDelete:
    """Whether a study's directory may be deleted (DESIGN.md, section 6).

    `is_unchanged`: the directory holds now exactly the report's files, unchanged.

    | complete | rows may go | unchanged | each registered, in a bucket that was asked | compared | safe    |
    | -------- | ----------- | --------- | ------------------------------------------- | -------- | ------- |
    | yes      | yes         | yes       | yes                                         | yes      | yes     |
    | yes      | yes         | yes       | yes                                         | no       | unknown |
    | yes      | yes         | yes       | no, or not known, or no instance            | any      | no      |
    | yes      | yes         | no        | any                                         | any      | no      |
    | yes      | no          | any       | any                                         | any      | no      |
    | no       | any         | any       | any                                         | any      | no      |
    """
    if not (study.is_proved and is_unchanged):
        return SafeToDelete.NO
    return SafeToDelete.YES if study.compared == study.instances else SafeToDelete.UNKNOWN


def exit_code(by_sign: Mapping[str, int], unknown: int, stopped: int | None = None) -> int:
    """0 when every stored instance is confirmed, 3 when anything stayed unknown, else 1; `stopped` wins.

    What is in the registry alone is no fault of a stored instance.
    """
    if stopped is not None:
        return stopped
    if unknown:
        return 3
    faults = (Sign.NOT_REGISTERED, Sign.NOT_IN_BUCKET, Sign.DIFFERS)
    return int(any(by_sign.get(sign, 0) for sign in faults))
