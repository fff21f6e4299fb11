"""What spreadsheets and databases make of a manifest: read as it was meant, or refused with what to do."""

import csv
import hashlib
import io
import os
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.__main__ import execute
from tasks.core.errors import ManifestError
from tasks.core.manifest import path_cell
from tasks.core.models import StudyEntry
from tasks.run.engine import ingest
from tasks.source.manifest_reader import load_manifest
from tasks.source.manifest_writer import write_manifest
from tasks.source.text_lines import MAX_ROW_BYTES, Lines
from tests.conftest import Dicom, NearSide, Run
from tests.far_side import TOKEN

ROWS = [["study_dir", "expected_instances", "label"], ["s1", "2", "first"], ["s2", "1", "zwei ä"]]
NBSP = "\u00a0"


def lines(separator: str = ",", end: str = "\n", rows: Sequence[Sequence[str]] = ROWS) -> str:
    return "".join(separator.join(row) + end for row in rows)


def with_mark(text: str) -> bytes:
    return b"\xef\xbb\xbf" + text.encode()


def utf16(text: str, encoding: str = "utf-16-le") -> bytes:
    return f"\ufeff{text}".encode(encoding)


PADDED = lines(rows=[[f" {cell}{NBSP}\u2009" for cell in row] for row in ROWS])
JSON_LINES = (
    '{"study_dir": "s1", "expected_instances": 2, "label": "first"}\n'
    '{"study_dir": " s2\u00a0", "expected_instances": "1 ", "label": "zwei ä"}\n'
)
READ_AS_MEANT = {
    "carriage returns": lines(end="\r").encode(),
    "carriage returns, none at the end": lines(end="\r").rstrip("\r").encode(),
    "carriage returns and a mark": with_mark(lines(end="\r")),
    "semicolons": lines(";").encode(),
    "semicolons and quotes": lines(";", rows=[[f'"{cell}"' for cell in row] for row in ROWS]).encode(),
    "tabs": lines("\t", "\r\n").encode(),
    "Excel's first line": b"sep=;\r\n" + lines(";", "\r\n").encode(),
    "UTF-16, tabs": utf16(lines("\t", "\r\n")),
    "UTF-16, big endian": utf16(lines(), "utf-16-be"),
    "UTF-16, carriage returns, semicolons": utf16(lines(";", "\r")),
    "blanks": PADDED.encode(),
    "blanks and a mark": with_mark(PADDED),
    "a mark inside quotes": '"\ufeffstudy_dir",expected_instances,label\ns1,2,first\ns2,1,zwei ä\n'.encode(),
    "rows that are empty": lines(
        rows=[ROWS[0], ["", "", ""], ROWS[1], [" ", NBSP, ""], ROWS[2], [""] * 9, ["", ""]]
    ).encode(),
    "rows that are empty, semicolons": lines(";", rows=[[""] * 3, *ROWS, [""] * 3]).encode(),
    "DOS": lines(end="\r\n").encode() + b"\x1a",
    "DOS, a line of its own": lines(end="\r\n").encode() + b"\x1a\r\n",
    "DOS, none at the last line's end": lines(end="\r\n").encode().rstrip() + b"\x1a",
    "DOS, a block filled up": lines(end="\r\n").encode() + b"\x1a" * 200_000,
    "DOS, then zeros": lines(end="\r\n").encode() + b"\x1a" + bytes(100),
    "DOS, UTF-16": utf16(lines("\t", "\r\n") + "\x1a"),
    "columns that are empty": lines(rows=[[*row, "", ""] for row in ROWS]).encode(),
    "surplus cells": lines(rows=[ROWS[0], [*ROWS[1], "", ""], ROWS[2]]).encode(),
}


def entries(directory: Path) -> list[StudyEntry]:
    return [
        StudyEntry(1, f"{directory}/s1", expected_instances=2, label="first"),
        StudyEntry(2, f"{directory}/s2", expected_instances=1, label="zwei ä"),
    ]


def put(directory: Path, content: bytes, name: str = "m.csv") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ManifestError) as refused:
        load_manifest(path)
    return [str(problem) for problem in refused.value.problems]


