"""Load: a manifest read into study entries.

The rules of a manifest are in `core/manifest.py`; here its three formats become rows of text. Each is read
row by row and every row is bounded, so that a cell of a gigabyte is a fault and not a full memory.
"""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH100, PTH110, PTH112

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tasks.core.errors import ManifestError, ManifestFileError, Problem, UsageError
from tasks.core.manifest import PathRules, Row, check, column_label, row_cells, without_blanks
from tasks.core.store_urls import as_url, is_store_url
from tasks.core.study_entries import StudyEntries
from tasks.core.words import counted
from tasks.source.stores import open_store_file, require_stores
from tasks.source.text_lines import MAX_ROW_BYTES, Lines, RowTooLongError

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import WriteableBuffer

MAX_COLUMN_CHUNK_BYTES: Final = 1 << 28  # of Parquet, uncompressed: what one read may have to hold
PARQUET_BATCH_ROWS: Final = 512
_WRITTEN_OUT: Final = frozenset({"study_dir", "study_instance_uid"})  # each of their digits counts
# Semicolons and tabs are what spreadsheets write in many countries, and databases.
_SEPARATORS: Final = ",;\t"
_SAYS_SEPARATOR: Final = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)
_IS_NUMBER: Final = "is a number, not text, and may have lost digits (1.20 is 1.2): write the column as text"
T = TypeVar("T")
_Table = tuple[Sequence[str], Iterable[Row | Problem]]  # columns, and rows numbered from 1


def load_manifest(path: Path, root: Path | None = None) -> StudyEntries:
    """The study entries, and the digest, of a CSV, JSON Lines or Parquet file; its suffix says which.

    Rows are counted without those in which nothing is written. With a root, relative study directories start
    from it and none may leave it. Raises UsageError when it can't be opened, ManifestError with every fault
    of its content.
    """
    read = for_suffix(READERS, path)
    if root is not None and not os.path.isdir(root):
        raise UsageError("--root is not a directory. Give the directory that holds all studies.")
    base_root = None if root is None else os.path.abspath(root)
    url = "" if os.path.exists(path) else as_url(str(path))
    require_stores(bool(url))
    base = url.rpartition("/")[0] if url else os.path.abspath(path.parent)
    rules = PathRules(base, base_root, os.path.realpath)
    try:
        with open_store_file(url) if url else path.open("rb", buffering=0) as file:
            hashed = _Hashed(file)
            columns, rows = read(BufferedReader(hashed))
            entries = check(columns, rows, rules)
            entries.sha256 = hashed.sha256()
    except OSError as error:
        raise ManifestFileError(
            f"The manifest can't be read: {cause(error)}. Check its name and permissions."
        ) from None
    require_stores(any(is_store_url(entry.study_dir) for entry in entries))
    return entries


def for_suffix(by_suffix: Mapping[str, T], path: Path) -> T:
    """What belongs to the format that the name's suffix says. UsageError when it is none of them."""
    found = by_suffix.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"A manifest's name ends in one of {', '.join(by_suffix)}. Rename it.")
    return found


def cause(error: OSError) -> str:
    """What happened, without the path that the exception names."""
    return os.strerror(error.errno) if error.errno else "input/output error"


# --- reading ---


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read: what the digest says is what the reader saw."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._before = ""  # the digest of the whole, when it is not read from its start to its end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = self._file.readinto(buffer) or 0
        if not self._before:
            self._digest.update(memoryview(buffer)[:count])
        return count

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._before = self._before or self._of_all()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def sha256(self) -> str:
        """The digest of what was read, to its end. ManifestFileError when that changed meanwhile."""
        if not self._before:
            return self._digest.hexdigest()
        if self._of_all() != self._before:
            raise ManifestFileError(
                "The manifest changed while it was read. Nothing was sent. Run it again once it is written."
            )
        return self._before

    def _of_all(self) -> str:
        here = self._file.tell()
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256")
        self._file.seek(here)
        return digest.hexdigest()


def _read_csv(file: BufferedReader) -> _Table:
    records = _csv_records(file)
    header = next(records, [])
    if isinstance(header, Problem):
        raise ManifestError([header])
    columns = [without_blanks(name) for name in header]
    while columns and not columns[-1]:  # a spreadsheet writes as many cells as its widest row has
        columns.pop()
    return columns, _csv_rows(columns, records)


def _csv_records(file: BufferedReader) -> Iterator[list[str] | Problem]:
    """Every record that is not all empty, the header as record 0. The csv module bounds a cell, too."""
    lines = Lines(file)
    number = 0
    try:
        start, separator = _separator(lines)
    except RowTooLongError:
        yield _too_long(number)
        return
    reader = csv.reader(chain(start, lines), strict=True, delimiter=separator)
    while True:
        lines.start_row()
        try:
            record: list[str] | Problem = next(reader)
        except StopIteration:
            return
        except RowTooLongError:
            yield _too_long(number)
            return
        except csv.Error:
            record = Problem(
                number, "", "it is not CSV (RFC 4180): look for a stray quote or an overlong cell"
            )
        if isinstance(record, Problem) or any(map(without_blanks, record)):
            yield record
            number += 1


