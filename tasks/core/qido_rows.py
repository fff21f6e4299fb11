"""What rows of a QIDO-RS answer say about studies and instances (DICOM PS3.18, 10.6.3). Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.dicom_json import DataSet, first_number, first_text

RELATED_INSTANCES: Final = "00201208"  # NumberOfStudyRelatedInstances


class Seen(StrEnum):
    """What each row has to have: the UID of what was asked for."""

    STUDY = "0020000D"
    SERIES = "0020000E"
    INSTANCE = "00080018"


@dataclass(frozen=True, slots=True)
class SeenInstance:
    """Where an instance is; empty is what the server left out."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class QidoResult:
    """The instances of one study by their SOP Instance UID, and how many the server says there are."""

    instances: Mapping[str, SeenInstance]
    related: int | None  # NumberOfStudyRelatedInstances; None: it does not say

    @property
    def uids(self) -> frozenset[str]:
        """The SOP Instance UIDs."""
        return frozenset(self.instances)

    @property
    def is_whole(self) -> bool:
        """Whether as many are here as the server says there are; else what is missing has to be asked for."""
        return self.related is not None and len(self.instances) >= self.related


def seen_instances(
    rows: Iterable[DataSet], study_uid: str = "", series_uid: str = ""
) -> dict[str, SeenInstance]:
    """Each instance once; of this study alone, where one is named.

    What a row leaves out is as in the question: in this study, in this series.
    """
    found = {}
    for row in rows:
        study = first_text(row, Seen.STUDY) or study_uid
        if uid := first_text(row, Seen.INSTANCE):
            seen = SeenInstance(study, first_text(row, Seen.SERIES) or series_uid, uid)
            if not study_uid or study == study_uid:
                found[uid] = seen
    return found


def related_instances(rows: Iterable[DataSet], study_uid: str) -> int | None:
    """NumberOfStudyRelatedInstances (0020,1208) of the study; 0 when no row is it, None when it does not say.

    Rows of other studies alone are no answer to the question: None.
    """
    rows = list(rows)
    own = [row for row in rows if first_text(row, Seen.STUDY) == study_uid]
    if own:
        return first_number(own[0], RELATED_INSTANCES)
    return None if rows else 0
