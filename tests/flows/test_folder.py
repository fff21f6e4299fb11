"""A folder of manifests, as a schedule finds it: each is run until it is finished, whatever others are."""

import os
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.backfill import backfill
from tasks.manifests import is_finished, manifests_at
from tasks.report import read_report
from tests.flows.conftest import Objects, Plant, cut


def write(path: Path, *study_dirs: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["study_dir", *map(str, study_dirs)]) + "\n")
    return path


def run(place: Path | str, report_dir: Path) -> State[Any]:
    return backfill(manifest=str(place), report_dir=str(report_dir), return_state=True)


@pytest.mark.usefixtures("prefect_server", "at_sandbox")
class TestFolder:
    def test_is_run_manifest_by_manifest(self, tmp_path: Path, plant: Plant, objects: Objects) -> None:
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
        assert [row["status"] for row in read_report(tmp_path / "report" / "1.csv")] == ["uploaded"] * 2
        write(folder / "2.csv", "../a")
        (tmp_path / "c" / "IM0001.dcm").unlink()
        plant(tmp_path / "c", 1)
        again = run(str(folder / "*.csv"), tmp_path / "report")
        assert again.is_completed()
        assert again.message == "4 manifests: 2 done, 2 finished before"
        told = [row["status"] for row in read_report(tmp_path / "report" / "2.csv")]
        assert told == ["already_uploaded"] * 2, "one ledger for all of them"

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


class TestFinished:
    def test_is_not_what_changed_since(self, tmp_path: Path) -> None:
        manifest = write(tmp_path / "manifest.csv", "a")
        assert not is_finished(manifest, tmp_path / "report")
        summary = tmp_path / "report" / "summary.json"
        summary.parent.mkdir()
        summary.write_text("{")
        assert not is_finished(manifest, tmp_path / "report"), "a summary that can't be read"
        os.utime(manifest, ns=(0, 2**62))
        assert not is_finished(manifest, tmp_path / "report")
