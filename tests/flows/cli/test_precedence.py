"""Commands beside those that upload: an option wins over the environment, and that over the default."""

from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tasks.report.reader import read_report
from tests.far_side import TOKEN, FarSide
from tests.flows.conftest import Plant


class TestOfWhatReadsAReport:
    @pytest.fixture(autouse=True)
    def run(self, here: Path, far_side: FarSide, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run whose report, ledger and campaign the environment names."""
        plant(here / "study", 2)
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.setenv("DICOM_INGEST_REPORT_DIR", "proof")
        monkeypatch.setenv("DICOM_INGEST_LEDGER", "ledgers/archive.sqlite")
        monkeypatch.setenv("DICOM_INGEST_CAMPAIGN", "trial")
        (here / "ledgers").mkdir()
        assert execute(["upload", "-p", "study"]) == 0

    def test_report_takes_what_the_run_took(self, here: Path) -> None:
        (here / "proof" / "report.csv").unlink()
        assert execute(["report"]) == 0
        assert [row["status"] for row in read_report(here / "proof")] == ["uploaded"] * 2

    @pytest.mark.parametrize(
        ("name", "value"), [("CAMPAIGN", "a b"), ("LEDGER", "postgresql://me:secret@host/db")]
    )
    def test_audit_asks_for_no_setting_that_it_does_not_use(
        self, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert execute(["audit"]) == 0

    def test_report_takes_an_argument_and_options_first(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert execute(["report", "elsewhere"]) == 2
        assert execute(["report", "--campaign", "another"]) == 2
        assert execute(["report", "--ledger", "elsewhere.sqlite"]) == 2
        assert execute(["report", "proof", "--campaign", "trial", "--ledger", "ledgers/archive.sqlite"]) == 0

    def test_report_needs_neither_an_api_nor_right_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It asks the ledger alone."""
        monkeypatch.delenv("DICOM_INGEST_API_ENDPOINT")
        monkeypatch.setenv("DICOM_INGEST_TOKEN_FILE", "beside-a-token")
        assert execute(["report"]) == 0

    def test_report_names_a_wrong_setting(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_CAMPAIGN", "a/b")
        assert execute(["report"]) == 2
        assert "--campaign (DICOM_INGEST_CAMPAIGN)" in capsys.readouterr().err

    def test_audit_takes_the_setting_and_an_argument_first(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert execute(["audit"]) == 0
        assert "agrees with the report" in capsys.readouterr().err
        assert execute(["audit", "elsewhere"]) == 2
        monkeypatch.delenv("DICOM_INGEST_REPORT_DIR")
        assert execute(["audit", "proof"]) == 0
        assert execute(["audit"]) == 2  # ./report is not there


class TestOfTheSandbox:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int | None]]:
        """Where a sandbox was started: none is."""
        started: list[tuple[Path, int | None]] = []
        monkeypatch.setattr(
            "deployments.sandbox.sandbox.serve",
            lambda data_dir, port, _settings: started.append((data_dir, port)),
        )
        for name in ("PORT", "DATA_DIR"):
            monkeypatch.delenv(f"DICOM_INGEST_SANDBOX_{name}", raising=False)
        return started

    def test_is_as_of_any_command(
        self, started: list[tuple[Path, int | None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert execute(["sandbox"]) == 0
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_PORT", "8123")
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_DATA_DIR", "objects")
        assert execute(["sandbox"]) == 0
        assert execute(["sandbox", "--port", "9123", "--data-dir", "elsewhere"]) == 0
        assert started == [(Path("sandbox"), None), (Path("objects"), 8123), (Path("elsewhere"), 9123)]

    def test_names_a_wrong_setting(
        self,
        started: list[tuple[Path, int | None]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_PORT", "many")
        assert execute(["sandbox"]) == 2
        assert "--port (DICOM_INGEST_SANDBOX_PORT)" in capsys.readouterr().err
        assert started == []


class TestOfOneCommandAlone:
    def test_manifest_writes_where_the_environment_says_or_an_option(
        self, here: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plant(here / "archive" / "study", 2)
        monkeypatch.setenv("DICOM_INGEST_MANIFEST_OUTPUT", "nightly.csv")
        monkeypatch.setenv("DICOM_INGEST_MANIFEST_SCAN", "true")
        assert execute(["manifest", "archive"]) == 0
        assert execute(["manifest", "archive", "-o", "other.csv"]) == 0
        assert (here / "nightly.csv").read_text() == (here / "other.csv").read_text()
        assert "expected_instances" in (here / "nightly.csv").read_text()

    @pytest.mark.parametrize(
        ("command", "name", "value"), [("demo", "DEMO_SLICES", "0"), ("migrate m.csv", "SHARDS", "0")]
    )
    def test_a_wrong_setting_is_named(
        self,
        command: str,
        name: str,
        value: str,
        here: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert execute(command.split()) == 2
        assert f"(DICOM_INGEST_{name})" in capsys.readouterr().err
