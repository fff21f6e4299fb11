"""Manifests in three formats, read with every fault by row."""

import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ManifestError, ManifestFileError, UsageError
from tasks.core.models import StudyEntry
from tasks.source.manifest_reader import MAX_ROW_BYTES, _Hashed, load_manifest

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

    def test_that_looks_separated_by_semicolons_is_told_so(self, put: Put) -> None:
        """Not only that the column is missing."""
        assert "semicolons" in faults(put("m.csv", b"directory;label\na;b\n"))[0]

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_that_is_empty_is_refused(self, put: Put, content: bytes) -> None:
        """An empty file is no manifest of nothing."""
        assert faults(put("m.csv", content)) == ["it is empty"]

    def test_in_utf16_that_does_not_say_so_is_told_so(self, put: Put) -> None:
        """What a spreadsheet calls Unicode text has a byte order mark."""
        assert "UTF-16" in faults(put("m.csv", "study_dir\na\n".encode("utf-16-le")))[0]
        assert "UTF-32" in faults(put("m.csv", "study_dir\na\n".encode("utf-32")))[0]


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
                "row 2, priority: is not a whole number of at most 9 digits",
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


class TestDigest:
    def test_is_that_of_the_bytes(self, put: Put, tmp_path: Path) -> None:
        """In each format, whatever is skipped or buffered on the way: byte order mark, blank lines, ends."""
        text = b"\xef\xbb\xbf\r\nstudy_dir,label\r\n\r\n" + b"a,b\r\n" + b"\r\n" * 100_000
        lines = b'\n\n{"study_dir": "a"}\n' + b" " * 70_000 + b"\n"
        for path in (
            put("m.csv", text),
            put("m.jsonl", lines),
            parquet(tmp_path / "m.parquet", study_dir=[f"/s/{i}" for i in range(2000)]),
        ):
            assert load_manifest(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest(), path.name

    def test_is_taken_of_what_can_be_read_once(self, tmp_path: Path) -> None:
        """As of a pipe that another program writes into."""
        text = "study_dir\n/archive\n"
        os.mkfifo(tmp_path / "m.csv")
        writing = threading.Thread(target=(tmp_path / "m.csv").write_text, args=(text,))
        writing.start()
        manifest = load_manifest(tmp_path / "m.csv")
        writing.join()
        assert manifest == [StudyEntry(1, "/archive")]
        assert manifest.sha256 == hashlib.sha256(text.encode()).hexdigest()

    def test_of_what_changes_while_it_is_read_here_and_there_is_none(self, tmp_path: Path) -> None:
        """Parquet is read from its end: no digest would be that of what was read."""
        path = parquet(tmp_path / "m.parquet", study_dir=["a"])
        with path.open("rb", buffering=0) as file:
            hashed = _Hashed(file)
            hashed.seek(-8, os.SEEK_END)
            path.write_bytes(path.read_bytes() + b"more")
            with pytest.raises(ManifestFileError, match="changed while it was read"):
                hashed.sha256()


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
