"""The block that holds endpoint and credentials, on a real Prefect server."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from deployments.sandbox.sandbox import Sandbox
from flows.backfill import backfill
from flows.orchestration.blocks import DicomUploadApi, settings_of
from tasks.core.errors import UsageError
from tasks.report.reader import read_report
from tests.flows.conftest import Plant

SECRET = "a-client-secret-of-a-block"
KEY = "an-api-key-of-a-block"


@pytest.fixture
def block(prefect_server: Path) -> str:
    """Its name, of one with every field filled in."""
    DicomUploadApi(
        api_endpoint="https://api.example.org",
        token_url="https://idp.example.org/token",
        client_id="archive",
        client_secret=SecretStr(SECRET),
        api_key=SecretStr(KEY),
        api_key_header="x-platform-key",
        allow_storage_host=["*.amazonaws.com"],
    ).save("every-field", overwrite=True)
    return "every-field"


class TestBlock:
    def test_gives_what_was_filled_in_and_nothing_else(self, block: str) -> None:
        assert settings_of(block) == {
            "api_endpoint": "https://api.example.org",
            "token_url": "https://idp.example.org/token",
            "client_id": "archive",
            "client_secret": SecretStr(SECRET),
            "api_key": SecretStr(KEY),
            "api_key_header": "x-platform-key",
            "allow_storage_host": ["*.amazonaws.com"],
        }

    def test_hides_its_secrets_in_the_api(self, block: str) -> None:
        """As the UI asks for it."""
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(block, "dicom-upload-api", include_secrets=False)
        assert SECRET not in document.model_dump_json()
        assert KEY not in document.model_dump_json()
        assert document.data["client_id"] == "archive"

    def test_marks_its_secrets_for_the_ui(self) -> None:
        schema: dict[str, Any] = DicomUploadApi.model_json_schema()
        secrets = {"token", "client_secret", "api_key"}
        assert set(schema["secret_fields"]) == secrets
        assert {name for name, field in schema["properties"].items() if field.get("writeOnly")} == secrets

    def test_that_is_not_there_is_a_usage_error(self, prefect_server: Path) -> None:
        with pytest.raises(UsageError, match="no block dicom-upload-api"):
            settings_of("nobody-made-it")


def test_a_flow_takes_its_name(sandbox: Sandbox, prefect_server: Path, tmp_path: Path, plant: Plant) -> None:
    """Endpoint and credentials come from the block alone; the run's parameters have the name."""
    DicomUploadApi(
        api_endpoint=sandbox.api_url,
        token_url=sandbox.token_url,
        client_id=sandbox.client_id,
        client_secret=SecretStr(sandbox.client_secret),
    ).save("sandbox", overwrite=True)
    plant(tmp_path / "archive" / "study", 2)
    (tmp_path / "manifest.csv").write_text("study_dir\narchive/study\n")
    state = backfill(
        manifest=str(tmp_path / "manifest.csv"),
        report_dir=str(tmp_path / "report"),
        api="sandbox",
        return_state=True,
    )
    assert state.is_completed()
    assert [row["status"] for row in read_report(tmp_path / "report")] == ["uploaded", "uploaded"]
