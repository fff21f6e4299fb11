"""A report as a workbook of Excel's: a summary, the studies, the files. Text stays text, UIDs too.

Rows go to the disk as they come, so memory does not grow with the archive.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Final

from tasks.core.report_columns import COLUMNS, REPORT_COLUMNS, Kind
from tasks.report.reader import opened_studies, read_summary
from tasks.report.studies_csv import STUDY_COLUMNS

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.format import Format

MOST_ROWS: Final = 1_048_576  # of a sheet, with its header
MOST_CHARS: Final = 32_767  # of a cell
_CUT: Final = " ... (cut: report.csv has all of it)"
_ALL_CELLS: Final = "A1:XFD1048576"
_WIDTH: Final = 18
_TEXT: Final = 49  # Excel's own format of that: a cell stays text when somebody edits it
_NUMBERS: Final = frozenset(
    name for name, column in COLUMNS.items() if column.kind in (Kind.INTEGER, Kind.SECONDS)
)
_STUDY_NUMBERS: Final = frozenset(
    ("study_no", "priority", "files", "bytes", "stored", "failed", "expected", "expected_bytes", "overlaps")
)
_OPTIONS: Final = {
    "constant_memory": True,
    "strings_to_numbers": False,
    "strings_to_formulas": False,
    "strings_to_urls": False,
}


def write_workbook(
    file: IO[bytes],
    report_dir: Path,
    rows: Iterable[list[Any]],
    studies: Collection[int] = (),
    most_rows: int = MOST_ROWS,
) -> int:
    """Writes these rows of a report, its summary, and its studies or some of them; how many rows there were.

    What is more than a sheet holds goes on in further ones.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    # What a workbook is put together of names patients, too: it lies where the workbook will.
    with TemporaryDirectory(prefix=".workbook-", dir=Path(file.name).parent) as parts:
        output = _Output(file)
        book = Workbook(output, _OPTIONS | {"tmpdir": parts})
        book.use_zip64()
        sheets = _Sheets(book, most_rows)
        try:
            sheets.write("summary", ("field", "value"), _facts(report_dir), frozenset())
            lines = _study_lines(report_dir, studies)
            sheets.write("studies", next(lines), lines, _STUDY_NUMBERS)
            count = sheets.write("files", REPORT_COLUMNS, rows, _NUMBERS)
            book.close()
        except FileCreateError as error:  # as the library passes on what the system says
            raise OSError(*getattr(error.args[0], "args", ())) from None
        finally:
            sheets.close()
            output.leave()
    return count


def _study_lines(report_dir: Path, studies: Collection[int]) -> Iterator[list[Any]]:
    """The names of the columns of studies.csv, then its rows, or some of them."""
    with opened_studies(report_dir) as written:
        yield [*STUDY_COLUMNS, *written.carried]
        for study in written.rows:
            line = [*(_cell(name, text) for name, text in study.cells.items()), *study.carried]
            if not studies or line[0] in studies:
                yield line


def _cell(name: str, text: str) -> Any:
    return int(text) if text and name in _STUDY_NUMBERS else text


def _facts(report_dir: Path) -> Iterator[list[Any]]:
    """The summary, a line for each value."""
    for name, value in asdict(read_summary(report_dir)).items():
        if name == "parallel_course":  # a curve, which says nothing line by line
            continue
        if isinstance(value, dict):
            yield from ([f"{name}: {key}", _plain(each)] for key, each in value.items())
        elif isinstance(value, list):
            yield from ([name, _plain(each)] for each in value)
        else:
            yield [name, value]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else str(value)


class _Output:
    """The file, until it is left: an archive that is not finished writes its end when it is dropped."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: IO[bytes] | None = file

    def leave(self) -> None:
        self._file = None

    def write(self, data: bytes) -> int:
        return self._file.write(data) if self._file else len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence) if self._file else 0

    def tell(self) -> int:
        return self._file.tell() if self._file else 0

    def flush(self) -> None:
        if self._file:
            self._file.flush()


class _Sheets:
    def __init__(self, book: "Workbook", most_rows: int) -> None:
        self._book = book
        self._most_rows = most_rows
        self._text: Format = book.add_format({"num_format": _TEXT})
        self._head: Format = book.add_format({"bold": True, "num_format": _TEXT})

    def write(
        self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str]
    ) -> int:
        """A sheet with a header, and as many more as it takes; how many rows there were."""
        sheet, line, count = self._sheet(name, columns, numbers), 0, 0
        for row in rows:
            line += 1
            if line == self._most_rows:
                sheet, line = self._sheet(f"{name} {count // (line - 1) + 1}", columns, numbers), 1
            count += 1
            for position, cell in enumerate(row):
                if isinstance(cell, str):
                    self._write_text(sheet, line, position, _fitting(cell))
                elif cell is not None:
                    sheet.write_number(line, position, cell)
        return count

    def close(self) -> None:
        """Lets go of the files that the library keeps rows in, when it could not do so itself."""
        for sheet in self._book.worksheets():
            if not sheet.row_data_fh.closed:
                sheet.row_data_fh.close()

    def _write_text(self, sheet: Any, line: int, position: int, text: str) -> None:
        if text.startswith("<r>") and text.endswith("</r>"):  # which the library would take for its own XML
            sheet.write_rich_string(line, position, self._text, text[:1], text[1:], self._text)
        elif text:
            sheet.write_string(line, position, text, self._text)

    def _sheet(self, name: str, columns: Sequence[str], numbers: Collection[str]) -> Any:
        sheet = self._book.add_worksheet(name)
        for position, column in enumerate(columns):
            sheet.set_column(position, position, _WIDTH, None if column in numbers else self._text)
            sheet.write_string(0, position, _fitting(column), self._head)
        sheet.freeze_panes(1, 0)
        sheet.ignore_errors({"number_stored_as_text": _ALL_CELLS})  # a UID is meant to be text
        return sheet


def _fitting(text: str) -> str:
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - len(_CUT)] + _CUT
