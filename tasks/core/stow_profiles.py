"""What DICOMweb servers say about an instance that they did not store, and what else differs between them.

Data alone: `stow_answers.py` reads it. A rule has the codes of FailureReason (0008,1197), what they mean, and
the clause that says so. A server's own rules come first, then those of the standard.

Sources: DICOM PS3.18 2024, 10.5 and I.2 (Store Instances Response Module); PS3.7, C; Azure's DICOM
conformance statement, "Store response"; Google's Cloud Healthcare API, DICOM conformance statement; AWS
HealthImaging's developer guide, "STOW-RS"; and what servers answered (tests/data/stow).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Said(StrEnum):
    """What is known about one instance after a STOW-RS request."""

    STORED = "stored"  # by this request, as the server says
    EXISTS = "exists"  # it is there; with the same bytes or with others, that is not said
    SAME = "same"  # it is there, with the same bytes
    CONFLICT = "conflict"  # it is there, with other bytes
    REJECTED = "rejected"  # the server will not store it
    LATER = "later"  # not now: ask again
    UNKNOWN = "unknown"  # QIDO-RS has to say; `settled` is what follows


@dataclass(frozen=True, slots=True)
class Rule:
    """What codes mean, and of UNKNOWN, what it becomes when QIDO-RS shows the instance, or does not."""

    first: int
    last: int
    said: Said
    word: str  # for the report: closed, in small letters
    clause: str
    if_there: Said = Said.EXISTS
    if_absent: Said = Said.REJECTED


@dataclass(frozen=True, slots=True)
class Profile:
    """The ways of one server."""

    name: str
    rules: tuple[Rule, ...] = ()
    # A same-UID instance with other bytes may be said to be stored though the old bytes were kept, or both:
    # what is there has to be asked for before the first STOW-RS request, too.
    keeps_old_silently: bool = True
    keeps_old_clause: str = "PS3.18 10.5.1 leaves it to the server what becomes of an instance that it has"
    # What was never stored may be said to be, too: only QIDO-RS shows it.
    lists_refused: bool = False
    lists_refused_clause: str = "PS3.18 10.5.3.2: ReferencedSOPSequence names what was stored"
    # A study is not searched for instances, only its series are.
    by_series: bool = False
    by_series_clause: str = "PS3.18 10.6.1: Study's Instances is a resource of its own"
    page_rows: int = 200  # of a QIDO-RS page; some refuse to be asked for more
    page_clause: str = "PS3.18 8.3.4.4 lets a server bound its pages"


def _rule(code: int, said: Said, word: str, clause: str, **settled: Said) -> Rule:
    return Rule(code, code, said, word, clause, **settled)


_I2: Final = "PS3.18 I.2.2, Failure Reason"
STANDARD: Final = (
    _rule(0x0110, Said.UNKNOWN, "processing_failure", f"{_I2}: 0110, a general failure"),
    _rule(0x0111, Said.EXISTS, "duplicate", "PS3.7 C.5: 0111, Duplicate SOP Instance"),
    _rule(0x0117, Said.REJECTED, "invalid_instance", "PS3.7 C.5: 0117, Invalid Object Instance"),
    _rule(0x0119, Said.CONFLICT, "class_conflict", "PS3.7 C.5: 0119, Class-Instance conflict"),
    _rule(0x0122, Said.REJECTED, "sop_class_not_supported", f"{_I2}: 0122"),
    _rule(0x0124, Said.REJECTED, "not_authorized", "PS3.7 C.5: 0124, Refused: Not Authorized"),
    _rule(0x0213, Said.LATER, "resource_limitation", "PS3.7 C.5: 0213, Resource limitation"),
    Rule(0xA700, 0xA7FF, Said.LATER, "out_of_resources", f"{_I2}: A7xx"),
    Rule(0xA900, 0xA9FF, Said.REJECTED, "does_not_match_sop_class", f"{_I2}: A9xx"),
    _rule(0xC122, Said.REJECTED, "transfer_syntax_not_supported", f"{_I2}: C122"),
    Rule(0xC000, 0xCFFF, Said.REJECTED, "cannot_understand", f"{_I2}: Cxxx"),
)
# A failure for which no rule is: another code, a text, none. It may well be that it is there already.
OTHER: Final = Rule(0, 0, Said.UNKNOWN, "no_known_reason", "PS3.18 10.5.3.2: FailureReason says why")

_AZURE: Final = "Azure, DICOM conformance statement, Store failure reason codes"
PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("generic"),
        Profile(
            "orthanc",
            (
                _rule(
                    0x0110,
                    Said.UNKNOWN,
                    "processing_failure",
                    "orthanc-dicomweb 1.7: of another study than the address names, or not stored",
                ),
            ),
            keeps_old_clause=(
                "orthanc 1.10.1: without OverwriteInstances the old bytes are kept, and 200 lists it"
            ),
            lists_refused=True,
            lists_refused_clause="orthanc 1.10.1: 200 lists what a ReceivedInstanceFilter refused",
            page_rows=1000,
            page_clause="orthanc-dicomweb 1.7: no bound of its own (LimitFindInstances aside)",
        ),
        Profile(
            "dcm4chee",
            keeps_old_clause="dcm4chee-arc 5: the overwrite policy decides, and the answer does not say",
            page_rows=1000,
            page_clause="dcm4chee-arc 5: dcmQueryMaxNumberOfResults, unlimited by default",
        ),
        Profile(
            "azure",
            (
                _rule(0xA900, Said.REJECTED, "failed_validation", f"{_AZURE}: 43264"),
                _rule(0xA901, Said.REJECTED, "another_study", f"{_AZURE}: 43265"),
                _rule(0xB00E, Said.EXISTS, "already_stored", f"{_AZURE}: 45070"),
                _rule(0xB00F, Said.LATER, "being_created", f"{_AZURE}: 45071"),
            ),
            keeps_old_silently=False,
            keeps_old_clause=f"{_AZURE}: 45070 for every instance that is there",
            page_rows=200,
            page_clause="Azure, DICOM conformance statement, Search: limit is at most 200",
        ),
        Profile(
            "google",
            (
                _rule(
                    0x0110,
                    Said.UNKNOWN,
                    "processing_failure",
                    "Google answers 409 with 272 to other bytes under a UID, and to an invalid file",
                    if_there=Said.CONFLICT,
                ),
            ),
            keeps_old_silently=False,
            keeps_old_clause="Google: 200 for the same bytes, 409 with 272 for others",
            page_rows=1000,
            page_clause="Google, DICOM conformance statement, Search transaction",
        ),
        Profile(
            "healthimaging",
            keeps_old_clause="HealthImaging takes other bytes into an image set that is not primary",
            by_series=True,
            by_series_clause="HealthImaging, Searching DICOM data: instances need a study and a series",
            page_rows=100,
            page_clause="HealthImaging, Searching DICOM data: at most 10,000 records",
        ),
    )
}
