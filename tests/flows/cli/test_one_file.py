"""One of a thing is said as one, wherever a person reads it: terminal, states, artifacts, errors."""

from pathlib import Path
from typing import Any

import pytest

from flows.backfill import backfill
from flows.cli.__main__ import execute
from flows.orchestration.artifacts import markdown
from flows.orchestration.incomplete import not_complete
from tasks.core.errors import ManifestError
from tasks.report.reader import read_summary
from tasks.source.manifest_reader import load_manifest
from tests.far_side import TOKEN, FarSide
from tests.flows.conftest import Plant, cut


@pytest.fixture
def study(tmp_path: Path, plant: Plant, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one file, with a manifest of one row beside it, and somewhere to send it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(tmp_path / "study", 1)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "one.csv").write_text("study_dir\n../study\n")
    return tmp_path / "study"


def test_on_the_terminal(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of upload, of audit (also of what another directory's run stored), and of manifest."""
    assert execute(["upload", "-p", str(study)]) == 0
    assert (
        execute(["upload", "-p", str(study), "--report-dir", "other", "--ledger", "report/ledger.sqlite"])
        == 0
    )
    err = capsys.readouterr().err
    assert "1 file: 1 uploaded\n1 of 1 study complete\n" in err
    assert execute(["audit", "other"]) == 0
    assert "1 file stored by runs into other report directories" in capsys.readouterr().err
    assert execute(["manifest", "study", "-o", "manifest.csv"]) == 0
    assert capsys.readouterr().err == "1 study directory found, and written to manifest.csv\n"


@pytest.mark.usefixtures("prefect_server")
def test_in_states_and_artifacts(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run, of a folder, of an incomplete study."""
    stored = state_of("manifests/one.csv")
    assert stored.message == "1 file, 1 stored, 0 already there"
    assert "1 study entry in the manifest" in caplog.text
    report_dir = tmp_path / "report"
    summary = read_summary(report_dir)
    words = markdown(summary, not_complete(summary, report_dir, most=1), report_dir)
    assert "1 of 1 study complete.\n1 file in " in words
    assert f"[report.html](file://{report_dir}/report.html)" in words
    cut(study / "IM0001.dcm")
    assert state_of("manifests/one.csv").message == "1 of 1 file, 1 study incomplete, see report"
    assert state_of("manifests").message == "1 manifest: 1 incomplete"


def state_of(manifest: str) -> Any:
    return backfill(manifest=manifest, report_dir="report", return_state=True)


def test_in_what_is_wrong_with_a_manifest(tmp_path: Path) -> None:
    """One fault of a row that should have one cell."""
    (tmp_path / "m.csv").write_text("study_dir\na,b\n")
    with pytest.raises(ManifestError, match=r"refused: 1 fault\. .*\n.*the header has 1 cell, this row 2"):
        load_manifest(tmp_path / "m.csv")
