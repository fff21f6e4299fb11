"""What a study consists of, from its metadata in the DICOM JSON model (PS3.18, annex F). Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

SOP_CLASS_UID: Final = "00080016"
SOP_INSTANCE_UID: Final = "00080018"
MODALITY: Final = "00080060"
SERIES_INSTANCE_UID: Final = "0020000E"


def first_value(data_set: Mapping[str, Any], tag: str) -> str:
    """The first value of an element as text; empty where it has none, or is of another form."""
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    value = values[0] if isinstance(values, list) and values else None
    return str(value) if isinstance(value, str | int | float) else ""


def study_contents(study_instance_uid: str, metadata: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Its instances by series, with their modality and SOP classes; each SOP Instance UID counts once."""
    instances = {first_value(each, SOP_INSTANCE_UID): each for each in metadata}
    series: dict[str, list[Mapping[str, Any]]] = {}
    for each in instances.values():
        series.setdefault(first_value(each, SERIES_INSTANCE_UID), []).append(each)
    return {
        "study_instance_uid": study_instance_uid,
        "instances": len(instances),
        "series": [_series(uid, series[uid]) for uid in sorted(series)],
    }


def _series(series_instance_uid: str, instances: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "series_instance_uid": series_instance_uid,
        "modality": first_value(instances[0], MODALITY),
        "instances": len(instances),
        "sop_classes": dict(sorted(Counter(first_value(each, SOP_CLASS_UID) for each in instances).items())),
    }
