"""Manifests in three formats, read with every fault by row, and written for an archive that has none."""

import csv
import json
import os
import stat
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from tasks.core.errors import ManifestError, UsageError
from tasks.core.models import Listed, StudyEntry
from tasks.load import MAX_ROW_BYTES, load_manifest, write_manifest
from tasks.scan import survey, walk_study

Put = Callable[[str, bytes], Path]
SUFFIXES = ["csv", "jsonl", "ndjson", "parquet"]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def faults(path: Path, root: Path | None = None) -> list[str]:
    with pytest.raises(ManifestError) as refused:
        load_manifest(path, root)
    return [str(problem) for problem in refused.value.problems]


def parquet(path: Path, **columns: Sequence[object] | pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


class TestCsv:
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_is_read_with_or_without_a_byte_order_mark(self, put: Put, bom: bytes, end: bytes) -> None:
        """As editors and spreadsheets write it; blank lines do not count as rows."""
        lines = [b"study_dir, label,site", "a,Ä 1,n".encode(), b"", b'"b,""c""",,']
        path = put("m.csv", bom + end.join(lines) + end)
        assert load_manifest(path) == [
            StudyEntry(1, f"{path.parent}/a", label="Ä 1", extra=(("site", "n"),)),
            StudyEntry(2, f'{path.parent}/b,"c"', extra=(("site", ""),)),
        ]

    def test_with_bytes_that_are_not_utf8_is_refused_by_row_and_column(self, put: Put) -> None:
        """Latin-1 is what old exports are written in."""
        path = put("m.csv", "study_dir,label\na,x\nb,Müller\n".encode("latin-1"))
        assert faults(path) == ["row 2, label: is not UTF-8 text"]

    def test_with_ragged_rows_is_refused_by_row(self, put: Put) -> None:
        """Too few and too many cells are both a fault; the rows between are fine."""
        path = put("m.csv", b"study_dir,label\na\nb,x\nc,x,y\n")
        assert faults(path) == [
            "row 1, the header has 2 cells, this row 1",
            "row 3, the header has 2 cells, this row 3",
        ]

    def test_with_stray_quotes_is_refused_and_read_on(self, put: Put) -> None:
        """One bad row does not hide the next one's fault."""
        found = faults(put("m.csv", b'study_dir,priority\n"a"b,1\nc,high\n'))
        assert [fault.split(",")[0] for fault in found] == ["row 1", "row 2"]

    def test_separated_by_semicolons_is_told_so(self, put: Put) -> None:
        """Not only that the column is missing."""
        assert "semicolons" in faults(put("m.csv", b"study_dir;label\na;b\n"))[0]

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_that_is_empty_is_refused(self, put: Put, content: bytes) -> None:
        """An empty file is no manifest of nothing."""
        assert faults(put("m.csv", content)) == ["it is empty"]

    def test_in_utf16_is_told_so(self, put: Put) -> None:
        """What a spreadsheet calls Unicode text."""
        assert "UTF-16" in faults(put("m.csv", "study_dir\na\n".encode("utf-16")))[0]


class TestJsonLines:
    def test_is_read_one_object_a_line(self, put: Put) -> None:
        """Numbers, booleans and null are cells as they were written; names may differ from line to line."""
        lines = [
            {"study_dir": "a", "expected_instances": 3, "priority": None, "dose": 1.50, "done": True},
            {"label": "x", "study_dir": "ä"},
        ]
        path = put("m.jsonl", "\n\n".join(map(json.dumps, lines)).replace("1.5", "1.50").encode())
        assert load_manifest(path) == [
            StudyEntry(
                1, f"{path.parent}/a", expected_instances=3, extra=(("dose", "1.50"), ("done", "true"))
            ),
            StudyEntry(2, f"{path.parent}/ä", label="x"),
        ]

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            (b'{"study_dir": ["a"]}', "row 2, study_dir: holds a list or an object"),
            (b'{"study_dir": "a", "x": {"y": 1}}', "row 2, column 2: holds a list or an object"),
            (b'{"study_dir": "a", "study_dir": "b"}', "row 2, it has a name twice"),
            (b'{"study_dir": "\\ud800"}', "row 2, study_dir: is not UTF-8 text"),
            (b'{"study_dir": "\xff"}', "row 2, study_dir: is not UTF-8 text"),
            (b'{"study_dir": "a", "": "x"}', "row 2, column 2: the column has no name"),
            (b'{"label": "a"}', "row 2, study_dir: is empty"),
            (b"{}", "row 2, study_dir: is empty"),
            (b'["a"]', "row 2, it is not a JSON object on one line"),
            (b"5", "row 2, it is not a JSON object on one line"),
            (b"{", "row 2, it is not a JSON object on one line"),
            (b"[" * 100_000, "row 2, it is not a JSON object on one line"),
            (
                b'{"study_dir": "a", "priority": NaN}',
                "row 2, priority: is not a whole number of at most nine digits",
            ),
        ],
    )
    def test_with_a_bad_line_is_refused_by_row(self, put: Put, line: bytes, fault: str) -> None:
        """The rows after it are checked all the same."""
        path = put("m.ndjson", b'{"study_dir": "ok"}\n' + line + b'\n{"study_dir": ""}\n')
        assert faults(path) == [fault, "row 3, study_dir: is empty"]

    def test_that_is_empty_is_refused(self, put: Put) -> None:
        """An empty file is no manifest of nothing."""
        assert faults(put("m.jsonl", b"\n")) == ["it has no rows"]


