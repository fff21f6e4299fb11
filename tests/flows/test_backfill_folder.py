"""A folder of manifests, as a schedule finds it: each is run until it is finished, whatever others are."""

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort

from deployments.sandbox.sandbox import Sandbox
from flows.backfill import backfill
from tasks.core.errors import UsageError
from tasks.report.reader import read_report
from tasks.source.manifest_folder import manifests_at
from tests.flows.conftest import Objects, Plant, cut
from tests.processes import free_port


def write(path: Path, *study_dirs: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["study_dir", *map(str, study_dirs)]) + "\n")
    return path


def run(place: Path | str, report_dir: Path) -> State[Any]:
    return backfill(manifest=str(place), report_dir=str(report_dir), return_state=True)


def parts_of(state: State[Any]) -> list[str]:
    """The names of the flow runs that are part of this one, in their order."""
    parent = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=parent), sort=FlowRunSort.START_TIME_ASC
        )
    return [run.name for run in runs]


@pytest.mark.usefixtures("prefect_server", "at_sandbox")
class TestFolder:
    def test_is_run_manifest_by_manifest(
        self, tmp_path: Path, plant: Plant, objects: Objects, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Wrong ones and incomplete ones keep no other back; finished ones are left alone."""
        plant(tmp_path / "a", 2)
        plant(tmp_path / "b", 1)
        cut(*plant(tmp_path / "c").values())
        folder = tmp_path / "manifests"
        write(folder / "1.csv", "../a")
        (folder / "2.csv").write_text("no,such,columns\n1,2,3\n")
        write(folder / "3.csv", "../b")
        write(folder / "4.csv", "../c")
        (folder / "notes.txt").write_text("not a manifest")
        before = objects()
        state = run(folder, tmp_path / "report")
        assert state.is_failed()
        assert state.message == "4 manifests: 2 done, 1 incomplete, 1 wrong"
        assert len(objects() - before) == 3
        assert [name[: len("manifest 1 of 4 default 2")] for name in parts_of(state)] == [
            f"manifest {number} of 4 default 2" for number in (1, 2, 3, 4)
        ], "told apart by number, nothing of a path"
        (error,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert error.startswith("Manifest 2 of 4: The manifest was refused, nothing was sent: ")
        assert "\n" not in error
        assert [row["status"] for row in read_report(tmp_path / "report" / "1.csv")] == ["uploaded"] * 2
        write(folder / "2.csv", "../a")
        (tmp_path / "c" / "IM0001.dcm").unlink()
        plant(tmp_path / "c", 1)
        again = run(str(folder / "*.csv"), tmp_path / "report")
        assert again.is_completed()
        assert again.message == "4 manifests: 2 done, 2 finished before"
        told = [row["status"] for row in read_report(tmp_path / "report" / "2.csv")]
        assert told == ["already_uploaded"] * 2, "one ledger for all of them"

    def test_is_finished_by_bytes_platform_and_ledger(
        self,
        tmp_path: Path,
        plant: Plant,
        sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Another platform is refused as by a command. A ledger that is gone knows nothing of what is stored,
        nor where."""
        plant(tmp_path / "a")
        manifest = write(tmp_path / "manifests" / "1.csv", "../a")
        assert run(manifest.parent, tmp_path / "report").message == "1 manifest: 1 done"
        manifest.touch()
        assert run(manifest.parent, tmp_path / "report").message == "1 manifest: 1 finished before"
        here = sandbox.api_url.removeprefix("http://")
        there = here.replace("127.0.0.1", "localhost")
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", f"http://{there}")
        state = run(manifest.parent, tmp_path / "report")
        assert state.is_failed()
        refused = f"Campaign default belongs to the platform at {here}, and --api-endpoint is at {there}: "
        assert str(state.message).startswith(refused)
        (tmp_path / "report" / "ledger.sqlite").unlink()
        assert run(manifest.parent, tmp_path / "report").message == "1 manifest: 1 done"

    def test_stops_with_the_first_when_the_far_side_is_down(
        self, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next would fare no better: a good manifest is not told to be wrong. No event, which would pause
        a schedule: tomorrow it may be up."""
        stopped: list[str] = []
        monkeypatch.setattr(
            "flows.orchestration.manifest_runs.emit_stopped", lambda flow, *_: stopped.append(flow)
        )
        plant(tmp_path / "a")
        for name in ("1.csv", "2.csv"):
            write(tmp_path / "manifests" / name, "../a")
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        state = run(tmp_path / "manifests", tmp_path / "report")
        assert state.is_failed()
        assert "can't be reached" in str(state.message)
        assert not (tmp_path / "report" / "2.csv").exists()
        assert stopped == []

    def test_goes_on_after_one_that_nobody_can_read(self, tmp_path: Path, plant: Plant) -> None:
        plant(tmp_path / "a")
        folder = tmp_path / "manifests"
        folder.mkdir()
        (folder / "1.csv").symlink_to("/proc/self/mem")  # a file whose first read fails
        write(folder / "2.csv", "../a")
        assert run(folder, tmp_path / "report").message == "2 manifests: 1 done, 1 wrong"

    def test_with_nothing_in_it_is_no_trouble(self, tmp_path: Path) -> None:
        assert run(tmp_path, tmp_path / "report").message == "0 manifests: nothing to do"


class TestPlace:
    def test_that_is_a_file_or_nothing_is_one_manifest(self, tmp_path: Path) -> None:
        """Also one whose name looks like a pattern."""
        odd = write(tmp_path / "a[1].csv", "x")
        assert manifests_at(str(odd)) is None
        assert manifests_at(str(tmp_path / "gone.csv")) is None

    def test_gives_them_by_name(self, tmp_path: Path) -> None:
        for name in ("b.csv", "a.jsonl", "c.txt", "d.PARQUET"):
            (tmp_path / name).touch()
        found = manifests_at(str(tmp_path))
        assert found is not None
        assert [path.name for path in found] == ["a.jsonl", "b.csv", "d.PARQUET"]
        assert manifests_at(str(tmp_path / "?.csv")) == [tmp_path / "b.csv"]

    def test_refuses_manifests_of_one_name(self, tmp_path: Path) -> None:
        """Their reports would share a directory, and the second would pass for finished."""
        write(tmp_path / "a" / "m.csv", "x")
        write(tmp_path / "b" / "m.csv", "y")
        with pytest.raises(UsageError, match="2 of these manifests have the name of another"):
            manifests_at(str(tmp_path / "*" / "m.csv"))