class TestReadAsMeant:
    @pytest.mark.parametrize("name", READ_AS_MEANT)
    def test_whatever_wrote_it(self, tmp_path: Path, name: str) -> None:
        """The digest is that of the file's own bytes."""
        found = load_manifest(put(tmp_path, READ_AS_MEANT[name]))
        assert found == entries(tmp_path)
        assert found.sha256 == hashlib.sha256(READ_AS_MEANT[name]).hexdigest()

    @pytest.mark.parametrize(
        "encoded",
        [with_mark(JSON_LINES), utf16(JSON_LINES), JSON_LINES.encode(), (JSON_LINES + "\x1a").encode()],
    )
    @pytest.mark.parametrize("end", ["\n", "\r"])
    def test_of_json_lines_too(self, tmp_path: Path, encoded: bytes, end: str) -> None:
        """With a byte order mark, and with blanks that a database pads its columns with."""
        is_wide = encoded.startswith(b"\xff\xfe")
        content = encoded.replace(b"\n\0", b"\r\0") if is_wide else encoded.replace(b"\n", end.encode())
        assert load_manifest(put(tmp_path, content, "m.jsonl")) == entries(tmp_path)

    def test_of_json_lines_that_were_joined(self, tmp_path: Path) -> None:
        """Each part begins with a byte order mark of its own."""
        content = b"".join(map(with_mark, JSON_LINES.splitlines(keepends=True)))
        assert load_manifest(put(tmp_path, content, "m.jsonl")) == entries(tmp_path)

    def test_of_parquet_too(self, tmp_path: Path) -> None:
        """As pandas makes it of a spreadsheet."""
        columns = {
            "study_dir ": ["s1", None, f"{NBSP}s2 "],
            "expected_instances": [2.0, None, 1.0],
            "label": ["first ", "  ", "zwei ä"],
        }
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        assert load_manifest(tmp_path / "m.parquet") == entries(tmp_path)

    @pytest.mark.parametrize("number", ["1.20", "1.2000000000000000000001", "1.0"])
    def test_of_numbers_in_json_as_they_are_written(self, tmp_path: Path, number: str) -> None:
        """Every digit of a UID counts, and of a directory's name."""
        content = f'{{"study_dir": {number}, "study_instance_uid": {number}}}\n'
        (entry,) = load_manifest(put(tmp_path, content.encode(), "m.jsonl"))
        assert (entry.study_dir, entry.study_instance_uid) == (f"{tmp_path}/{number}", number)

    def test_of_a_sign_that_ends_nothing(self, tmp_path: Path) -> None:
        """DOS's sign within the text is one like any other; so is a run of them, however long."""
        ends = b"\x1a" * (30_000)
        path = put(tmp_path, b"study_dir,note\ns1,a\x1a\nb\x1a,\n" + b"s2," + ends + b"x\n")
        assert [entry.extra for entry in load_manifest(path)] == [
            (("note", "a\x1a"),),
            (("note", ""),),
            (("note", ends.decode() + "x"),),
        ]

    def test_other_columns_are_carried_as_they_came(self, tmp_path: Path) -> None:
        path = put(tmp_path, b"study_dir,note\n s1 , x \n")
        assert load_manifest(path)[0].extra == (("note", " x "),)

    def test_from_a_pipe_that_gives_a_byte_at_a_time(self, tmp_path: Path) -> None:
        """Nothing depends on how much of it comes at once."""
        for number, content in enumerate(
            (lines(end="\r\n").encode(), lines(end="\r").encode(), utf16(lines(";")))
        ):
            pipe = tmp_path / f"{number}.csv"
            os.mkfifo(pipe)
            writing = threading.Thread(target=write_slowly, args=(pipe, content))
            writing.start()
            found = load_manifest(pipe)
            writing.join()
            assert found == entries(tmp_path)
            assert found.sha256 == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize(
        ("content", "lines"),
        [
            (b'a,b\r\n1,"x\ry"\r\n', ["a,b", '1,"x\ry"']),
            (b"a\n1\r2\n", ["a", "1\r2"]),
            (b"a\r1\r", ["a", "1"]),
            (b"\xff\xfea\0\r\0\n\0", ["a"]),
            (b"a\x1a\n1\n\x1a\n\x1a\n2\n\x1a\n", ["a\x1a", "1", "\x1a", "\x1a", "2"]),
            (b"a\r1\r\x1a\x1a\r", ["a", "1"]),
        ],
    )
    def test_lines_end_as_the_first_does(self, content: bytes, lines: list[str]) -> None:
        """However late its second sign comes: a carriage return elsewhere is a sign like any other."""
        for file in (io.BytesIO(content), OneByOne(content)):
            assert [line.rstrip("\r\n") for line in Lines(io.BufferedReader(file))] == lines

    @given(
        st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20)
    )
    def test_any_name_of_a_directory_comes_back(self, name: str) -> None:
        """Also with blanks around it: our own writer escapes them."""
        cell = path_cell(f"/archive/{name}")
        assert cell == cell.strip()
        written = io.StringIO()
        csv.writer(written).writerow([cell])
        with TemporaryDirectory() as directory:
            path = put(Path(directory), f"study_dir\n{written.getvalue()}".encode())
            assert load_manifest(path)[0].study_dir == os.path.normpath(f"/archive/{name}")

    def test_what_the_manifest_command_wrote_of_names_with_blanks(self, tmp_path: Path, dicom: Dicom) -> None:
        directories = [tmp_path / "archive" / name for name in (" b", "a ", f"c{NBSP}")]
        for directory in directories:
            directory.mkdir(parents=True)
            (directory / "1").write_bytes(dicom("1.1"))
        write_manifest(directories, tmp_path / "m.csv")
        assert [Path(entry.study_dir) for entry in load_manifest(tmp_path / "m.csv")] == directories