class TestParquet:
    def test_is_read_with_text_and_number_columns(self, tmp_path: Path) -> None:
        """Also as pandas leaves them: categories, and floats where a count is not known."""
        path = parquet(
            tmp_path / "m.parquet",
            study_dir=pa.array(["a", "ä"]).dictionary_encode(),
            expected_instances=[12.0, float("nan")],
            priority=[None, 4],
            site=pa.array(["n", None], pa.large_string()),
        )
        assert load_manifest(path) == [
            StudyEntry(1, f"{tmp_path}/a", expected_instances=12, extra=(("site", "n"),)),
            StudyEntry(2, f"{tmp_path}/ä", priority=4, extra=(("site", ""),)),
        ]

    def test_with_columns_of_other_types_is_refused_by_column(self, tmp_path: Path) -> None:
        """Lists and bytes have no one way to become text."""
        path = parquet(tmp_path / "m.parquet", study_dir=["a"], x=[[1]], label=[b"b"])
        assert faults(path) == [
            "column 2: the column holds neither text nor numbers",
            "label: the column holds neither text nor numbers",
        ]

    def test_with_bytes_that_are_not_utf8_is_refused_by_row_and_column(self, tmp_path: Path) -> None:
        """Parquet promises UTF-8 and nobody checks."""
        text = pa.StringArray.from_buffers(
            1, pa.array([b"\xff"]).buffers()[1], pa.array([b"\xff"]).buffers()[2]
        )
        assert faults(parquet(tmp_path / "m.parquet", study_dir=text)) == [
            "row 1, study_dir: is not UTF-8 text"
        ]

    def test_without_rows_is_refused(self, tmp_path: Path) -> None:
        """As an empty file of the other formats is."""
        path = parquet(tmp_path / "m.parquet", study_dir=pa.array([], pa.string()))
        assert faults(path) == ["it has no rows"]

    @pytest.mark.parametrize("keep", [0, 4, 40, -20])
    def test_that_is_cut_or_no_parquet_at_all_is_refused(self, tmp_path: Path, keep: int) -> None:
        """One sentence, nothing of pyarrow's own words."""
        path = parquet(tmp_path / "m.parquet", study_dir=["a"] * 5000)
        path.write_bytes(path.read_bytes()[:keep])
        assert faults(path) == ["it can't be read as Parquet; write it again"]

    def test_with_damaged_pages_is_refused(self, tmp_path: Path) -> None:
        """What can be opened may still not be readable."""
        path = parquet(tmp_path / "m.parquet", study_dir=[f"study{i}" for i in range(5000)])
        content = bytearray(path.read_bytes())
        content[4:2000] = b"\xff" * 1996
        path.write_bytes(content)
        assert faults(path) == ["row 1, it can't be read as Parquet; reading ended here"]

    def test_is_read_over_many_batches(self, tmp_path: Path) -> None:
        """Rows are counted over the whole file."""
        path = parquet(tmp_path / "m.parquet", study_dir=[f"/s/{i}" for i in range(2000)])
        assert [(e.study_no, e.study_dir) for e in load_manifest(path)][1999] == (2000, "/s/1999")


