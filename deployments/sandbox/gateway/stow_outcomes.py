"""What became of each instance of a STOW-RS request, and how PS3.18 has it said.

The Store Instances Response Module is PS3.18 table I.1-1; statuses are those of its table 10.5.3-1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from tasks.core.models import Header, Reason, Rejected

JSON_TYPE: Final = "application/dicom+json"
XML_TYPE: Final = "application/dicom+xml"
_KEYWORDS: Final = {
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081190": "RetrieveURL",
    "00081196": "WarningReason",
    "00081197": "FailureReason",
    "00081198": "FailedSOPSequence",
    "00081199": "ReferencedSOPSequence",
    "0008119A": "OtherFailuresSequence",
}
_NATIVE_DICOM: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
DataSet = dict[str, dict[str, Any]]


class FailureReason(IntEnum):
    """Of (0008,1197). PS3.18 table I.2-2 has all but DUPLICATE, and leaves what is within A9xx to servers."""

    PROCESSING = 0x0110
    DUPLICATE = 0x0111  # of PS3.7: other bytes under the same UID, in one request
    SOP_CLASS = 0x0122  # not supported: the index of a disc
    OUT_OF_RESOURCES = 0xA700
    DATA_SET = 0xA900  # does not match its SOP class: it lacks what each has
    OTHER_STUDY = 0xA901  # another Study Instance UID than the path's (10.5.3.1: a reason for 409)
    NOT_UNDERSTOOD = 0xC000


class WarningReason(IntEnum):
    """Of (0008,1196), PS3.18 table I.2-1."""

    SOP_CLASS = 0xB007  # the data set does not match the SOP class that its file names


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one part: stored, where there is no failure. `header` as far as it was read."""

    header: Header | None
    failure: FailureReason | None = None
    warning: WarningReason | None = None


def why_not(found: Header | Rejected, study_uid: str) -> FailureReason | None:
    """Why an instance is not taken, if so; `study_uid` is the path's, empty where it names none.

    Leading zeros in a UID pass, as in files. A part without preamble, cut off or malformed is not understood.
    """
    if isinstance(found, Rejected):
        is_index = found.reason is Reason.DICOMDIR
        return FailureReason.SOP_CLASS if is_index else FailureReason.NOT_UNDERSTOOD
    if not (found.study_instance_uid and found.series_instance_uid and found.sop_class_uid):
        return FailureReason.DATA_SET
    if study_uid and found.study_instance_uid != study_uid:
        return FailureReason.OTHER_STUDY
    return None


def status_of(outcomes: Sequence[Outcome]) -> int:
    """200: all are stored; 202: some, or with a warning; 409: none."""
    if all(outcome.failure for outcome in outcomes):
        return 409
    return 202 if any(outcome.failure or outcome.warning for outcome in outcomes) else 200


def response_module(outcomes: Iterable[Outcome], base_url: str) -> DataSet:
    """The data set of the answer, in DICOM JSON's model (PS3.18 F.2)."""
    stored, failed, other = [], [], []
    studies = set()
    for outcome in outcomes:
        header = outcome.header
        if outcome.failure is None:
            assert header
            studies.add(header.study_instance_uid)
            stored.append(_reference(header) | _stored(outcome, _instance_url(base_url, header)))
        elif header and header.sop_instance_uid:
            failed.append(_reference(header) | _element("00081197", "US", outcome.failure))
        else:
            other.append(_element("00081197", "US", outcome.failure))
    module: DataSet = {}
    if len(studies) == 1:
        module |= _element("00081190", "UR", f"{base_url}/studies/{studies.pop()}")
    sequences = {"00081198": failed, "00081199": stored, "0008119A": other}
    return module | {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}


def _stored(outcome: Outcome, url: str) -> DataSet:
    warning = _element("00081196", "US", outcome.warning) if outcome.warning else {}
    return _element("00081190", "UR", url) | warning


def _instance_url(base_url: str, header: Header) -> str:
    study, series = header.study_instance_uid, header.series_instance_uid
    return f"{base_url}/studies/{study}/series/{series}/instances/{header.sop_instance_uid}"


def _reference(header: Header) -> DataSet:
    sop_class = _element("00081150", "UI", header.sop_class_uid) if header.sop_class_uid else {}
    return sop_class | _element("00081155", "UI", header.sop_instance_uid)


def _element(tag: str, vr: str, value: str | int) -> DataSet:
    return {tag: {"vr": vr, "Value": [int(value) if isinstance(value, int) else value]}}


def native_xml(module: DataSet) -> str:
    """The same as Native DICOM Model (PS3.19 A.1)."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns={quoteattr(_NATIVE_DICOM)}>'
        f"{_attributes(module)}</NativeDicomModel>\n"
    )


def _attributes(module: DataSet) -> str:
    return "".join(
        f'<DicomAttribute tag="{tag}" vr="{element["vr"]}" keyword="{_KEYWORDS[tag]}">'
        f"{_values(element['Value'])}</DicomAttribute>"
        for tag, element in sorted(module.items())
    )


def _values(values: Iterable[Any]) -> str:
    return "".join(_value(number, value) for number, value in enumerate(values, 1))


def _value(number: int, value: Any) -> str:
    if isinstance(value, dict):
        return f'<Item number="{number}">{_attributes(value)}</Item>'
    return f'<Value number="{number}">{escape(str(value))}</Value>'
