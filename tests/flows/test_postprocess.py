"""Post-processing: a study's number goes in; its contents go to a file and a webhook, nothing to Prefect."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter

from flows.postprocess import postprocess
from tasks.core.errors import CredentialsRefusedError, StoppedError, UsageError
from tasks.ledger.database import connect, prepare
from tasks.ledger.schema import registered_study
from tests.conftest import instance
from tests.dicomweb_side import DicomwebSide, Step, always, status
from tests.tasks.remote.test_webhook import receiving

STUDY_NO = 17
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def side() -> Iterator[DicomwebSide]:
    with DicomwebSide() as side:
        yield side


@pytest.fixture
def study_uid(
    tmp_path: Path, side: DicomwebSide, only_our_settings: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Of a study with two instances, whose number is in the worker's ledger."""
    files = [instance("2.25.100"), instance("2.25.101")]
    side.put(*files)
    (study_uid,) = {each.study for each in side.stored.values()}
    ledger = tmp_path / "ledger.sqlite"
    engine = connect(ledger)
    prepare(engine)
    with engine.execution_options(writes=True).begin() as db:
        values = {
            "study_no": STUDY_NO,
            "campaign": "default",
            "registry": "r",
            "study_instance_uid": study_uid,
        }
        db.execute(sa.insert(registered_study).values(**values, label="opaque", event_id="event-1"))
    engine.dispose()
    monkeypatch.setenv("DICOM_INGEST_LEDGER", str(ledger))
    monkeypatch.setenv("DICOM_INGEST_DICOMWEB_URL", side.url)
    monkeypatch.setenv("DICOM_INGEST_RESULT_DIR", str(tmp_path / "results"))
    return study_uid


@pytest.mark.usefixtures("prefect_server")
class TestPostprocess:
    def test_delivers_what_the_study_consists_of(
        self, tmp_path: Path, study_uid: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To a private file and to a webhook: the same message."""
        with receiving(204) as server:
            monkeypatch.setenv("DICOM_INGEST_WEBHOOK_URL", server.url)
            monkeypatch.setenv("DICOM_INGEST_WEBHOOK_SECRET", SECRET)
            state = postprocess(STUDY_NO, return_state=True)
        assert state.is_completed()
        assert state.message == "2 instances in 1 series: delivered"
        file = tmp_path / "results" / f"study-{STUDY_NO}.json"
        assert file.stat().st_mode & 0o777 == 0o600
        result = json.loads(file.read_text())
        assert result["type"] == "dicom.study.registered"
        assert (result["study"], result["label"]) == (STUDY_NO, "opaque")
        assert result["data"]["study_instance_uid"] == study_uid
        assert result["data"]["instances"] == 2
        ((headers, body),) = server.got
        assert json.loads(body) == result
        assert headers["webhook-id"] == "event-1"

    def test_tells_prefect_no_uid(self, study_uid: str) -> None:
        """Neither parameters, state, result nor log."""
        state = postprocess(STUDY_NO, return_state=True)
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(state.state_details.flow_run_id)
            logs = client.read_logs(LogFilter(flow_run_id={"any_": [run.id]}))
        said = f"{run.model_dump_json()} {[each.message for each in logs]} {state.result()}"
        assert study_uid not in said
        assert "2.25.100" not in said

    def test_a_study_that_the_ledger_has_not_is_said_with_what_to_do(self, study_uid: str) -> None:
        state = postprocess(99, return_state=True)
        error = state.result(raise_on_failure=False)
        assert isinstance(error, UsageError)
        assert "has no study 99" in str(error)

    @pytest.mark.parametrize(
        ("code", "kind"), [(401, CredentialsRefusedError), (404, StoppedError)], ids=["401", "404"]
    )
    def test_a_server_that_does_not_give_the_metadata_fails_the_run(
        self, side: DicomwebSide, study_uid: str, code: int, kind: type[Exception]
    ) -> None:
        """In one sentence without an address or a UID."""
        side.script = always(Step.METADATA, status(code))
        state = postprocess(STUDY_NO, return_state=True)
        error = state.result(raise_on_failure=False)
        assert isinstance(error, kind), error
        assert state.message is not None
        assert study_uid not in state.message
        assert side.url not in state.message

    def test_somewhere_the_result_has_to_go(self, study_uid: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DICOM_INGEST_RESULT_DIR")
        state = postprocess(STUDY_NO, return_state=True)
        assert "DICOM_INGEST_RESULT_DIR or WEBHOOK_URL" in str(state.message)

    def test_a_directory_that_can_not_be_written_is_said(
        self, tmp_path: Path, study_uid: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without its path, which a person has in the settings."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("DICOM_INGEST_RESULT_DIR", str(tmp_path / "file" / "results"))
        state = postprocess(STUDY_NO, return_state=True)
        assert "can't be written to DICOM_INGEST_RESULT_DIR" in str(state.message)
        assert str(tmp_path) not in str(state.message)
