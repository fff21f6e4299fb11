"""What a person is told: which studies are not complete and why, where earlier reports are, and of no run."""

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydicom.data.data_manager import DATA_ROOT

from flows.backfill import backfill
from flows.cli.__main__ import execute
from flows.cli.run_messages import list_files
from tasks.report.reader import read_report
from tests.conftest import Dicom, NearSide
from tests.far_side import Step, always, s3_error
from tests.flows.conftest import Plant, cut

pytestmark = pytest.mark.usefixtures("here")


def plant_disc(directory: Path) -> None:
    """What is left of a disc whose images were removed: a DICOMDIR that says so, and a README."""
    directory.mkdir()
    dicomdir = Path(DATA_ROOT, "test_files", "dicomdirtests", "DICOMDIR")
    in_use, unused = (b"\x04\x00\x10\x14US\x02\x00" + flag for flag in (b"\xff\xff", b"\0\0"))
    (directory / "DICOMDIR").write_bytes(dicomdir.read_bytes().replace(in_use, unused))
    (directory / "README").write_text("Open DICOMDIR with a viewer.\n")


@pytest.mark.usefixtures("at_sandbox")
class TestTerminal:
    def test_names_the_first_incomplete_studies_and_says_why(
        self, here: Path, plant: Plant, prefect_server: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Ten of them, by number and label; how many there are besides; nothing of a path or a UID."""
        plant(here / "study_good", 3)
        cut(plant(here / "study_cut", 2).popitem()[1])
        plant_disc(here / "study_disc")
        rows = ["study_good,,first", "study_cut,100,Ward 4", "study_disc,,disc"]
        rows += [f"study_gone{number},," for number in range(11)]
        (here / "manifest.csv").write_text("\n".join(["study_dir,expected_instances,label", *rows]))
        assert execute(["run", "manifest.csv"]) == 1
        err = capsys.readouterr().err.splitlines()
        begin = err.index("12 of 18 files are not stored")
        assert err[begin + 1 : begin + 13] == [
            "1 of 14 studies complete, 1 without an image",
            "  study 2 (Ward 4): 1 truncated; 99 fewer than expected",
            *(f"  study {number}: 1 not_found" for number in range(4, 13)),
            "  and 2 more: studies.csv",
        ]
        told = "\n".join(line for line in err[begin:] if not line.startswith("Report: "))
        assert "study_" not in told

    def test_says_that_one_file_is_not_stored(
        self, here: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut(plant(here / "study").popitem()[1])
        assert execute(["upload", "-p", "study"]) == 1
        err = capsys.readouterr().err.splitlines()
        assert "1 of 1 file is not stored" in err
        assert "  study 1: 1 truncated" in err

    def test_says_nothing_more_when_all_is_well(
        self, here: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plant(here / "study", 2)
        assert execute(["upload", "-p", "study"]) == 0
        err = capsys.readouterr().err
        assert "not stored" not in err
        assert "  study" not in err

    @pytest.mark.parametrize(("expected", "code"), [("", 0), ("0", 0), ("1", 1)])
    def test_says_that_a_study_has_no_image(
        self,
        expected: str,
        code: int,
        here: Path,
        prefect_server: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """No reason for exit 1, unless the manifest expects one."""
        plant_disc(here / "disc")
        (here / "manifest.csv").write_text(f"study_dir,expected_instances\ndisc,{expected}\n")
        assert execute(["run", "manifest.csv"]) == code
        err = capsys.readouterr().err.splitlines()
        assert ("0 of 1 study complete, 1 without an image" in err) == (code == 0)
        assert ("  study 1: 1 fewer than expected; no image" in err) == (code == 1)
        (study,) = read_report(here / "report" / "studies.csv")
        assert (study["complete"], study["files"]) == ("false" if code else "", "2")
        assert "no image" in study["why"]

    def test_says_that_a_directory_without_any_file_is_incomplete(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An unmounted share looks so."""
        (here / "share").mkdir()
        assert execute(["upload", "-p", "share"]) == 1
        assert "  study 1: no file" in capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("at_sandbox", "prefect_server")
class TestStudiesCsv:
    """What is the matter with it is no reason for a run to end otherwise."""

    def test_may_have_a_manifest_s_longest_cell(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Of characters that are written as sixteen each."""
        note = chr(0xE0041) * 32_767
        (here / "manifest.csv").write_text(f"study_dir,note\ngone,{note}\n", encoding="utf-8")
        assert execute(["run", "manifest.csv"]) == 1
        assert "  study 1: 1 not_found" in capsys.readouterr().err.splitlines()
        (study,) = read_report(here / "report" / "studies.csv")
        assert study["note"] == note

    def test_that_can_not_be_read_costs_its_words_alone(
        self, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody moved it away the moment that it was there."""
        monkeypatch.setattr(
            "tasks.run.records.write_certificate", lambda place, *_: (place / "studies.csv").unlink()
        )
        (here / "manifest.csv").write_text("study_dir\ngone\n")
        assert execute(["run", "manifest.csv"]) == 1
        err = capsys.readouterr().err.splitlines()
        assert err[err.index("0 of 1 study complete") + 1] == "  and 1 more: studies.csv"


@pytest.mark.usefixtures("at_sandbox", "prefect_server")
class TestPrefect:
    def artifacts_of(self, here: Path) -> dict[str, Any]:
        """Of a run of the manifest here, by key: a table's rows, or text."""
        state = backfill(str(here / "manifest.csv"), report_dir=str(here / "report"), return_state=True)
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=of_run)
        self.state = state
        return {
            str(each.key): json.loads(str(each.data)) if each.type == "table" else each.data for each in found
        }

    def test_shows_why_the_first_studies_are_incomplete(self, here: Path, plant: Plant) -> None:
        """In the table, and what was not stored in the summary; no path and no UID in either."""
        plant(here / "study_good", 3)
        cut(plant(here / "study_cut", 2).popitem()[1])
        plant_disc(here / "study_disc")
        rows = ["study_good,", "study_cut,Ward 4", "study_disc,", *(f"study_gone{n}," for n in range(60))]
        (here / "manifest.csv").write_text("\n".join(["study_dir,label", *rows]))
        artifacts = self.artifacts_of(here)
        table = artifacts["backfill-incomplete-studies"]
        assert len(table) == 50
        assert [(each["study_no"], each["label"], each["why"]) for each in table[:2]] == [
            ("2", "Ward 4", "1 truncated"),
            ("4", "", "1 not_found"),
        ]
        summary = artifacts["backfill-summary"]
        assert "61 of 67 files are not stored." in summary
        assert "1 of 63 studies complete, 1 without an image." in summary
        assert "study_" not in str(artifacts).replace('"study_no"', "").replace("'study_no'", "")
        assert str(self.state.message).startswith("61 of 67 files, 61 studies incomplete")

    def test_shows_no_table_of_a_study_without_images(self, here: Path) -> None:
        """It is none that is incomplete: the run is Completed."""
        plant_disc(here / "disc")
        (here / "manifest.csv").write_text("study_dir\ndisc\n")
        artifacts = self.artifacts_of(here)
        assert self.state.is_completed()
        assert "backfill-incomplete-studies" not in artifacts
        assert "0 of 1 study complete, 1 without an image." in artifacts["backfill-summary"]


class TestEarlierReport:
    def test_lies_in_runs_and_is_audited_there(
        self, here: Path, plant: Plant, at_sandbox: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Named for its start and exit code; the trail is one for all."""
        cut(plant(here / "study", 2).popitem()[1])
        assert execute(["upload", "-p", "study"]) == 1
        first = {path.name: path.read_bytes() for path in (here / "report").iterdir()}
        assert execute(["upload", "-p", "study"]) == 1
        (earlier,) = (here / "report" / "runs").iterdir()
        assert earlier.name.endswith("Z-1")
        kept = {path.name: path.read_bytes() for path in earlier.iterdir()}
        assert kept.keys() == first.keys() - {"audit.jsonl", "ledger.sqlite"}
        assert kept.items() <= first.items()
        assert execute(["audit", "report"]) == execute(["audit", str(earlier)]) == 0


class TestNoRun:
    """Exit code 2 and one sentence; nothing is made."""

    @pytest.mark.parametrize(
        "command", ["report gone", "report gone/deep", "report here", "audit gone", "audit here"]
    )
    def test_is_there(self, command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "here").mkdir()
        assert execute(command.split()) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "There is no run in this" in sentence
        assert [path.relative_to(here) for path in here.rglob("*")] == [Path("here")]

    @pytest.mark.parametrize("ledger", ["gone.sqlite", "gone/ledger.sqlite"])
    def test_is_in_a_ledger_that_is_not_there(
        self, ledger: str, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "here").mkdir()
        assert execute(["report", "here", "--ledger", ledger]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "name the report directory of a run, or its --ledger" in sentence
        assert [path.relative_to(here) for path in here.rglob("*")] == [Path("here")]

    @pytest.mark.parametrize("command", ["upload -p study", "run manifest.csv"])
    def test_is_kept_of_a_start_that_was_refused(
        self,
        command: str,
        here: Path,
        plant: Plant,
        prefect_server: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """No API answers: no report directory, no ledger, no trail."""
        plant(here / "study")
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        before = sorted(here.rglob("*"))
        assert execute([*command.split(), "-u", "http://127.0.0.1:9", "--report-dir", "a/b"]) == 2
        assert sorted(here.rglob("*")) == before


class TestListing:
    def test_says_of_a_failed_file_what_the_store_calls_it(
        self, near_side: NearSide, dicom: Dicom, capsys: pytest.CaptureFixture[str]
    ) -> None:
        near_side.put("study/a", dicom("1.1"))
        near_side.far_side.script = always(Step.PUT, s3_error(400, "NoSuchBucket"))
        near_side.run()
        list_files(near_side.report_dir)
        assert capsys.readouterr().out.endswith("\t-\tfailed refused NoSuchBucket\n")


def test_a_hyphen_is_standard_input_and_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["ingest", "--events", "-", "--keys", "keys.txt"]) == 2
    assert "only one of them" in capsys.readouterr().err
