"""What an answer to STOW-RS says about each instance that was sent (DICOM PS3.18, 10.5.3). Pure.

The HTTP status says all, some or none, never which: so each SOP Instance UID is looked for in the body, of
whatever status. What no sequence names is unknown until QIDO-RS has said.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tasks.core.dicom_json import DataSet, NotDicomError, data_sets, first_number, first_text, items
from tasks.core.stow_profiles import OTHER, STANDARD, Profile, Rule, Said

REFERENCED_SOP_SEQUENCE: Final = "00081199"
FAILED_SOP_SEQUENCE: Final = "00081198"
OTHER_FAILURES_SEQUENCE: Final = "0008119A"
REFERENCED_SOP_INSTANCE_UID: Final = "00081155"
FAILURE_REASON: Final = "00081197"
WARNING_REASON: Final = "00081196"

_NO_CODE: Final = frozenset({None, 0})
# PS3.18 I.2.1, Warning Reason.
_WARNINGS: Final = {0xB000: "coerced", 0xB006: "elements_discarded", 0xB007: "does_not_match_sop_class"}
_OTHER_WARNING: Final = "other"
WARNINGS: Final = (*_WARNINGS.values(), _OTHER_WARNING)
NOT_NAMED: Final = "not_named"
IN_BOTH: Final = "in_both_sequences"
NOT_KEPT: Final = "not_kept"


@dataclass(frozen=True, slots=True)
class InstanceAnswer:
    """What one answer says about one instance.

    `detail` is for the report: closed words, the code in hexadecimal digits, the HTTP status; never anything
    that the server wrote. `if_there`, `if_absent`: what UNKNOWN becomes once QIDO-RS has been asked.
    """

    sop_instance_uid: str
    said: Said
    code: int | None = None  # FailureReason or WarningReason
    detail: str = ""
    if_there: Said = Said.EXISTS
    if_absent: Said = Said.LATER

    def settled(self, *, is_there: bool) -> Said:
        """What is known when QIDO-RS has shown the instance, or has not."""
        if self.said is not Said.UNKNOWN:
            return self.said
        return self.if_there if is_there else self.if_absent

    def refused(self) -> "InstanceAnswer":
        """Said to be stored, and QIDO-RS does not show it: the server did not keep it."""
        return replace(self, said=Said.REJECTED, detail=NOT_KEPT)


def instance_answers(profile: Profile, status: int, body: bytes, sent: Sequence[str]) -> list[InstanceAnswer]:
    """One for each UID that was sent, in order.

    | the body's sequences name it as           | status | said            | QIDO-RS shows it / does not |
    | ----------------------------------------- | ------ | --------------- | --------------------------- |
    | referenced                                | any    | stored          |                             |
    | referenced, with a WarningReason          | any    | stored          |                             |
    | failed, with a code for which a rule is   | any    | what it says    | what it says                |
    | failed, with another code, a text or none | any    | unknown         | exists / rejected           |
    | failed, without UIDs, as many, one reason | any    | as with a UID   | as with a UID               |
    | failed, without UIDs, as many, others     | any    | unknown         | exists / rejected           |
    | referenced and failed                     | any    | unknown         | exists / later              |
    | neither, or there is no body              | 4xx    | unknown         | exists / rejected           |
    | neither, or there is no body              | other  | unknown         | exists / later              |
    | the body is neither DICOM JSON nor XML    | 4xx    | unknown         | exists / rejected           |
    | the body is neither DICOM JSON nor XML    | other  | unknown         | exists / later              |
    """
    try:
        found = data_sets(body)
    except NotDicomError:
        found = []
    referenced = _by_uid(found, REFERENCED_SOP_SEQUENCE)
    failed = _by_uid(found, FAILED_SOP_SEQUENCE)
    unnamed = [uid for uid in sent if uid not in referenced and uid not in failed]
    nameless = _nameless(found, len(unnamed))
    if nameless is not None:
        failed |= dict.fromkeys(unnamed, nameless)
    return [_answer(profile, status, uid, referenced.get(uid), failed.get(uid)) for uid in sent]


def names_any(answers: Iterable[InstanceAnswer]) -> bool:
    """Whether a body said anything about an instance that was sent."""
    return any(not each.detail.startswith(NOT_NAMED) for each in answers)


def _answer(
    profile: Profile, status: int, uid: str, referenced: DataSet | None, failed: DataSet | None
) -> InstanceAnswer:
    if referenced is not None and failed is not None:
        return InstanceAnswer(uid, Said.UNKNOWN, None, f"{IN_BOTH} http_{status}")
    if referenced is not None:
        return _of_stored(uid, referenced)
    if failed is not None:
        return _of_failed(profile, uid, failed)
    if_absent = Said.REJECTED if 400 <= status < 500 else Said.LATER
    return InstanceAnswer(uid, Said.UNKNOWN, None, f"{NOT_NAMED} http_{status}", if_absent=if_absent)


def _of_stored(uid: str, item: DataSet) -> InstanceAnswer:
    code = first_number(item, WARNING_REASON)
    if code in _NO_CODE:
        return InstanceAnswer(uid, Said.STORED)
    warning = _WARNINGS.get(code or 0, _OTHER_WARNING)
    return InstanceAnswer(uid, Said.STORED, code, f"warning {warning} {_hex(code)}")


def _of_failed(profile: Profile, uid: str, item: DataSet) -> InstanceAnswer:
    code = _code(item)
    rule = next((each for each in (*profile.rules, *STANDARD) if _holds(each, code)), OTHER)
    detail = rule.word if code is None else f"{rule.word} {_hex(code)}"
    return InstanceAnswer(uid, rule.said, code, detail, rule.if_there, rule.if_absent)


def _holds(rule: Rule, code: int | None) -> bool:
    return code is not None and rule.first <= code <= rule.last


def _code(item: DataSet) -> int | None:
    """FailureReason, a US; some write four hexadecimal digits, or words, of which no use is made."""
    text = first_text(item, FAILURE_REASON)
    if re.fullmatch(r"[A-Fa-f][0-9A-Fa-f]{3}|0[0-9A-Fa-f]{3}", text):
        return int(text, 16)
    code = first_number(item, FAILURE_REASON)
    return code if code is not None and 0 < code <= 0xFFFF else None


def _hex(code: int | None) -> str:
    return f"{(code or 0) & 0xFFFF:04X}"


def _nameless(found: Sequence[DataSet], count: int) -> DataSet | None:
    """What is said of the instances that are named nowhere, when there are as many failures without a UID.

    Some servers leave the UID out of FailedSOPSequence; OtherFailuresSequence has none.
    """
    failures = [
        item
        for data_set in found
        for sequence in (FAILED_SOP_SEQUENCE, OTHER_FAILURES_SEQUENCE)
        for item in items(data_set, sequence)
        if not first_text(item, REFERENCED_SOP_INSTANCE_UID)
    ]
    if not failures or len(failures) != count:
        return None
    return failures[0] if len(set(map(_code, failures))) == 1 else {}


def _by_uid(found: Sequence[DataSet], sequence: str) -> dict[str, DataSet]:
    return {
        uid: item
        for data_set in found
        for item in items(data_set, sequence)
        if (uid := first_text(item, REFERENCED_SOP_INSTANCE_UID))
    }