class TestAnyManifest:
    @pytest.mark.parametrize("name", ["m.txt", "m.xlsx", "m", "m.csv.gz"])
    def test_with_another_suffix_is_refused(self, put: Put, name: str) -> None:
        """The suffix says the format; nothing is guessed."""
        with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.ndjson, \.parquet"):
            load_manifest(put(name, b"study_dir\na\n"))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_that_is_not_there_is_told_in_one_sentence(self, tmp_path: Path, suffix: str) -> None:
        """Without its path: the message may reach Prefect."""
        with pytest.raises(UsageError, match="No such file") as refused:
            load_manifest(tmp_path / f"m.{suffix}")
        assert str(tmp_path) not in str(refused.value)

    def test_that_is_a_directory_is_told_in_one_sentence(self, tmp_path: Path) -> None:
        """A folder called m.csv is no manifest."""
        (tmp_path / "m.csv").mkdir()
        with pytest.raises(UsageError, match="Is a directory"):
            load_manifest(tmp_path / "m.csv")

    @pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
    def test_with_a_cell_of_many_megabytes_is_refused_in_little_memory(self, put: Put, name: str) -> None:
        """A quote left open makes the rest of a file one cell; a gigabyte may follow."""
        start = b'study_dir\nok\n"' if name == "m.csv" else b'{"study_dir": "ok"}\n{"study_dir": "'
        path = put(name, start + b"x" * (32 * MAX_ROW_BYTES))
        tracemalloc.start()
        found = faults(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == [
            f"row 2, it is longer than {MAX_ROW_BYTES} bytes (a quote left open?); reading ended here"
        ]
        assert peak_bytes < 8 * MAX_ROW_BYTES

    def test_with_a_quote_left_open_over_many_lines_is_refused(self, put: Put) -> None:
        """The csv module's own bound on a cell holds as well."""
        path = put("m.csv", b'study_dir\n"a\n' + (b"b" * 100 + b"\n") * 2000)
        assert faults(path)[0].startswith("row 1, it is not CSV")

    def test_may_not_leave_the_root(self, put: Put, tmp_path: Path) -> None:
        """Neither by name nor through a link; relative directories start at the root."""
        root = tmp_path / "root"
        (root / "in").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (root / "out").symlink_to(tmp_path / "elsewhere")
        assert load_manifest(put("m.csv", b"study_dir\nin\n"), root)[0].study_dir == str(root / "in")
        assert faults(put("m.csv", b"study_dir\nout\n../elsewhere\n"), root) == [
            "row 1, study_dir: leads out of --root through a link",
            "row 2, study_dir: lies outside --root",
        ]

    def test_needs_a_root_that_is_a_directory(self, put: Put, tmp_path: Path) -> None:
        """A root that is misspelt is told before any row is blamed."""
        with pytest.raises(UsageError, match="--root is not a directory"):
            load_manifest(put("m.csv", b"study_dir\na\n"), tmp_path / "nowhere")


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
    rows = write_manifest([root, *roots], out)
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
        assert write_manifest([root], out) == write_manifest([root], out) == 2
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
        entries = load_manifest(out) if write_manifest([root], out) else []
        territory = survey(entries)
        rows = [row for entry in entries for row in walk_study(entry, territory)]
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
        assert write_manifest([tmp_path / "root"], out) == len(names)
        assert [os.fsencode(Path(entry.study_dir).name) for entry in load_manifest(out)] == sorted(names)

    def test_for_its_owner_alone_and_without_a_trace_beside_it(self, tmp_path: Path) -> None:
        """Mode 0600: the paths in it may tell who was examined."""
        (tmp_path / "root").mkdir()
        out = tmp_path / "out" / "m.csv"
        out.parent.mkdir()
        assert write_manifest([tmp_path / "root"], out) == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert os.listdir(out.parent) == ["m.csv"]
        assert faults(out) == ["it has no rows"]

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
