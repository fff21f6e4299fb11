"""Parts of a report: which rows, and that each kind of file has what the report has."""

import csv
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import UsageError
from tasks.core.models import StudyEntry
from tasks.core.report_columns import COLUMNS, REPORT_COLUMNS, Kind
from tasks.report.export import Selection, csv_lines, export, json_lines, selected
from tasks.report.reader import read_cells
from tasks.report.workbook import MOST_CHARS, write_workbook
from tests.tasks.report.sample_report import STUDY, UNSENT, row, write
from tests.workbooks import sheets

UID = "1.2.840.10008.5.1.4.1.1.2"
ROWS = [
    row(),
    row(file_no=2, path="=1+1", sop_instance_uid="1.10", duration_s=None),
    row(UNSENT, file_no=3, path=f"{STUDY}/_x0041_", status="failed", reason="network", detail="timed out"),
    row(study_no=2, path="@SUM(A1)", sop_instance_uid="1.20"),
    row(UNSENT, study_no=2, file_no=2, path="/b", status="invalid", reason="truncated"),
    row(UNSENT, study_no=3, path="/c", status="failed", reason="server"),
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    entries = [StudyEntry(number, STUDY, "1.20", extra=(("site", "=cmd"),)) for number in (1, 2, 3)]
    write(tmp_path / "report", ROWS, entries)
    return tmp_path / "report"


class NamedFile:
    """A file by another name."""

    def __init__(self, name: Path, file: Any) -> None:
        self.name, self._file = str(name), file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def numbers(rows: Any) -> list[tuple[int, int]]:
    return [(cells[0], cells[1]) for cells in rows]


@pytest.mark.parametrize("has_parquet", [True, False])
class TestSelection:
    """Of report.parquet, or of report.csv where that is gone."""

    @pytest.fixture(autouse=True)
    def _from(self, report: Path, has_parquet: bool) -> None:
        if not has_parquet:
            (report / "report.parquet").unlink()

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (Selection(), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)]),
            (Selection(studies=[2]), [(2, 1), (2, 2)]),
            (Selection(studies=[3, 1]), [(1, 1), (1, 2), (1, 3), (3, 1)]),
            (Selection(statuses=["failed"]), [(1, 3), (3, 1)]),
            (Selection(statuses=["failed", "invalid"]), [(1, 3), (2, 2), (3, 1)]),
            (Selection(reasons=["network", "truncated"]), [(1, 3), (2, 2)]),
            (Selection(studies=[1], statuses=["failed"], reasons=["network"]), [(1, 3)]),
            (Selection(studies=[4]), []),
            (Selection(statuses=["missing"]), []),
        ],
    )
    def test_has_the_rows_with_all_that_is_asked_for(
        self, report: Path, wanted: Selection, found: list[tuple[int, int]]
    ) -> None:
        assert numbers(selected(report, wanted)) == found

    def test_is_the_same_whatever_it_is_read_of(self, report: Path) -> None:
        """Numbers as such, and what is not known as nothing."""
        first, *_, last = selected(report, Selection())
        cells = dict(zip(REPORT_COLUMNS, first, strict=True))
        assert (cells["size_bytes"], cells["duration_s"], cells["reason"]) == (1000, 0.25, "")
        cells = dict(zip(REPORT_COLUMNS, last, strict=True))
        assert (cells["size_bytes"], cells["duration_s"], cells["started_at"]) == (None, None, "")

    def test_as_csv_is_the_report_itself(self, report: Path) -> None:
        lines = csv_lines(selected(report, Selection()))
        assert "".join(f"{line}\n" for line in lines) == (report / "report.csv").read_text()


