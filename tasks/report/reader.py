"""A report, read back: its rows, its summary, and the studies that are not complete."""

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final

from tasks.core.completeness import Completeness
from tasks.core.errors import UsageError
from tasks.core.escape import unescape
from tasks.core.models import Summary
from tasks.core.report_columns import COLUMNS, Kind
from tasks.ledger.private_files import opened
from tasks.report.directory import REPORT_CSV, REPORT_PARQUET, STUDIES_CSV, SUMMARY_JSON
from tasks.report.studies_csv import STUDY_COLUMNS, WrittenStudies, read_studies

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

_LONGEST_CELL: Final = 1 << 30  # characters; what was written is read, also a manifest's longest cell escaped
REGISTRATION_CSV: Final = "registration.csv"
_BATCH_ROWS: Final = 1000
_NUMBERS: Final[Mapping[Kind, type[int] | type[float]]] = {Kind.INTEGER: int, Kind.SECONDS: float}
_ALL_ROWS: Final[Mapping[str, Collection[Any]]] = MappingProxyType({})
_BUFFER_BYTES: Final = 1 << 16  # of each column of a row group, in place of all of it
_NO_REPORT: Final = "There is no whole report in the report directory: run the command that writes it again."
_DAMAGED: Final = "The report is not as it was written: write it again, or name another one."


