"""Prefect's events of a run, and the automations that come with the deployments."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL

from flows.backfill import backfill
from flows.orchestration.parameters import Options
from tests.far_side import TOKEN, FarSide, Step, always, once_begun, status
from tests.flows.conftest import Plant, cut
from tests.prefect_server import events_of

AUTOMATIONS = Path(__file__).parents[3] / "deployments" / "automations.yaml"
AUTOMATION_DATA = yaml.safe_load(AUTOMATIONS.read_text())["automations"]


@pytest.mark.usefixtures("prefect_server", "at_sandbox")
class TestEvents:
    def test_tell_the_end_and_incomplete_studies(self, tmp_path: Path, plant: Plant) -> None:
        """At most twenty of them; none with a path."""
        plant(tmp_path / "good", 2)
        cut(*plant(tmp_path / "bad").values())
        dirs = ["good,first", "bad,second", *(f"gone{number}," for number in range(25))]
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("\n".join(["study_dir,label", *dirs]))
        options = Options(campaign="events-1")
        backfill(str(manifest), report_dir=str(tmp_path / "report"), options=options, return_state=True)
        events = events_of("events-1", 21)
        by_kind = sorted(event["event"] for event in events)
        assert by_kind == ["dicom-ingest.backfill.incomplete"] + ["dicom-ingest.study.incomplete"] * 20
        end = next(event for event in events if event["event"].endswith("backfill.incomplete"))
        assert end["payload"]["by_status"] == {"uploaded": 2, "invalid": 1, "missing": 25}
        assert any(related["prefect.resource.role"] == "flow-run" for related in end["related"])
        assert {"second", "study 3"} <= {event["resource"]["prefect.resource.name"] for event in events}
        assert str(tmp_path) not in str(events)

    def test_tell_that_all_is_well(self, tmp_path: Path, plant: Plant) -> None:
        plant(tmp_path / "good", 1)
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("study_dir\ngood\n")
        options = Options(campaign="events-2")
        backfill(str(manifest), report_dir=str(tmp_path / "report"), options=options, return_state=True)
        assert [event["event"] for event in events_of("events-2", 1)] == ["dicom-ingest.backfill.completed"]

    @pytest.mark.parametrize("from_the_start", [True, False])
    def test_tell_that_credentials_were_refused(
        self,
        tmp_path: Path,
        plant: Plant,
        far_side: FarSide,
        monkeypatch: pytest.MonkeyPatch,
        from_the_start: bool,
    ) -> None:
        """Whenever that is: the automation pauses the schedule for either."""
        monkeypatch.delenv("DICOM_INGEST_TOKEN_URL")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        refused = always(Step.PRESIGN, status(401))
        far_side.script = refused if from_the_start else once_begun(refused)
        plant(tmp_path / "good", 1)
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("study_dir\ngood\n")
        campaign = f"events-refused-{from_the_start}"
        state = backfill(
            str(manifest),
            api_endpoint=far_side.url,
            report_dir=str(tmp_path / "report"),
            options=Options(campaign=campaign),
            return_state=True,
        )
        assert state.is_failed()
        end = next(
            each for each in events_of(campaign, 1) if each["event"] == "dicom-ingest.backfill.stopped"
        )
        assert end["payload"]["exit_code"] == 4
        stopped = [
            data for data in AUTOMATION_DATA if "dicom-ingest.backfill.stopped" in str(data["trigger"])
        ]
        assert [data["actions"][0]["type"] for data in stopped] == ["pause-deployment"]


class TestAutomations:
    def test_have_no_key_that_prefect_would_drop(self) -> None:
        for data in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            automation = AutomationCore.model_validate(data)
            assert set(data) <= set(AutomationCore.model_fields)
            assert set(data["trigger"]) <= set(type(automation.trigger).model_fields)
            for action, given in zip(automation.actions, data["actions"], strict=True):
                assert set(given) <= set(type(action).model_fields)

    def test_are_taken_by_a_server(self, prefect_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As README says."""
        monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        monkeypatch.setenv("PREFECT_HOME", str(prefect_server))
        prefect = str(Path(sys.executable).with_name("prefect"))
        done = subprocess.run(
            [prefect, "automation", "create", "--from-file", str(AUTOMATIONS)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with get_client(sync_client=True) as client:
            for data in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
                assert client.read_automations_by_name(data["name"]) != []
