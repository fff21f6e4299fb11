"""The flow ingest: batches are its tasks, counts its state, and Prefect learns nothing more."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.ingest import ingest
from flows.orchestration.arrivals import EVENT
from flows.orchestration.parameters import RegistrationOptions
from tasks.core.errors import CredentialsRefusedError, NotAllStoredError, UsageError
from tasks.run.ingest_bounds import load_bounded_ingest
from tests.conftest import instance, padded
from tests.dicomweb_side import DicomwebSide, Reply, Step, always
from tests.object_store import ObjectStore, object_store
from tests.pipeline_side import PipelineSide
from tests.prefect_server import database_with, events_of, texts_below

CANARY = "Canary^Jane_19700101"
UID = "1.2.826.0.1.99.424242"
TOKEN = "canary-dicomweb-token-7f3a"
_numbers = count(1)


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def side(
    whole_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_our_settings: None
) -> Iterator[PipelineSide]:
    """The worker's environment names bucket and registry."""
    whole = whole_store
    store = ObjectStore(whole.client, f"flow-{next(_numbers)}/", whole.environment)
    with DicomwebSide() as registry:
        monkeypatch.setenv("DICOM_INGEST_BUCKET", store.address)
        monkeypatch.setenv("DICOM_INGEST_DICOMWEB_URL", registry.url)
        monkeypatch.setenv("DICOM_INGEST_REPORT_DIR", str(tmp_path / "report"))
        yield PipelineSide(store, registry, tmp_path)


def ingested(**parameters: Any) -> State[Any]:
    return ingest(return_state=True, **parameters)


def counts_of(state: State[Any]) -> dict[str, Any]:
    result = state.result(raise_on_failure=False)
    counts = result.counts if isinstance(result, NotAllStoredError) else result
    assert isinstance(counts, dict), result
    return counts


@pytest.mark.processes
@pytest.mark.usefixtures("prefect_server")
class TestFlow:
    def test_is_completed_with_counts(self, side: PipelineSide) -> None:
        for number in range(3):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        state = ingested()
        assert state.is_completed()
        assert state.message == "3 objects: 3 registered"
        counts = counts_of(state)
        assert counts["by_status"] == {"registered": 3}
        assert set(counts) == {"run_id", "exit_code", "objects", "by_status"}

    def test_is_failed_with_counts_when_an_object_is_held_back(self, side: PipelineSide) -> None:
        side.put("good", instance("1.2.1"))
        side.put("bad", b"no DICOM")
        state = ingested()
        assert state.is_failed()
        assert "1 of 2 objects not registered, see registration.csv" in str(state.message)
        assert counts_of(state)["exit_code"] == 1

    def test_is_failed_with_one_sentence_when_it_can_not_begin(self, side: PipelineSide) -> None:
        state = ingested(bucket="s3://nobucket")
        assert state.is_failed()
        assert isinstance(state.result(raise_on_failure=False), UsageError)
        assert not (side.directory / "report").exists()

    def test_credentials_that_are_refused_are_said(self, side: PipelineSide) -> None:
        side.registry.script = always(Step.QUERY, Reply(401))
        assert isinstance(ingested().result(raise_on_failure=False), CredentialsRefusedError)

    def test_what_its_form_leaves_open_is_the_worker_s(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        state = ingested(options=RegistrationOptions(after="move"))
        assert state.is_completed()
        assert side.store.keys() == []

    def test_a_study_that_has_arrived_is_announced_once(self, side: PipelineSide) -> None:
        """When the run ends, with what it is known by: its number and its instances."""
        for number in range(3):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        campaign = f"arrived-{next(_numbers)}"
        options = RegistrationOptions(campaign=campaign, quiet_after=0)
        assert ingested(options=options).is_completed()
        assert ingested(options=options).is_completed()
        (event,) = events_of(campaign, 1, EVENT)
        assert event["payload"] == {
            "campaign": campaign,
            "study": 1,
            "label": "",
            "instances": 3,
            "completion": 1,
        }

    def test_prefect_learns_no_key_no_uid_and_no_secret(
        self,
        side: PipelineSide,
        prefect_server: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Whatever goes wrong."""
        monkeypatch.setenv("DICOM_INGEST_DICOMWEB_TOKEN", TOKEN)
        side.registry.authorizations.add(f"Bearer {TOKEN}")
        for number in range(3):
            side.put(f"{CANARY}-{number}", instance(f"{UID}.{number}"))
        side.put(f"{CANARY}-cut", instance(f"{UID}.7")[:-40])
        side.put(f"{CANARY}-other", instance(f"{UID}.1", "other bytes"))
        side.registry.script = lambda request: Reply(500) if request.n == 2 else None
        monkeypatch.setenv("DICOM_INGEST_RETRIES", '["server=0"]')
        assert ingested().is_failed()
        monkeypatch.delenv("DICOM_INGEST_DICOMWEB_TOKEN")
        ingested()
        kept = database_with("Not everything is registered", "refused the request")
        kept = "\n".join([kept, *texts_below(prefect_server), caplog.text, *capsys.readouterr()]).lower()
        secret = side.store.environment["AWS_SECRET_ACCESS_KEY"]
        canaries = [CANARY, UID, padded(f"{UID}.1"), TOKEN, secret, "1.2.3.4"]
        assert [canary for canary in canaries if canary.lower() in kept] == []
        rows = (side.directory / "report" / "registration.csv").read_text()
        assert CANARY in rows, "where it belongs"


class TestBounds:
    """Who may start a run in Prefect's UI does not get more than the worker's environment says."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("bucket", "s3://another"),
            ("dicomweb_url", "http://127.0.0.1:1/another"),
            ("ledger", "postgresql://elsewhere/db"),
            ("allow_http", True),
            ("bucket_read_only", False),
        ],
    )
    def test_a_parameter_may_narrow_them_alone(
        self, name: str, value: Any, monkeypatch: pytest.MonkeyPatch, only_our_settings: None
    ) -> None:
        ours = {
            "BUCKET": "s3://uploads/in/",
            "DICOMWEB_URL": "http://127.0.0.1:80/dicom-web",
            "LEDGER": "postgresql://db/ledger",
            "ALLOW_HTTP": "false",
            "BUCKET_READ_ONLY": "true",
        }
        for variable, text in ours.items():
            monkeypatch.setenv(f"DICOM_INGEST_{variable}", text)
        assert load_bounded_ingest({"bucket": "s3://uploads/in/today/"}).address.prefix == "in/today/"
        with pytest.raises(UsageError, match=f"{name} goes beyond"):
            load_bounded_ingest({name: value})

    def test_credentials_go_to_the_address_that_is_named_beside_them(
        self, monkeypatch: pytest.MonkeyPatch, only_our_settings: None
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_DICOMWEB_TOKEN", TOKEN)
        given = {"bucket": "s3://uploads", "dicomweb_url": "http://127.0.0.1:1/dicom-web"}
        with pytest.raises(UsageError, match="dicomweb_url goes beyond") as caught:
            load_bounded_ingest(given)
        assert TOKEN not in str(caught.value)
