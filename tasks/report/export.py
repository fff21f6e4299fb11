"""Parts of a report, printed or written to a file of another kind. The report itself stays as it is."""

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final

from tasks.core.errors import UsageError
from tasks.core.models import Reason, Status
from tasks.core.report_columns import REPORT_COLUMNS
from tasks.report.directory import (
    AUDIT_JSONL,
    CERTIFICATE_JSON,
    CERTIFICATE_SIG,
    FILES,
    REPAIRS,
    VERIFICATION,
)
from tasks.report.reader import REGISTRATION_CSV, read_cells, read_summary
from tasks.report.tables import report_schema
from tasks.report.workbook import write_workbook
from tasks.source.manifest_reader import cause
from tasks.source.manifest_writer import replacing

_GROUP_ROWS: Final = 10_000  # of Parquet
_OF_A_RUN: Final = frozenset(
    {*FILES, CERTIFICATE_JSON, CERTIFICATE_SIG, *VERIFICATION, *REPAIRS, AUDIT_JSONL, REGISTRATION_CSV}
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows: those that have one of the values of each kind that is given."""

    studies: Collection[int] = ()
    statuses: Collection[str] = ()
    reasons: Collection[str] = ()

    def __post_init__(self) -> None:
        """UsageError for a word that no row can have: it would select nothing, and nobody would know why."""
        for option, words, known in (
            ("--status", self.statuses, [*Status]),
            ("--reason", self.reasons, [reason for reason in Reason if reason]),
        ):
            if not set(words) <= set(known):
                raise UsageError(f"{option} has to be one of {', '.join(known)}. Nothing was written.")

    @property
    def by_column(self) -> Mapping[str, Collection[Any]]:
        """The values that are wanted, by the column that has them."""
        wanted = {"study_no": self.studies, "status": self.statuses, "reason": self.reasons}
        return {name: values for name, values in wanted.items() if values}


def selected(report_dir: Path, selection: Selection) -> Iterator[list[Any]]:
    """Rows of a whole report, in its order: text as it stands there, numbers as such, None if not known."""
    read_summary(report_dir)
    yield from read_cells(report_dir, REPORT_COLUMNS, selection.by_column)


def csv_lines(rows: Iterable[list[Any]]) -> Iterator[str]:
    """A header, then a line for each row: of all rows, report.csv itself."""
    line = StringIO()
    writer = csv.writer(line, lineterminator="")
    for cells in chain([REPORT_COLUMNS], rows):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def json_lines(rows: Iterable[list[Any]]) -> Iterator[str]:
    """An object for each row."""
    return (json.dumps(dict(zip(REPORT_COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows)


def export(report_dir: Path, selection: Selection, out: Path) -> int:
    """Writes the rows to a file, whole or not at all, mode 0600; how many there are.

    UsageError when its name says no kind of file, or is that of one in the report directory.
    """
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise UsageError(
            f"The name of a file to export to ends in one of {', '.join(_WRITERS)}. Nothing was written."
        )
    if out.parent.resolve() == report_dir.resolve() and (out.name in _OF_A_RUN or out.exists()):
        raise UsageError(
            "In the report directory no file is replaced by an export: name another one. Nothing was written."
        )
    read_summary(report_dir)
    try:
        with replacing(out) as file:
            return write(file, report_dir, selection)
    except OSError as error:
        raise UsageError(f"The export can't be written: {cause(error)}.") from None


class _Counted:
    """Rows, and how many there were."""

    def __init__(self, rows: Iterable[list[Any]]) -> None:
        self.count = 0
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[list[Any]]:
        for row in self._rows:
            self.count += 1
            yield row


def _write_lines(
    lines: Callable[[Iterable[list[Any]]], Iterator[str]],
) -> Callable[[IO[bytes], Path, Selection], int]:
    def write(file: IO[bytes], report_dir: Path, selection: Selection) -> int:
        rows = _Counted(selected(report_dir, selection))
        file.writelines(f"{line}\n".encode() for line in lines(rows))
        return rows.count

    return write


def _write_parquet(file: IO[bytes], report_dir: Path, selection: Selection) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema, rows, count = report_schema(), selected(report_dir, selection), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _GROUP_ROWS)):
            columns = list(zip(*batch, strict=True))
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(batch)
    return count


def _write_workbook(file: IO[bytes], report_dir: Path, selection: Selection) -> int:
    return write_workbook(file, report_dir, selected(report_dir, selection), selection.studies)


_WRITERS: Final[Mapping[str, Callable[[IO[bytes], Path, Selection], int]]] = {
    ".csv": _write_lines(csv_lines),
    ".jsonl": _write_lines(json_lines),
    ".ndjson": _write_lines(json_lines),
    ".parquet": _write_parquet,
    ".xlsx": _write_workbook,
}
