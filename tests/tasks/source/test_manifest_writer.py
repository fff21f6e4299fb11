"""Study directories found in an archive, and the manifest written of them."""

import csv
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from tasks.core.errors import ManifestError, UsageError
from tasks.core.models import Listed
from tasks.source.expected_instances import Counts, Expected
from tasks.source.manifest_reader import load_manifest
from tasks.source.manifest_writer import SCANNED_COLUMNS, WRITERS, row_cells, scan_manifest, write_manifest
from tasks.source.scan import survey, walk_study
from tasks.source.study_directories import StudyDir

SUFFIXES = ["csv", "jsonl", "ndjson", "parquet"]
Write = Callable[..., Counts]


def plain(name: bytes) -> bytes:
    """One that a directory may have."""
    return name.replace(b"\0", b"0").replace(b"/", b"-")


def dicom(path: Path, study_uid: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.StudyInstanceUID = study_uid
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path)


def archive(root: Path, **studies: str) -> None:
    """One file for each study_uid given; '_' in a name is a step down, an empty uid makes a text file."""
    for name, uid in studies.items():
        path = root.joinpath(*name.split("_")) / "file"
        if uid:
            dicom(path, uid)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no image")


def found(root: Path, *roots: Path) -> list[str]:
    """The study directories written for the roots, relative to the first one."""
    out = root.parent / "found.csv"
    rows = write_manifest([root, *roots], out).study_dirs
    with out.open(newline="") as file:
        study_dirs = [row["study_dir"] for row in csv.DictReader(file)]
    assert len(study_dirs) == rows
    return [os.path.relpath(study_dir, root) for study_dir in study_dirs]