class OneByOne(io.RawIOBase):
    """Gives a byte at a time."""

    def __init__(self, content: bytes) -> None:
        self._bytes = iter(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        for byte in self._bytes:
            buffer[0] = byte
            return 1
        return 0


def write_slowly(pipe: Path, content: bytes) -> None:
    with pipe.open("wb", buffering=0) as file:
        for byte in content:
            file.write(bytes([byte]))


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"study_dir\ngs://bucket/s1\n", "is an address of no store that is read"),
            (b"study_dir\nD:\\archive\\x01\\CT0001\n", "is a path of Windows"),
            (b"study_dir\nd:/archive/s1\n", "is a path of Windows"),
            (b"study_dir\n\\\\nas\\pacs\n", "is a path of Windows"),
            (b'study_dir;label\n"\\\\nas.example.org\\pacs\\s1";x\n', "is a path of Windows"),
            (b"study_dir\n\\\\?\\C:\\archive\n", "is a path of Windows"),
            (b"study_dir,study_instance_uid\ns1,1.2E+10\n", "is not a UID"),
            (b'study_dir;study_instance_uid\ns1;"1,2E+10"\n', "is not a UID"),
            (b"study_dir\tstudy_instance_uid\ns1\t DOE^JANE \n", "is not a UID"),
            (b"study_dir,study_instance_uid\ns1,1.2.\n", "is not a UID"),
        ],
    )
    def test_by_row_and_column_without_showing_the_cell(
        self, tmp_path: Path, content: bytes, fault: str
    ) -> None:
        (found,) = faults(put(tmp_path, content))
        assert found.startswith("row 1, study_")
        assert fault in found
        assert not any(part in found for part in ("nas", "CT0001", "DOE", "1.2", "archive/s1"))

    @pytest.mark.parametrize("cell", ["./D:/archive", "\\\\nas\\x01", "a\\b", "D", "//nas/pacs"])
    def test_no_name_that_a_directory_may_have(self, tmp_path: Path, cell: str) -> None:
        """Our own escape among them."""
        assert len(load_manifest(put(tmp_path, f"study_dir\n{cell}\n".encode()))) == 1

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (lines(";", rows=[ROWS[0], ["s1", "2"]]).encode(), "row 1, the header has 3 cells, this row 2"),
            (
                lines(rows=[ROWS[0], [*ROWS[1], "", "x"]]).encode(),
                "row 1, the header has 3 cells, this row 5",
            ),
            (b"study_dir|label\ns1|a\n", "study_dir: there is no such column"),
            (utf16("study_dir\ns1\n") + b"x", "row 2, study_dir: is not UTF-8 text"),
            (
                "\ufeffstudy_dir\n\ud800\n".encode("utf-16-le", "surrogatepass"),
                "row 1, study_dir: is not UTF-8",
            ),
            (b"study_dir,label\n,\n \xc2\xa0,\n", "it has no rows"),
            (b"\r\r\r", "it is empty"),
            (b"\xff\xfe", "it is empty"),
            (b"sep=;\n", "it is empty"),
        ],
    )
    def test_with_what_is_wrong(self, tmp_path: Path, content: bytes, fault: str) -> None:
        assert faults(put(tmp_path, content))[0].startswith(fault)

    @pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.dictionary(pa.int32(), pa.float64())])
    @pytest.mark.parametrize("name", ["study_dir", "study_instance_uid"])
    def test_with_numbers_that_lost_their_last_digits(
        self, tmp_path: Path, name: str, kind: pa.DataType
    ) -> None:
        """As pandas makes them of UIDs: 1.20 and 1.2 are one number. A column without any is none."""
        columns = {"study_dir": ["s1", "s2"], "label": ["", ""]} | {name: pa.array([1.25, None], kind)}
        pq.write_table(pa.table({**columns, "note": [1.5, None]}), tmp_path / "m.parquet")
        found = faults(tmp_path / "m.parquet")
        assert found[0] == (
            f"row 1, {name}: is a number, not text, and may have lost digits (1.20 is 1.2): "
            "write the column as text"
        )
        assert len(found) == 1
        empty = {"study_dir": ["s1"], "study_instance_uid": pa.array([None], kind)}
        pq.write_table(pa.table(empty), tmp_path / "m.parquet")
        assert load_manifest(tmp_path / "m.parquet")[0].study_instance_uid == ""

    @pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
    @pytest.mark.parametrize("is_wide", [False, True])
    @pytest.mark.parametrize("end", ["\r", "\n"])
    def test_with_a_cell_of_many_megabytes_in_little_memory(
        self, tmp_path: Path, name: str, is_wide: bool, end: str
    ) -> None:
        """Whatever the encoding and the line's end."""
        start = (
            f'study_dir{end}ok{end}"' if name == "m.csv" else f'{{"study_dir": "ok"}}{end}{{"study_dir": "'
        )
        text = start + "x" * (32 * MAX_ROW_BYTES)
        path = put(tmp_path, utf16(text) if is_wide else text.encode(), name)
        del text
        tracemalloc.start()
        (found,) = faults(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.startswith(f"row 2, it is longer than {MAX_ROW_BYTES} bytes")
        assert peak_bytes < 8 * MAX_ROW_BYTES

    def test_with_a_header_without_an_end(self, tmp_path: Path) -> None:
        found = faults(put(tmp_path, b"study_dir," * MAX_ROW_BYTES))
        assert found == [f"it is longer than {MAX_ROW_BYTES} bytes (a quote left open?); reading ended here"]


class TestRun:
    def run(self, near_side: NearSide, content: bytes) -> Run:
        manifest = load_manifest(put(near_side.archive, content))
        return near_side.told(ingest(manifest, near_side.settings(), edges=near_side.edges))

    def complete(self, near_side: NearSide) -> list[str]:
        with (near_side.report_dir / "studies.csv").open(encoding="utf-8", newline="") as file:
            return [row["complete"] for row in csv.DictReader(file)]

    @pytest.mark.parametrize("name", ["UTF-16, tabs", "carriage returns", "blanks", "rows that are empty"])
    def test_sends_what_the_manifest_names(self, near_side: NearSide, dicom: Dicom, name: str) -> None:
        """Every study is complete, and the summary has the digest of the manifest's bytes."""
        bodies = {f"s{study}/{n}": dicom(f"1.{study}.{n}") for study, n in ((1, 1), (1, 2), (2, 1))}
        for path, body in bodies.items():
            near_side.put(path, body)
        run = self.run(near_side, READ_AS_MEANT[name])
        assert run.exit_code == 0
        assert {name: near_side.far_side.bodies[row["key"]] for name, row in run.rows.items()} == bodies
        assert self.complete(near_side) == ["true", "true"]
        assert run.summary.manifest_sha256 == hashlib.sha256(READ_AS_MEANT[name]).hexdigest()

    @pytest.mark.parametrize("uid", ["1.2.840.00727.5", "1.02.00", f" 1.2.00{NBSP}"])
    def test_counts_a_study_complete_whose_uid_has_leading_zeros(
        self, near_side: NearSide, dicom: Dicom, uid: str
    ) -> None:
        """As older equipment and anonymizers write it."""
        text = uid.strip()
        image = dicom("1.1").replace(b"1.2.3\0", text.encode().ljust(len(text) + len(text) % 2, b"\0"), 1)
        position = image.index(text.encode()) - 2
        length = len(text) + len(text) % 2
        near_side.put("s1/1", image[:position] + length.to_bytes(2, "little") + image[position + 2 :])
        run = self.run(near_side, f"study_dir,study_instance_uid\ns1,{uid}\n".encode())
        assert run.row("s1/1")["study_instance_uid"] == text
        assert (run.exit_code, self.complete(near_side)) == (0, ["true"])

    def test_that_names_a_path_of_windows_begins_nowhere(
        self,
        near_side: NearSide,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`run`, as a person types it."""
        monkeypatch.chdir(near_side.directory)
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        put(near_side.directory, b"study_dir;label\nD:\\archive\\DOE;x\n")
        assert execute(["run", "m.csv", "-u", near_side.far_side.url]) == 2
        said = capsys.readouterr().err
        assert "row 1, study_dir: is a path of Windows; write it as this machine mounts it, with /" in said
        assert "DOE" not in said
        assert near_side.far_side.requests == []
