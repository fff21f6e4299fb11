"""The flow verify, alone and after a backfill: counts are its state, and Prefect learns nothing more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.backfill import backfill
from flows.verify import verify
from tasks.core.errors import NotAllStoredError, UsageError
from tasks.declaration import environment
from tasks.report.reader import read_report
from tasks.run.verify_bounds import load_bounded_verification
from tasks.verify_settings import VerifySettings
from tests.conftest import NearSide, instance
from tests.dicomweb_side import DicomwebSide, Step, always, status
from tests.far_side import TOKEN
from tests.prefect_server import database_with, texts_below

CANARY = "Canary^Jane_19700101"


@pytest.fixture
def registry() -> Iterator[DicomwebSide]:
    with DicomwebSide() as registry:
        yield registry


@pytest.fixture
def sent(near_side: NearSide, registry: DicomwebSide) -> NearSide:
    """Three instances, in the registry, too."""
    for number in range(3):
        near_side.put(f"{CANARY}/{number}", instance(f"1.7.{number}"))
    near_side.run()
    registry.put(*near_side.far_side.bodies.values())
    return near_side


def verified(sent: NearSide, **parameters: Any) -> State[Any]:
    return verify(report_dir=str(sent.report_dir), return_state=True, **parameters)


def counts_of(state: State[Any]) -> dict[str, Any]:
    result = state.result(raise_on_failure=False)
    counts = result.counts if isinstance(result, NotAllStoredError) else result
    assert isinstance(counts, dict), result
    return counts


@pytest.mark.processes
@pytest.mark.usefixtures("prefect_server")
class TestFlow:
    def test_is_completed_with_counts_when_everything_is_confirmed(
        self, sent: NearSide, registry: DicomwebSide
    ) -> None:
        state = verified(sent, dicomweb_url=registry.url)
        assert state.is_completed()
        assert state.message == "3 instances: 3 confirmed"
        assert counts_of(state)["safe_to_delete"] == {"yes": 0, "unknown": 1, "no": 0}

    def test_is_failed_with_counts_when_something_is_missing(
        self, sent: NearSide, registry: DicomwebSide
    ) -> None:
        registry.delete(next(iter(registry.stored)))
        state = verified(sent, dicomweb_url=registry.url)
        assert state.is_failed()
        assert "3 instances: 2 confirmed, 1 not in the registry" in str(state.message)
        assert (counts_of(state)["exit_code"], counts_of(state)["confirmed"]) == (1, 2)

    def test_is_failed_with_one_sentence_when_it_can_not_begin(self, sent: NearSide) -> None:
        state = verified(sent)
        assert state.is_failed()
        assert isinstance(state.result(raise_on_failure=False), UsageError)

    def test_follows_a_backfill_that_asks_for_it(
        self, sent: NearSide, registry: DicomwebSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the worker's settings; one that has none is known before anything is sent."""
        manifest = tmp_path / "manifest.csv"
        manifest.write_text(f"study_dir\n{sent.archive / CANARY}\n")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        where = {"manifest": str(manifest), "api_endpoint": sent.far_side.url, "verify": True}
        report = tmp_path / "other"
        refused = backfill(report_dir=str(report), return_state=True, **where)
        assert isinstance(refused.result(raise_on_failure=False), UsageError)
        assert not report.exists()
        monkeypatch.setenv("DICOM_INGEST_DICOMWEB_URL", registry.url)
        state = backfill(report_dir=str(report), return_state=True, **where)
        assert state.is_completed(), state.message
        assert state.message == "3 instances: 3 confirmed"
        assert (report / "verification.csv").exists()
        registry.script = always(Step.QUERY, status(503))
        state = backfill(report_dir=str(report), return_state=True, **where)
        assert (state.is_failed(), counts_of(state)["exit_code"]) == (True, 3)

    def test_tells_prefect_no_path_no_uid_no_key_and_no_secret(
        self,
        sent: NearSide,
        registry: DicomwebSide,
        prefect_server: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_DICOMWEB_TOKEN", "canary-token")
        registry.delete(next(iter(registry.stored)))
        verified(sent, dicomweb_url=registry.url)
        registry.authorizations = {"Bearer right"}
        verified(sent, dicomweb_url=registry.url)
        rows = [*read_report(sent.report_dir)]
        secrets = ["canary", *(row["sop_instance_uid"] for row in rows), *(row["key"] for row in rows)]
        secrets += [row["sha256"] for row in rows]
        said = database_with("not in the registry", "Not everything is confirmed")
        said = "\n".join([said, *texts_below(prefect_server), caplog.text, *capsys.readouterr()]).lower()
        assert [secret for secret in secrets if secret.lower() in said] == []


class TestBounds:
    """What a worker's environment has, a parameter may narrow and not widen."""

    @pytest.mark.parametrize(
        ("environ", "given", "refused"),
        [
            ({}, {"dicomweb_url": "https://a.org/dicom-web"}, ""),
            ({"DICOMWEB_URL": "https://a.org"}, {"dicomweb_url": "https://a.org/dicom-web"}, ""),
            ({"DICOMWEB_URL": "https://a.org"}, {"dicomweb_url": "https://b.org"}, "dicomweb_url"),
            ({"DICOMWEB_URL": "https://a.org/x"}, {"dicomweb_url": "https://a.org/y"}, "dicomweb_url"),
            ({"DICOMWEB_TOKEN": "t"}, {"dicomweb_url": "https://a.org"}, "dicomweb_url"),
            ({"DICOMWEB_URL": "https://a.org", "DICOMWEB_TOKEN": "t"}, {}, ""),
            ({"BUCKET": "s3://one/in"}, {"bucket": "s3://one/in/2026"}, ""),
            ({"BUCKET": "s3://one/in"}, {"bucket": "s3://one"}, "bucket"),
            ({"BUCKET": "s3://one"}, {"bucket": "s3://two"}, "bucket"),
        ],
    )
    def test_of_registry_and_bucket(
        self, environ: dict[str, str], given: dict[str, str], refused: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert set(environment(VerifySettings)) == {name.lower() for name in environ}
        if not refused:
            load_bounded_verification(given)
            return
        with pytest.raises(UsageError, match=f"This verification's {refused} goes beyond"):
            load_bounded_verification(given)
