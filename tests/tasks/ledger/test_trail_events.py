"""Which lines of the audit trail a run's files give."""

import json

from tasks.core.audit_chain import Event
from tests.conftest import Dicom, NearSide, superseded
from tests.far_side import FarSide, Step, scripted, url_expired


def test_a_key_is_superseded_when_another_is_issued_and_no_sooner(
    near_side: NearSide, far_side: FarSide, dicom: Dicom
) -> None:
    near_side.put("study/a", dicom("1.1"))
    near_side.put("study/b", dicom("1.2"))
    far_side.script = scripted((Step.PUT, 1, url_expired()))
    run = near_side.run()
    lines = map(json.loads, (near_side.report_dir / "audit.jsonl").read_text().splitlines())
    (key,) = [line["key"] for line in lines if line["event"] == Event.SUPERSEDED]
    assert [keys for row in run.rows.values() if (keys := superseded(row))] == [[key]]
