"""The command `plan`: what it says at a terminal and to scripts, and what it ends with."""

import json
import logging
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tests.conftest import Dicom, padded
from tests.far_side import TOKEN, FarSide, Step

CANARY = "CANARY^PATIENT"


@pytest.fixture
def manifest(here: Path, dicom: Dicom, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a study with a file that would be held back, and of one that is not there."""
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    study = here / CANARY
    study.mkdir()
    for number in range(5):
        (study / f"{CANARY} {number}.dcm").write_bytes(dicom(f"1.2.{number}"))
    (study / "cut.dcm").write_bytes(dicom("1.2.9")[:-40])
    (here / "manifest.csv").write_text(f"study_dir\n{CANARY}\n{CANARY}-missing\n")
    return here / "manifest.csv"


def test_says_what_there_is_what_is_in_the_way_and_how_long_it_takes(
    manifest: Path, far_side: FarSide, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the troubleshooting table's words about what would fail; no file is sent."""
    assert execute(["plan", str(manifest), "--full"]) == 1
    out = capsys.readouterr().out
    for words in (
        "2 studies, 7 files",
        "5 uploaded, 1 invalid, 1 missing",
        "invalid/truncated (1 file)",
        "copy it again from its source, or --accept truncated",
        "storage: ok",
        "Forecast: about 1 s",
        "with twice the slots",
        "with twice the CPU",
        "exit code 1",
    ):
        assert words in out, out
    assert not far_side.asked(Step.PUT)


def test_is_one_json_object_for_scripts(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that summary.json has mean what they mean there; the run then says the same."""
    assert execute(["plan", str(manifest), "--full", "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert json.loads(Path("report/plan.json").read_text()) == plan
    assert plan["by_status"] == {"uploaded": 5, "invalid": 1, "missing": 1}
    assert (plan["files"], plan["studies"], plan["exit_code"]) == (7, 2, 1)
    assert len(plan["unused_keys"]) == 1


def test_says_nothing_that_identifies_a_patient(
    manifest: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither at the terminal nor in the log, in plan.json or on the page; no token, no URL's signature."""
    caplog.set_level(logging.DEBUG)
    for more in ([], ["--json"], ["--full"]):
        execute(["plan", str(manifest), *more])
    texts = [*capsys.readouterr(), caplog.text]
    texts += [Path("report", name).read_text() for name in ("plan.json", "plan.html", "audit.jsonl")]
    for text in texts:
        for secret in (CANARY, "CANARY", padded("1.2.1"), padded("1.2.9"), TOKEN, "X-Amz-Signature"):
            assert secret not in text


def test_is_a_page_for_people(manifest: Path) -> None:
    execute(["plan", str(manifest), "--full"])
    page = Path("report/plan.html").read_text()
    for words in ("invalid/truncated", "copy it again", "What was tried", "Twice the slots", "default-src"):
        assert words in page
    assert Path("report/plan.html").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plan", "gone.csv"], 2, "The manifest can't be read"),
        (["plan", "manifest.csv", "--rate", "fast"], 2, "is no rate in bytes a second"),
        (["plan", "manifest.csv", "--files-per-study", "0"], 2, "--files-per-study"),
        (["plan", "manifest.csv", "-u", "ftp://127.0.0.1"], 2, "neither https nor http"),
    ],
)
def test_ends_with_a_sentence_about_what_is_wrong(
    manifest: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert execute(arguments) == code
    assert said in capsys.readouterr().err
    assert not Path("report").exists()


def test_refused_credentials_are_exit_code_4(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All else is said nevertheless, and nothing stays."""
    monkeypatch.setenv("DICOM_INGEST_TOKEN", "wrong")
    assert execute(["plan", str(manifest), "--full"]) == 4
    out = capsys.readouterr().out
    assert "credentials: failed" in out
    assert "5 uploaded" in out
    assert not Path("report").exists()


def test_is_interrupted_in_order(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key that it was given is in the trail."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.run.planned_files.walk_study", interrupt)
    assert execute(["plan", str(manifest)]) == 130
    assert "Nothing was sent" in capsys.readouterr().err
    assert '"planned"' in Path("report/audit.jsonl").read_text()