def read_report(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a report directory, or of one of its CSV files, one by one; all text, and unescaped."""
    with _readable(_csv_of(path)) as file:
        lines = csv.reader(file)
        names = [unescape(name) for name in next(lines, [])]
        if not names:
            raise UsageError(_DAMAGED)
        for line in lines:
            yield dict(zip(names, map(unescape, line), strict=True))


def read_cells(
    report_dir: Path, names: Sequence[str], only: Mapping[str, Collection[Any]] = _ALL_ROWS
) -> Iterator[list[Any]]:
    """These columns of a report's rows, row by row: as they are written, but for numbers, which are such.

    Of report.parquet where that can be read, else of report.csv. A column that an earlier version did not
    write is empty, a number that is not known None. `only`: of rows that have one of these values in each of
    these columns.
    """
    if (report_dir / REPORT_PARQUET).is_file():
        yield from _parquet_cells(report_dir / REPORT_PARQUET, names, only)
        return
    with _readable(report_dir / REPORT_CSV) as file:
        for row in csv.DictReader(file):
            if all(_value(name, row.get(name) or "") in values for name, values in only.items()):
                yield [_value(name, row.get(name) or "") for name in names]


def _value(name: str, cell: str) -> Any:
    number = _NUMBERS.get(COLUMNS[name].kind)
    return cell if number is None else number(cell) if cell else None


def _parquet_cells(
    path: Path, names: Sequence[str], only: Mapping[str, Collection[Any]]
) -> Iterator[list[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    texts = [COLUMNS[name].kind not in _NUMBERS for name in names]
    try:
        with (
            opened(path) as file,
            parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as table,
        ):
            there = [name for name in dict.fromkeys((*names, *only)) if name in table.schema_arrow.names]
            groups = _groups(table, only)
            batches = table.iter_batches(_BATCH_ROWS, row_groups=groups, columns=there, use_threads=False)
            for batch in map(partial(_filtered, only=only), batches if groups else ()):
                empty = [None] * batch.num_rows
                found = {name: batch.column(name).to_pylist() for name in there}
                columns = [
                    [cell or "" for cell in found.get(name, empty)] if is_text else found.get(name, empty)
                    for name, is_text in zip(names, texts, strict=True)
                ]
                yield from map(list, zip(*columns, strict=True))
    except OSError as error:
        raise UsageError(f"The report could not be read: {os.strerror(error.errno or 0)}.") from None
    except (pa.ArrowException, ValueError, KeyError):
        raise UsageError(_DAMAGED) from None


def _groups(table: "parquet.ParquetFile", only: Mapping[str, Collection[Any]]) -> list[int]:
    """The row groups in which such rows may be: those of one study lie together."""
    kept = []
    positions = {name: table.schema_arrow.names.index(name) for name in only}
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        for name, values in only.items():
            found = group.column(positions[name]).statistics
            if found and found.has_min_max and not any(found.min <= each <= found.max for each in values):
                break
        else:
            kept.append(number)
    return kept


def _filtered(batch: "pa.RecordBatch", only: Mapping[str, Collection[Any]]) -> "pa.RecordBatch":
    from pyarrow import array, compute

    for name, values in only.items():
        column = batch.column(name)
        batch = batch.filter(compute.is_in(column, value_set=array([*values], column.type)))
    return batch


def read_registration(report_dir: Path) -> Iterator[tuple[str, str, str]]:
    """What ingest wrote beside a report of each object: key, status, moved_to; they are escaped."""
    if (report_dir / REGISTRATION_CSV).is_file():
        with _readable(report_dir / REGISTRATION_CSV) as file:
            for row in csv.DictReader(file):
                yield row["key"], row["status"], row.get("moved_to") or ""


@contextmanager
def opened_studies(report_dir: Path) -> Iterator[WrittenStudies]:
    """studies.csv, row by row, within the block."""
    with _readable(report_dir / STUDIES_CSV) as file:
        yield read_studies(csv.reader(file))


def read_table(path: Path) -> "pd.DataFrame":
    """A report directory, or one of its CSV files, as a table of text, unescaped; empty text is not known.

    Nothing else reads a report by pandas: by its defaults the UID 1.10 would become the number 1.1.
    """
    import pandas as pd

    with _readable(_csv_of(path)) as file:
        table = pd.read_csv(file, dtype=object, keep_default_na=False)
    # Objects, for a name that is not UTF-8 has surrogates, which pandas' own text type refuses.
    columns = {unescape(name): [unescape(text) for text in table[name]] for name in table}
    return pd.DataFrame(columns, dtype=object)


def read_summary(report_dir: Path) -> Summary:
    """The summary of the whole report in this directory. Raises `UsageError` when there is none."""
    if not (report_dir / REPORT_CSV).is_file():
        raise UsageError(_NO_REPORT)
    with _readable(report_dir / SUMMARY_JSON) as file:
        return Summary(**json.load(file))


@dataclass(frozen=True, slots=True)
class NotComplete:
    """The studies of a report that are not complete, as studies.csv has them: its text is safe to show."""

    incomplete: int  # reasons for exit 1
    without_image: int  # no reason for it: files, none of them an image, and none was expected
    first: list[dict[str, str]]  # of the incomplete ones, by their rows in the manifest
    with_exceptions: int = 0  # complete but for rows that a person accepted


def read_not_complete(report_dir: Path, most: int) -> NotComplete:
    """Counts them, and gives so many rows at most. What an earlier version did not write is empty."""
    incomplete = without_image = with_exceptions = 0
    first: list[dict[str, str]] = []
    with _readable(report_dir / STUDIES_CSV) as file:
        for row in csv.DictReader(file):
            complete = row.get("complete")
            incomplete += complete == Completeness.INCOMPLETE
            without_image += complete == Completeness.NEITHER and bool(row.get("why"))
            with_exceptions += complete == Completeness.WITH_EXCEPTIONS
            if complete == Completeness.INCOMPLETE and len(first) < most:
                first.append({name: row.get(name) or "" for name in STUDY_COLUMNS})
    return NotComplete(incomplete, without_image, first, with_exceptions)


def _csv_of(path: Path) -> Path:
    """A file that somebody names may be a link; a report's own is none."""
    return path / REPORT_CSV if path.is_dir() else path.resolve()


@contextmanager
def _readable(path: Path) -> Iterator[IO[str]]:
    """An opened file of a report; whatever is wrong with it is a `UsageError`."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with opened(path) as file, TextIOWrapper(file, encoding="utf-8", newline="") as text:
            yield text
    except FileNotFoundError:
        raise UsageError(_NO_REPORT) from None
    except OSError as error:
        raise UsageError(f"The report could not be read: {os.strerror(error.errno or 0)}.") from None
    except (ValueError, TypeError, csv.Error):
        raise UsageError(_DAMAGED) from None
