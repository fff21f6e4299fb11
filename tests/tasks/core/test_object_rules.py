"""What holds an object back from a registry."""

import pytest

from tasks.core.models import Flaw, Header, Reason, Rejected, Status
from tasks.core.object_outcomes import Expected
from tasks.core.object_rules import ObjectRule, Unfit, is_storage_class, judge_object

CT = "1.2.840.10008.5.1.4.1.1.2"
GOOD = Header("1.2", "1.3", "1.4", CT, "1.2.840.10008.1.2.1")
SHA = "ab" * 32


def rejected(reason: Reason, detail: str = "", header: Header | None = GOOD) -> Rejected:
    status = Status.NOT_DICOM if reason in (Reason.EMPTY, Reason.TEXT, Reason.DICOMDIR) else Status.INVALID
    return Rejected(status, reason, header, detail=detail)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (GOOD, ""),
        (rejected(Reason.EMPTY, header=None), "empty"),
        (rejected(Reason.TEXT, header=None), "not_dicom text"),
        (rejected(Reason.DICOMDIR, header=None), "not_dicom dicomdir"),
        (rejected(Reason.NO_PREAMBLE), "no_preamble"),
        (rejected(Reason.TRUNCATED, Flaw.IN_PIXELS), f"truncated {Flaw.IN_PIXELS}"),
        (rejected(Reason.MALFORMED, Flaw.ENDLESS_ELEMENT), f"malformed {Flaw.ENDLESS_ELEMENT}"),
        (rejected(Reason.MALFORMED, Flaw.NO_UID_AT_ALL), f"malformed {Flaw.NO_UID_AT_ALL}"),
        (rejected(Reason.NO_UID, header=None), "no_uid"),
        (Header("1.2", "", "1.4", CT), "no_study"),
        (Header("01.2", "1.03", "1.4", CT), ""),
        (Header("1.2", "1.3", "1.4", "1.2.840.10008.1.1"), "not_storage"),
        (Header("1.2", "1.3", "1.4", ""), "not_storage"),
        (Header("1.2", "1.3", "1.4", "1.3.12.2.1107"), ""),
    ],
)
def test_each_rule_holds_back_what_it_is_for(found: Header | Rejected, why: str) -> None:
    unfit = judge_object(found, SHA, Expected())
    assert (f"{unfit.reason} {unfit.detail}".rstrip() if unfit else "") == why


@pytest.mark.parametrize(
    ("expected", "sha256", "why"),
    [
        (Expected("1.2", SHA), SHA, ""),
        (Expected("1.2", ""), SHA, ""),
        (Expected("1.9", SHA), SHA, "other_instance"),
        (Expected("1.2", "cd" * 32), SHA, "other_content"),
        (Expected("1.2", "cd" * 32), "", ""),
    ],
)
def test_a_key_holds_what_was_uploaded_to_it(expected: Expected, sha256: str, why: str) -> None:
    unfit = judge_object(GOOD, sha256, expected)
    assert (unfit.reason if unfit else "") == why
    assert judge_object(GOOD, sha256, expected, {ObjectRule.UPLOADED}) is None


@pytest.mark.parametrize(
    ("found", "off"),
    [
        (rejected(Reason.TRUNCATED, Flaw.IN_PIXELS), {ObjectRule.PART10}),
        (rejected(Reason.MALFORMED, Flaw.NO_UID_AT_ALL), {ObjectRule.UIDS}),
        (Header("1.2", "1.3", "1.4", "1.2.840.10008.1.1"), {ObjectRule.STORAGE_CLASS}),
    ],
)
def test_a_rule_is_switched_off_by_its_name(found: Header | Rejected, off: set[ObjectRule]) -> None:
    assert judge_object(found, SHA, Expected()) is not None
    assert judge_object(found, SHA, Expected(), {*ObjectRule} - off) is not None
    assert judge_object(found, SHA, Expected(), off) is None


def test_what_nobody_can_ask_for_is_held_back_whatever_is_switched_off() -> None:
    every = {*ObjectRule}
    nothing = rejected(Reason.NO_UID, header=None)
    for found, why in ((nothing, "no_uid"), (Header("1.2", "", "", CT), "no_study")):
        assert judge_object(found, SHA, Expected(), every) == Unfit(why)  # type: ignore[arg-type]
    assert judge_object(rejected(Reason.TEXT, header=None), SHA, Expected(), every) is not None


def test_storage_classes_are_those_of_the_standard() -> None:
    """By pydicom's list of them."""
    from pydicom._uid_dict import UID_dictionary

    names = {uid: its[0] for uid, its in UID_dictionary.items() if its[1] == "SOP Class"}
    storing = {uid for uid, name in names.items() if "Storage" in name and "Commitment" not in name}
    storing.remove("1.2.840.10008.1.3.10")  # of a disc's index
    found = {uid for uid in names if is_storage_class(uid)}
    assert found - storing <= {"1.2.840.10008.5.1.4.1.1.12.77", "1.2.840.10008.5.1.4.1.1.40"}, "nameless"
    assert storing - found == set()