def test_of_a_study_reads_its_row_groups_alone(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One study of ten thousand is found at once."""
    monkeypatch.setattr("tasks.report.tables._GROUP_BYTES", (1, 1))
    monkeypatch.setattr("tasks.report.tables._CHUNK_ROWS", 2)
    write(report, ROWS, [StudyEntry(number, STUDY) for number in (1, 2, 3)])
    decoded = []
    monkeypatch.setattr(
        "tasks.report.reader._filtered", lambda batch, only: decoded.append(batch.num_rows) or batch
    )
    list(read_cells(report, REPORT_COLUMNS, {"study_no": {3}}))
    assert sum(decoded) == 2


@pytest.mark.parametrize(
    "wrong", [{"statuses": ["uploaded", "lost"]}, {"reasons": ["nobody_knows"]}, {"reasons": [""]}]
)
def test_a_word_that_no_row_has_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has to be one of"):
        Selection(**wrong)


class TestExport:
    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "ndjson", "parquet", "xlsx", "CSV"])
    def test_has_what_the_report_has(self, report: Path, tmp_path: Path, suffix: str) -> None:
        """Whatever kind of file it is; for nobody else to read."""
        out = tmp_path / f"out.{suffix}"
        assert export(report, Selection(studies=[1]), out) == 3
        assert out.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
        expected = list(selected(report, Selection(studies=[1])))
        assert list(READERS[suffix.lower()](out)) == expected

    def test_replaces_nothing_in_the_report_directory(self, report: Path) -> None:
        """Neither by a name of a run's own, there or not, nor what else is there."""
        (report / "mine.csv").touch()
        before = {path: path.read_bytes() for path in report.iterdir() if path.is_file()}
        for name in ("report.csv", "studies.csv", "verification.csv", "report.parquet", "mine.csv"):
            with pytest.raises(UsageError, match="no file is replaced by an export"):
                export(report, Selection(), report / name)
        assert {path: path.read_bytes() for path in report.iterdir() if path.is_file()} == before
        assert export(report, Selection(), report / "report.xlsx") == 6

    def test_that_can_not_be_written_leaves_what_was_there(self, report: Path, tmp_path: Path) -> None:
        (tmp_path / "out.xlsx").write_bytes(b"earlier")
        text = (report / "report.csv").read_text()
        (report / "report.parquet").unlink()
        (report / "report.csv").write_text(text.replace(",1000,", ",many,"))
        with pytest.raises(UsageError, match="not as it was written"):
            export(report, Selection(), tmp_path / "out.xlsx")
        assert (tmp_path / "out.xlsx").read_bytes() == b"earlier"
        assert {path.name for path in tmp_path.iterdir()} == {"out.xlsx", "report"}
        with pytest.raises(UsageError, match="The export can't be written: No such file or directory"):
            export(report, Selection(), tmp_path / "gone" / "out.csv")

    def test_on_a_full_disk_says_so_once(
        self,
        report: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also of a workbook, whose library would try again when it is dropped."""

        @contextmanager
        def full(_out: Path) -> Iterator[Any]:
            with Path("/dev/full").open("r+b", buffering=0) as file:
                yield NamedFile(tmp_path / "out.xlsx", file)

        monkeypatch.setattr("tasks.report.export.replacing", full)
        for suffix in ("csv", "xlsx"):
            with pytest.raises(UsageError, match="can't be written: No space left on device"):
                export(report, Selection(), tmp_path / f"out.{suffix}")
        gc.collect()
        assert capsys.readouterr().err == ""
        assert [each.name for each in tmp_path.iterdir()] == ["report"]

    def test_of_another_kind_or_of_no_report_is_refused(self, report: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"ends in one of \.csv"):
            export(report, Selection(), tmp_path / "out.ods")
        with pytest.raises(UsageError, match="no whole report"):
            export(tmp_path, Selection(), tmp_path / "out.csv")
        assert {path.name for path in tmp_path.iterdir()} == {"report"}


class TestWorkbook:
    def test_has_a_summary_the_studies_and_the_files(self, report: Path, tmp_path: Path) -> None:
        export(report, Selection(statuses=["failed"]), tmp_path / "out.xlsx")
        found = sheets(tmp_path / "out.xlsx")
        assert list(found) == ["summary", "studies", "files"]
        facts = {each["field"]: each.get("value") for each in found["summary"]}
        summary = json.loads((report / "summary.json").read_text())
        assert (facts["campaign"], facts["files"]) == (summary["campaign"], 6.0)
        assert facts["by_status: failed"] == summary["by_status"]["failed"]
        assert [each["study_no"] for each in found["studies"]] == [1, 2, 3]
        assert [each["path"] for each in found["files"]] == [f"{STUDY}/_x0041_", "/c"]

    def test_has_text_as_text(self, report: Path, tmp_path: Path) -> None:
        """UIDs are no numbers, and what looks like a formula is none: `sheets` refuses one."""
        export(report, Selection(), tmp_path / "out.xlsx")
        found = sheets(tmp_path / "out.xlsx")
        assert [each.get("sop_instance_uid") for each in found["files"][:2]] == ["1.2.840.1", "1.10"]
        assert {each["series_instance_uid"] for each in found["files"] if "series_instance_uid" in each} == {
            "1.10"
        }
        assert {each["study_instance_uid"] for each in found["studies"]} == {"1.20"}
        assert [each["path"] for each in found["files"]][1] == "\\x3d1+1"
        assert found["files"][0]["crc64nvme"] == "+e1e10e1e10="
        assert found["files"][0]["size_bytes"] == 1000.0
        with ZipFile(tmp_path / "out.xlsx") as book:
            styles = book.read("xl/styles.xml").decode()
            files = book.read("xl/worksheets/sheet3.xml").decode()
        assert '<xf numFmtId="49"' in styles  # @: it stays text when somebody edits it
        assert 'numberStoredAsText="1"' in files  # and is not marked as a mistake

    def test_goes_on_in_further_sheets(self, report: Path, tmp_path: Path) -> None:
        """Excel's have 1,048,576 rows."""
        with (tmp_path / "out.xlsx").open("wb") as file:
            assert write_workbook(file, report, selected(report, Selection()), most_rows=3) == 6
        found = sheets(tmp_path / "out.xlsx")
        assert [name for name in found if name.startswith("files")] == ["files", "files 2", "files 3"]
        paths = [each["path"] for name, rows in found.items() if name.startswith("files") for each in rows]
        assert paths == [cells[3] for cells in selected(report, Selection())]

    def test_says_where_a_cell_is_cut(self, report: Path, tmp_path: Path) -> None:
        """A cell of Excel's has 32,767 characters."""
        for length, is_cut in ((MOST_CHARS, False), (MOST_CHARS + 1, True)):
            cells = [None, None, "x" * length]
            with (tmp_path / "out.xlsx").open("wb") as file:
                write_workbook(file, report, [cells])
            ((cell,),) = [each.values() for each in sheets(tmp_path / "out.xlsx")["files"]]
            assert len(str(cell)) == MOST_CHARS
            assert str(cell).endswith(" ... (cut: report.csv has all of it)") == is_cut

    @settings(max_examples=30)
    @given(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
            | st.sampled_from(
                ["<r>a</r>", "<r></b></r>", "_x0041_", "=1+1", "https://a.b", "1e10", " a ", "'"]
            ),
            max_size=26,
        )
    )
    def test_has_any_text_as_it_is(self, tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
        directory = tmp_path_factory.getbasetemp() / "any"
        if not directory.exists():
            write(directory / "report", [row()])
        with (directory / "out.xlsx").open("wb") as file:
            write_workbook(file, directory / "report", [texts, ["end"]])
        first, *_ = sheets(directory / "out.xlsx")["files"]
        expected = {name: text for name, text in zip(REPORT_COLUMNS, texts, strict=False) if text}
        assert first == (expected or {"study_no": "end"})


def _csv_rows(out: Path) -> Any:
    with out.open(newline="") as file:
        for line in csv.DictReader(file):
            yield [_typed(name, line[name]) for name in REPORT_COLUMNS]


def _typed(name: str, cell: Any) -> Any:
    number = {Kind.INTEGER: int, Kind.SECONDS: float}.get(COLUMNS[name].kind)
    return cell if number is None else number(cell) if cell != "" else None


def _json_rows(out: Path) -> Any:
    for line in out.read_text().splitlines():
        cells = json.loads(line)
        assert tuple(cells) == REPORT_COLUMNS
        yield list(cells.values())


def _parquet_rows(out: Path) -> Any:
    from pyarrow import parquet

    return (list(each.values()) for each in parquet.read_table(out).to_pylist())


def _xlsx_rows(out: Path) -> Any:
    for cells in sheets(out)["files"]:
        yield [_typed(name, cells.get(name, "")) for name in REPORT_COLUMNS]


READERS = {
    "csv": _csv_rows,
    "jsonl": _json_rows,
    "ndjson": _json_rows,
    "parquet": _parquet_rows,
    "xlsx": _xlsx_rows,
}


def test_json_lines_are_objects(report: Path) -> None:
    (line,) = json_lines(selected(report, Selection(reasons=["network"])))
    assert json.loads(line)["detail"] == "timed out"
