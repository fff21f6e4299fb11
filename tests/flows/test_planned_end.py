"""Runs that a bound ends in order, under Prefect: Completed, to be continued, and the next one goes on."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.backfill import backfill
from flows.orchestration.parameters import Options
from tasks.report.reader import read_report, read_summary
from tests.conftest import NearSide
from tests.far_side import TOKEN, FarSide

pytestmark = pytest.mark.usefixtures("prefect_server", "nobody_elses_settings")


@pytest.fixture
def platform(far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> FarSide:
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    return far_side


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events of ends, by name."""
    ended: list[str] = []
    monkeypatch.setattr(
        "flows.orchestration.events.emit_event", lambda event, **_: ended.append(event.split(".")[-1])
    )
    return ended


def write(path: Path, *studies: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["study_dir", *studies]) + "\n")
    return path


def run(manifest: Path, report_dir: Path, **options: Any) -> State[Any]:
    return backfill(str(manifest), report_dir=str(report_dir), options=Options(**options), return_state=True)


def test_of_a_manifest_is_completed_and_the_next_run_goes_on(
    near_side: NearSide, platform: FarSide, ended: list[str]
) -> None:
    near_side.put_many(9)
    manifest = write(near_side.directory / "manifest.csv", "archive/study")
    first = run(manifest, near_side.report_dir, max_files=4)
    assert first.is_completed()
    assert first.message == "to be continued: 9 files, 4 stored, 0 already there, 5 not attempted"
    assert read_summary(near_side.report_dir).exit_code == 1
    then = run(manifest, near_side.report_dir)
    assert then.message == "9 files, 5 stored, 4 already there"
    assert ended == ["to_be_continued", "completed"], "no study is told of as incomplete meanwhile"


class TestOfAFolder:
    @pytest.fixture
    def folder(self, near_side: NearSide) -> Path:
        """Manifests of three studies, of five files each."""
        for study in "abc":
            near_side.put_many(5, study)
            write(near_side.directory / "manifests" / f"{study}.csv", f"../archive/{study}")
        return near_side.directory / "manifests"

    def test_is_that_of_all_manifests_together(
        self, near_side: NearSide, platform: FarSide, folder: Path
    ) -> None:
        """--max-files is no manifest's own: what is left of it is the next one's."""
        first = run(folder, near_side.report_dir, max_files=7)
        assert first.is_completed()
        assert first.message == "to be continued: 3 manifests: 1 done, 1 to be continued"
        assert len(platform.objects) == 7
        second = run(folder, near_side.report_dir, max_files=3)
        assert second.message == "to be continued: 3 manifests: 1 done, 1 finished before, 1 to be continued"
        assert len(platform.objects) == 10
        assert not (near_side.report_dir / "c.csv").exists(), "it was not begun for nothing"
        third = run(folder, near_side.report_dir, max_files=5)
        assert third.message == "3 manifests: 1 done, 2 finished before"
        assert {row["status"] for row in read_report(near_side.report_dir / "c.csv")} == {"uploaded"}

    def test_that_has_a_wrong_one_is_failed_all_the_same(
        self, near_side: NearSide, platform: FarSide, folder: Path
    ) -> None:
        """That needs a person, whatever is to be continued."""
        (folder / "0.csv").write_text("no,such,columns\n1,2,3\n")
        state = run(folder, near_side.report_dir, max_files=1)
        assert state.is_failed()
        assert state.message == "to be continued: 4 manifests: 1 wrong, 1 to be continued"

    def test_comes_with_max_duration_too(self, near_side: NearSide, platform: FarSide, folder: Path) -> None:
        """Over before the first manifest: none is run."""
        state = run(folder, near_side.report_dir, max_duration="0")
        assert state.message == "to be continued: 3 manifests: 1 to be continued"
        assert not platform.objects