class TestStudyDirectoriesAreFound:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "root").mkdir()
        return tmp_path / "root"

    def test_where_each_study_is_a_directory_of_files(self, root: Path) -> None:
        """ROOT/study/*.dcm, also by date."""
        archive(root, a="1.1", b="1.2", y2019_m03_c="1.3", y2019_m04_d="1.4")
        assert found(root) == ["a", "b", "y2019/m03/c", "y2019/m04/d"]

    def test_where_a_study_has_a_directory_for_each_series(self, root: Path) -> None:
        """ROOT/patient/study/series/*.dcm: one row a study, its reports with it."""
        archive(root, p1_a_s1="1.1", p1_a_s2="1.1", p1_a_text="", p1_b_s1="1.2", p2_c_s1="1.3", p2_c_s2="1.3")
        assert found(root) == ["p1/a", "p1/b/s1", "p2/c"]

    def test_where_series_lie_right_under_the_patient(self, root: Path) -> None:
        """ROOT/patient/series/*.dcm: series of several studies side by side stay apart, none is lost."""
        archive(root, p_s1="1.1", p_s2="1.2", p_s3="1.1")
        assert found(root) == ["p/s1", "p/s2", "p/s3"]

    def test_with_files_beside_the_series_of_one_study(self, root: Path) -> None:
        """They go with the study."""
        archive(root, a="", a_s1="1.1", a_s2="1.1", b_s1="1.2")
        assert found(root) == ["a", "b/s1"]

    def test_with_files_beside_several_studies(self, root: Path) -> None:
        """A DICOMDIR in the root makes the root a row, last, and the studies keep theirs."""
        archive(root, a_s1="1.1", a_s2="1.1", b="1.2")
        (root / "DICOMDIR").write_bytes(b"")
        assert found(root) == ["a", "b", "."]

    def test_where_nothing_is_dicom(self, root: Path) -> None:
        """Each directory that holds files is a row; the report will say what the files are."""
        archive(root, a="", b_c="")
        assert found(root) == ["a", "b/c"]

    def test_where_the_first_files_are_no_images(self, root: Path) -> None:
        """The header is taken from one of the first files that has one."""
        archive(root, a_s1="1.1", a_s2="1.1", b="1.2")
        (root / "a" / "s1" / ".DS_Store").write_bytes(b"x")
        assert found(root) == ["a", "b"]

    def test_in_roots_that_overlap_or_come_twice(self, root: Path) -> None:
        """Each directory once."""
        archive(root, a="1.1", b="1.2")
        (root.parent / "again").symlink_to(root / "b")
        assert found(root, root / "a", root, root.parent / "again") == ["a", "b"]

    def test_when_a_link_leads_nowhere_or_out(self, root: Path) -> None:
        """Its directory is a row, so that the report tells; a link inside the roots needs none."""
        archive(root, a="1.1", b="1.2")
        for name, target in {"broken": "nowhere", "out": "/etc", "inside": "../a"}.items():
            (root / name).mkdir()
            (root / name / "link").symlink_to(target)
        assert found(root) == ["a", "b", "broken", "out"]

    def test_but_not_the_manifest_itself(self, root: Path) -> None:
        """Written into the archive, and written again."""
        archive(root, a="1.1", b="1.2")
        out = root / "manifest.csv"
        assert write_manifest([root], out) == write_manifest([root], out) == Counts(study_dirs=2)
        assert [entry.study_dir for entry in load_manifest(out)] == [str(root / "a"), str(root / "b")]
        assert sorted(os.listdir(root)) == ["a", "b", "manifest.csv"]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_so_that_every_file_belongs_to_one_row(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever the tree: scanned by the written manifest, every regular file comes up exactly once."""
        root = tmp_path_factory.mktemp("archive")
        places = st.lists(st.sampled_from(["a", "b", "b.c", "\udcff"]), max_size=4)
        for steps in data.draw(st.lists(places, max_size=8)):
            directory = root.joinpath(*steps)
            directory.mkdir(parents=True, exist_ok=True)
            uid = data.draw(st.sampled_from(["", "1.1", "1.2"]))
            if uid:
                dicom(directory / "image", uid)
            else:
                (directory / "text").write_text("no image")
        files = sorted(os.path.join(top, name) for top, _, names in os.walk(root) for name in names)
        out = tmp_path_factory.mktemp("out") / "m.csv"
        entries = load_manifest(out) if write_manifest([root], out).study_dirs else []
        ownership = survey(entries)
        rows = [row for entry in entries for row in walk_study(entry, ownership)]
        assert sorted(row.path for row in rows if isinstance(row, Listed)) == files
        assert len(rows) == len(files)


class TestAManifestIsWritten:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_so_that_it_reads_back_exactly(self, tmp_path: Path, suffix: str) -> None:
        """Names of any bytes, in each format."""
        names = [b"=1+1", b'a,"b"', b"caf\xe9", b"line\nbreak", b"\xe2\x80\xae", b"back\\x41slash"]
        for name in names:
            (tmp_path / "root" / os.fsdecode(name)).mkdir(parents=True)
            (tmp_path / "root" / os.fsdecode(name) / "file").write_bytes(b"x")
        out = tmp_path / f"m.{suffix}"
        assert write_manifest([tmp_path / "root"], out).study_dirs == len(names)
        assert [os.fsencode(Path(entry.study_dir).name) for entry in load_manifest(out)] == sorted(names)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        suffix=st.sampled_from(SUFFIXES),
        names=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=20),
        data=st.data(),
    )
    def test_with_what_was_scanned_so_that_it_reads_back_exactly(
        self, tmp_path: Path, suffix: str, names: list[bytes], data: st.DataObject
    ) -> None:
        """Any name, a UID or none, numbers as large as may be; more rows than Parquet is written at once."""
        uids = st.sampled_from(["", "1.2.3", "1.02", "2." + "9" * 62])
        sizes = st.integers(0, 10**15 - 1) | st.just(0)
        some = data.draw(st.lists(st.tuples(uids, st.integers(0, 10**9 - 1), sizes), min_size=1, max_size=5))
        rows = data.draw(st.sampled_from([1, 20, 512, 1025]))
        dirs = [
            f"/archive/{number}" + os.fsdecode(plain(names[number % len(names)])) for number in range(rows)
        ]
        found = [StudyDir(study_dir, is_whole=True) for study_dir in dirs]
        expected = [Expected(*some[number % len(some)]) for number in range(len(dirs))]
        out = tmp_path / f"m.{suffix}"
        with out.open("wb") as file:
            WRITERS[out.suffix](file, SCANNED_COLUMNS, map(row_cells, found, expected))
        assert [
            (entry.study_dir, Expected(entry.study_instance_uid, entry.expected_instances or 0, size))
            for entry in load_manifest(out)
            if (size := entry.expected_bytes) is not None
        ] == list(zip(dirs, expected, strict=True))

    def test_with_numbers_as_numbers(self, tmp_path: Path) -> None:
        """In JSON Lines and in Parquet; UIDs are text. Without a scan there is one column."""
        dicom(tmp_path / "root" / "a" / "1", "1.10")
        for suffix in ("jsonl", "parquet"):
            scan_manifest([tmp_path / "root"], tmp_path / f"scanned.{suffix}")
            write_manifest([tmp_path / "root"], tmp_path / f"found.{suffix}")
        (line,) = (tmp_path / "scanned.jsonl").read_text().splitlines()
        row = {
            "study_dir": str(tmp_path / "root" / "a"),
            "study_instance_uid": "",
            "expected_instances": 0,
            "expected_bytes": 0,
        }
        assert json.loads(line) == row
        scanned = parquet.read_table(tmp_path / "scanned.parquet")
        assert scanned.to_pylist() == [row]
        assert [str(field.type) for field in scanned.schema] == ["string", "string", "int64", "int64"]
        assert json.loads((tmp_path / "found.jsonl").read_text()).keys() == {"study_dir"}
        assert parquet.read_table(tmp_path / "found.parquet").column_names == ["study_dir"]

    def test_for_its_owner_alone_and_without_a_trace_beside_it(self, tmp_path: Path) -> None:
        """Mode 0600: the paths in it may tell who was examined."""
        (tmp_path / "root").mkdir()
        out = tmp_path / "out" / "m.csv"
        out.parent.mkdir()
        assert write_manifest([tmp_path / "root"], out).study_dirs == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert os.listdir(out.parent) == ["m.csv"]
        with pytest.raises(ManifestError, match="it has no rows"):
            load_manifest(out)

    @pytest.mark.parametrize(
        ("step", "writes", "beside"),
        [
            ("study_directories.read_header", write_manifest, {"csv", "tmp"}),
            ("study_directories.read_header", scan_manifest, {"csv", "tmp", "found"}),
            ("manifest_writer.expectations", scan_manifest, {"csv", "tmp", "found"}),
        ],
    )
    def test_or_an_interrupt_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, writes: Write, beside: set[str]
    ) -> None:
        """Whether it comes when directories are found or when they are scanned: nothing lies beside it."""
        for number in range(3):
            dicom(tmp_path / "root" / str(number) / "1", f"1.{number}")
        out = tmp_path / "out" / "m.csv"
        out.parent.mkdir()
        out.write_text("old")
        there: list[set[str]] = []

        def interrupted(*_: object, **_named: object) -> None:
            there.append({name.rpartition(".")[2] for name in os.listdir(out.parent)})
            raise KeyboardInterrupt

        monkeypatch.setattr(f"tasks.source.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writes([tmp_path / "root"], out)
        assert there == [beside]
        assert os.listdir(out.parent) == ["m.csv"]
        assert out.read_text() == "old"

    def test_or_an_interrupt_of_the_writer_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between two rows; at once, not when the exception is forgotten."""
        for number in range(3):
            dicom(tmp_path / "root" / str(number) / "1", f"1.{number}")

        def interrupted(_file: object, _columns: object, rows: Iterator[object]) -> None:
            next(rows)
            raise KeyboardInterrupt

        monkeypatch.setitem(WRITERS, ".csv", interrupted)  # type: ignore[arg-type]
        (tmp_path / "out").mkdir()
        with pytest.raises(KeyboardInterrupt) as raised:
            scan_manifest([tmp_path / "root"], tmp_path / "out" / "m.csv")
        assert raised.tb
        assert os.listdir(tmp_path / "out") == []

    def test_or_the_old_one_stays(self, tmp_path: Path) -> None:
        """What can't be finished leaves no half of it."""
        (tmp_path / "m.csv").mkdir()
        (tmp_path / "m.csv" / "old").write_text("kept")
        with pytest.raises(UsageError, match="can't be written: Is a directory"):
            write_manifest([tmp_path], tmp_path / "m.csv")
        assert os.listdir(tmp_path) == ["m.csv"]

    def test_not_for_a_root_that_is_no_directory(self, tmp_path: Path) -> None:
        """A misspelt root is told by its place among the arguments."""
        with pytest.raises(UsageError, match="ROOT 2 is not a directory"):
            write_manifest([tmp_path, tmp_path / "nowhere"], tmp_path / "m.csv")
        assert os.listdir(tmp_path) == []