def _separator(lines: Lines) -> tuple[list[str], str]:
    """The lines that were read to know it, and what separates cells: what makes the header have `study_dir`.

    A line `sep=;` before the header says it, too, and is no row: Excel writes and reads it.
    """
    line = ""
    for line in lines:
        if without_blanks(line.strip(_SEPARATORS + '" \r\n')):  # else nothing is written in it
            break
        lines.start_row()
    if said := _SAYS_SEPARATOR.fullmatch(line):
        return [], said.group(1)
    found = [each for each in _SEPARATORS if "study_dir" in _names(line, each)]
    return [line], found[0] if found else _SEPARATORS[0]


def _names(line: str, separator: str) -> list[str]:
    try:
        return [without_blanks(name) for name in next(csv.reader([line], strict=True, delimiter=separator))]
    except csv.Error:
        return []


def _csv_rows(columns: Sequence[str], records: Iterator[list[str] | Problem]) -> Iterator[Row | Problem]:
    for number, record in enumerate(records, 1):
        if isinstance(record, Problem):
            yield record
        elif len(columns) < len(record) and not any(map(without_blanks, record[len(columns) :])):
            yield number, row_cells(columns, record)
        elif len(record) != len(columns):
            yield Problem(
                number, "", f"the header has {counted(len(columns), 'cell')}, this row {len(record)}"
            )
        else:
            yield number, row_cells(columns, record)


def _read_json_lines(file: BufferedReader) -> _Table:
    return ["study_dir"], _json_rows(file)


def _json_rows(file: BufferedReader) -> Iterator[Row | Problem]:
    lines = Lines(file)
    number = 0
    try:
        for line in lines:
            lines.start_row()
            if text := without_blanks(line):
                number += 1
                yield from _json_row(number, text)
    except RowTooLongError:
        yield _too_long(number + 1)


def _json_row(number: int, line: str) -> Iterator[Row | Problem]:
    try:  # numbers keep the text they have; an object becomes its pairs, to see a name that comes twice
        pairs = json.loads(line, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, tuple):
        yield Problem(number, "", "it is not a JSON object on one line")
        return
    cells = {without_blanks(name): _json_cell(value) for name, value in pairs}
    faults = [
        Problem(number, column_label(name, position), "holds a list or an object")
        for position, (name, cell) in enumerate(cells.items(), 1)
        if cell is None
    ]
    if len(cells) < len(pairs):
        faults.append(Problem(number, "", "it has a name twice"))
    if faults:
        yield from faults
    else:
        yield number, row_cells(cells, [cell or "" for cell in cells.values()])


def _json_cell(value: object) -> str | None:
    """The cell's text, or None for what is no single value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else None


def _too_long(number: int) -> Problem:
    return Problem(
        number, "", f"it is longer than {MAX_ROW_BYTES} bytes (a quote left open?); reading ended here"
    )


def _read_parquet(file: BufferedReader) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
    except (pa.ArrowException, OSError):
        raise ManifestError([Problem(0, "", "it can't be read as Parquet; write it again")]) from None
    faults = [*_oversized(parquet.metadata), *_unreadable_types(schema)]
    return [*map(without_blanks, schema.names)], faults or _parquet_rows(parquet)


def _oversized(metadata: "pa.parquet.FileMetaData") -> Iterator[Problem]:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            if metadata.row_group(group).column(column).total_uncompressed_size > MAX_COLUMN_CHUNK_BYTES:
                yield Problem(
                    0, "", f"row group {group + 1}, column {column + 1} is too large to be a manifest's"
                )


def _unreadable_types(schema: "pa.Schema") -> Iterator[Problem]:
    for position, column in enumerate(schema, 1):
        if not _is_plain(column.type):
            yield Problem(0, column_label(column.name, position), "the column holds neither text nor numbers")


def _is_plain(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return _is_text(kind) or any(
        is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    )


def _is_fraction(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_floating(kind.value_type if types.is_dictionary(kind) else kind))


def _is_text(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _parquet_rows(parquet: "pa.parquet.ParquetFile") -> Iterator[Row | Problem]:
    import pyarrow as pa

    number = 0
    names = [*map(without_blanks, parquet.schema_arrow.names)]
    kinds = zip(names, parquet.schema_arrow.types, strict=True)
    numeric = {name for name, kind in kinds if name in _WRITTEN_OUT and _is_fraction(kind)}
    try:
        for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, use_threads=False):
            for cells in zip(*map(_parquet_cells, batch.columns), strict=True):
                if any(map(without_blanks, cells)):
                    number += 1
                    row = row_cells(names, cells)
                    yield from _numbers_for_text(number, row, numeric) or [(number, row)]
    except (pa.ArrowException, OSError):
        yield Problem(number + 1, "", "it can't be read as Parquet; reading ended here")


def _numbers_for_text(number: int, row: Mapping[str, str], numeric: Collection[str]) -> list[Row | Problem]:
    return [Problem(number, name, _IS_NUMBER) for name in row if name in numeric and row[name]]


def _parquet_cells(column: "pa.Array") -> list[str]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):  # as bytes: nobody promises that they are UTF-8
        texts = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return ["" if text is None else text.decode("utf-8", "surrogateescape") for text in texts]
    return ["" if value is None or value != value else str(value).lower() for value in column.to_pylist()]


READERS: Final[Mapping[str, Callable[[BufferedReader], _Table]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
