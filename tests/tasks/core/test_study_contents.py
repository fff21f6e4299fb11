"""What a study consists of, from metadata in DICOM JSON."""

from typing import Any

import pytest

from tasks.core.study_contents import MODALITY, first_value, study_contents

CT = "1.2.840.10008.5.1.4.1.1.2"


def data_set(series: str, instance: str, modality: str = "CT", sop_class: str = CT) -> dict[str, Any]:
    """As a server gives it."""
    values = {"0020000E": series, "00080018": instance, "00080060": modality, "00080016": sop_class}
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items()}


def test_instances_are_counted_by_series() -> None:
    """In the order of their UIDs; with what classes of objects each has."""
    metadata = [data_set("2.2", "1"), data_set("2.1", "2"), data_set("2.1", "3", sop_class="1.9")]
    found = study_contents("2", metadata)
    assert found["instances"] == 3
    assert found["study_instance_uid"] == "2"
    first, second = found["series"]
    assert (first["series_instance_uid"], first["instances"]) == ("2.1", 2)
    assert first["sop_classes"] == {CT: 1, "1.9": 1}
    assert (second["series_instance_uid"], second["modality"]) == ("2.2", "CT")


def test_an_instance_that_a_server_repeats_counts_once() -> None:
    assert study_contents("2", [data_set("2.1", "1")] * 3)["instances"] == 1


def test_a_study_without_instances_has_none() -> None:
    assert study_contents("2", []) == {"study_instance_uid": "2", "instances": 0, "series": []}


@pytest.mark.parametrize("element", [None, [], {}, {"Value": None}, {"Value": []}, {"Value": [{}]}, "CT"])
def test_an_element_of_another_form_has_no_value(element: Any) -> None:
    """PS3.18, F.2.5: Value is left out where there is none."""
    assert first_value({MODALITY: element}, MODALITY) == ""
