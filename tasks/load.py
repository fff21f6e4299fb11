"""Load: a manifest read into study entries, and one written for an archive that has none.

The rules of a manifest are in `core/manifest.py`; here its three formats become rows of text and back. Each
is read row by row and every row is bounded, so that a cell of a gigabyte is a fault and not a full memory.
"""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH100, PTH105, PTH110, PTH112, PTH118, PTH119

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import nsmallest
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from tasks.core.errors import ManifestError, Problem, UsageError
from tasks.core.escape import escape
from tasks.core.manifest import Ground, Row, check, is_inside, shown
from tasks.core.models import StudyEntry

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROW_BYTES: Final = 1 << 20
MAX_COLUMN_CHUNK_BYTES: Final = 1 << 28  # of Parquet, uncompressed: what one read may have to hold
_PARQUET_BATCH_ROWS: Final = 512
_FILES_PROBED: Final = 8  # in a directory, until one tells its Study Instance UID
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")

T = TypeVar("T")
_Table = tuple[Sequence[str], Iterable[Row | Problem]]  # columns, and rows numbered from 1


def load_manifest(path: Path, root: Path | None = None) -> list[StudyEntry]:
    """The study entries of a CSV, JSON Lines or Parquet file, told apart by its suffix.

    Rows are counted without blank lines. With a root, relative study directories are taken from it and none
    may leave it. Raises UsageError when it can't be opened, ManifestError with every fault of its content.
    """
    read = _for_suffix(_READERS, path)
    if root is not None and not os.path.isdir(root):
        raise UsageError("--root is not a directory. Give the directory that holds all studies.")
    base_root = None if root is None else os.path.abspath(root)
    ground = Ground(os.path.abspath(path.parent), base_root, os.path.realpath)
    try:
        with path.open("rb") as file:
            columns, rows = read(file)
            return check(columns, rows, ground)
    except OSError as error:
        raise UsageError(
            f"The manifest can't be read: {_cause(error)}. Check its name and permissions."
        ) from None


def write_manifest(roots: Sequence[Path], out: Path) -> int:
    """Writes one row per study directory found under the roots, in path order, and returns how many.

    What is a study directory, told from one DICOM header per directory:
    - a directory that holds files is one: a study, or a series of its own;
    - but where directories of one Study Instance UID, and none of another, lie in a directory, that one is;
    - and files beside directories of several studies make their directory one too. It comes after those, so
      that each of them keeps its own row (a run names that an overlap).
    So each regular file below the roots belongs to exactly one row; only this manifest itself is left out.
    A directory counts as one that holds files, too, when it can't be listed or has a link that is broken or
    leads out of the roots: the run's report says so. Links are not followed. Memory: names along one path.
    """
    write = _for_suffix(_WRITERS, out)
    for position, root in enumerate(roots, 1):
        if not os.path.isdir(root):
            raise UsageError(f"ROOT {position} is not a directory. Nothing was written.")
    try:
        with _replacing(out) as file:
            own_files = frozenset(os.path.realpath(path) for path in (out, file.name))
            return write(file, _Finder(roots, own_files).study_dirs())
    except OSError as error:
        raise UsageError(f"The manifest can't be written: {_cause(error)}.") from None


def _for_suffix(by_suffix: Mapping[str, T], path: Path) -> T:
    found = by_suffix.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"A manifest's name ends in one of {', '.join(by_suffix)}. Rename it.")
    return found


def _cause(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "input/output error"


# --- reading ---


class _RowTooLongError(Exception):
    pass


class _Lines:
    """Lines of a text manifest as an iterator that stops one row from taking all memory.

    Bytes that are not UTF-8 become surrogates, which the rules refuse by row and column.
    """

    def __init__(self, file: BufferedReader) -> None:
        start = file.peek(len(_UTF8_BOM))
        if start.startswith(_UTF16_BOMS):
            raise ManifestError([Problem(0, "", "it is UTF-16; write the file as UTF-8")])
        if start.startswith(_UTF8_BOM):
            file.read(len(_UTF8_BOM))
        self._file = file
        self._bytes_left = MAX_ROW_BYTES

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._bytes_left + 1)
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise _RowTooLongError
        if not line:
            raise StopIteration
        return line.decode("utf-8", "surrogateescape")

    def start_row(self) -> None:
        self._bytes_left = MAX_ROW_BYTES


def _read_csv(file: BufferedReader) -> _Table:
    records = _csv_records(file)
    header = next(records, [])
    if isinstance(header, Problem):
        raise ManifestError([header])
    columns = [name.strip() for name in header]
    return columns, _csv_rows(columns, records)


def _csv_records(file: BufferedReader) -> Iterator[list[str] | Problem]:
    """Every record that is no blank line, the header as record 0. The csv module bounds a cell, too."""
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    number = 0
    while True:
        lines.start_row()
        try:
            record: list[str] | Problem = next(reader)
        except StopIteration:
            return
        except _RowTooLongError:
            yield _too_long(number)
            return
        except csv.Error:
            record = Problem(
                number, "", "it is not CSV (RFC 4180): look for a stray quote or an overlong cell"
            )
        if record:
            yield record
            number += 1


def _csv_rows(columns: Sequence[str], records: Iterator[list[str] | Problem]) -> Iterator[Row | Problem]:
    for number, record in enumerate(records, 1):
        if isinstance(record, Problem):
            yield record
        elif len(record) != len(columns):
            yield Problem(number, "", f"the header has {len(columns)} cells, this row {len(record)}")
        else:
            yield number, dict(zip(columns, record, strict=True))


def _read_json_lines(file: BufferedReader) -> _Table:
    return ["study_dir"], _json_rows(file)


def _json_rows(file: BufferedReader) -> Iterator[Row | Problem]:
    lines = _Lines(file)
    number = 0
    try:
        for line in lines:
            lines.start_row()
            if line.strip():
                number += 1
                yield from _json_row(number, line)
    except _RowTooLongError:
        yield _too_long(number + 1)


def _json_row(number: int, line: str) -> Iterator[Row | Problem]:
    try:  # numbers keep the text they have; an object becomes its pairs, to see a name that comes twice
        pairs = json.loads(line, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, tuple):
        yield Problem(number, "", "it is not a JSON object on one line")
        return
    cells = {name: _json_cell(value) for name, value in pairs}
    faults = [
        Problem(number, shown(name, position), "holds a list or an object")
        for position, (name, cell) in enumerate(cells.items(), 1)
        if cell is None
    ]
    if len(cells) < len(pairs):
        faults.append(Problem(number, "", "it has a name twice"))
    if faults:
        yield from faults
    else:
        yield number, {name: cell or "" for name, cell in cells.items()}


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
    return schema.names, faults or _parquet_rows(parquet)


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
            yield Problem(0, shown(column.name, position), "the column holds neither text nor numbers")


def _is_plain(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return _is_text(kind) or any(
        is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    )


def _is_text(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _parquet_rows(parquet: "pa.parquet.ParquetFile") -> Iterator[Row | Problem]:
    import pyarrow as pa

    number = 0
    try:
        for batch in parquet.iter_batches(_PARQUET_BATCH_ROWS, use_threads=False):
            names = batch.schema.names
            for cells in zip(*map(_parquet_cells, batch.columns), strict=True):
                number += 1
                yield number, dict(zip(names, cells, strict=True))
    except (pa.ArrowException, OSError):
        yield Problem(number + 1, "", "it can't be read as Parquet; reading ended here")


def _parquet_cells(column: "pa.Array") -> list[str]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):  # as bytes: nobody promises that they are UTF-8
        texts = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return ["" if text is None else text.decode("utf-8", "surrogateescape") for text in texts]
    return ["" if value is None or value != value else str(value).lower() for value in column.to_pylist()]


_READERS: Final[Mapping[str, Callable[[BufferedReader], _Table]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


# --- finding study directories ---


@dataclass(frozen=True, slots=True)
class _Found:
    """What may become a row: a directory, and the only Study Instance UID known of in it, or nothing."""

    path: str
    uid: str


@dataclass(slots=True)
class _Branch:
    """A directory on the way down, and what was found in it so far."""

    path: str
    holds_files: bool
    uid: str
    subdirs: list[bytes]  # names still to come, last first
    waiting: list[_Found] = field(default_factory=list)  # rows, unless all proves to be one study
    is_several: bool = False


class _Finder:
    """Finds study directories as `write_manifest` says."""

    def __init__(self, roots: Iterable[Path], own_files: frozenset[str]) -> None:
        self._roots = _outermost(roots)
        self._real_roots = [os.path.realpath(root) for root in self._roots]
        self._own_files = own_files
        self._own_names = {os.path.basename(path) for path in own_files}

    def study_dirs(self) -> Iterator[str]:
        for root in self._roots:
            yield from self._below(root)

    def _below(self, root: str) -> Iterator[str]:
        stack = [self._branch(root)]
        while stack:
            if stack[-1].subdirs:
                stack.append(self._branch(os.path.join(stack[-1].path, os.fsdecode(stack[-1].subdirs.pop()))))
            else:
                yield from _settle(stack.pop(), stack)

    def _branch(self, path: str) -> _Branch:
        files: list[bytes] = []
        subdirs: list[bytes] = []
        holds_more = False
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        subdirs.append(os.fsencode(entry.name))
                    elif entry.is_file(follow_symlinks=False) and not self._is_own(entry):
                        files.append(os.fsencode(entry.name))
                    elif entry.is_symlink() and self._leads_away(entry.path):
                        holds_more = True
        except OSError:
            holds_more = True
        subdirs.sort(key=_in_path_order, reverse=True)
        first = [os.path.join(path, os.fsdecode(name)) for name in nsmallest(_FILES_PROBED, files)]
        uid = next(filter(None, map(_study_instance_uid, first)), "")
        return _Branch(path, bool(files) or holds_more, uid, subdirs)

    def _is_own(self, entry: "os.DirEntry[str]") -> bool:
        return entry.name in self._own_names and os.path.realpath(entry.path) in self._own_files

    def _leads_away(self, link: str) -> bool:
        real = os.path.realpath(link)
        return not os.path.exists(real) or not any(is_inside(real, root) for root in self._real_roots)


def _settle(branch: _Branch, above: list[_Branch]) -> Iterator[str]:
    """Hands what a finished directory amounts to to the one above, and yields what is a row for sure."""
    found = _as_one(branch)
    if branch.is_several:
        if branch.holds_files:
            yield branch.path
    elif found is None:
        if branch.waiting:
            yield from _let_go([*above, branch])
    elif not above:
        yield found.path
    else:
        parent = above[-1]
        parent.waiting.append(found)
        if parent.is_several or (found.uid and parent.uid and found.uid != parent.uid):
            yield from _let_go(above)
        parent.uid = parent.uid or found.uid


def _as_one(branch: _Branch) -> _Found | None:
    if branch.holds_files or sum(1 for found in branch.waiting if found.uid) > 1:
        return _Found(branch.path, branch.uid)
    return branch.waiting[0] if len(branch.waiting) == 1 else None


def _let_go(branches: Iterable[_Branch]) -> Iterator[str]:
    """Where several studies lie in one directory, so they do in all above: nothing waits there any more."""
    for branch in branches:
        yield from (found.path for found in branch.waiting)
        branch.waiting.clear()
        branch.is_several = True


def _outermost(roots: Iterable[Path]) -> list[str]:
    """Absolute paths in path order, without those that lie in another."""
    paths = {os.path.realpath(root): os.path.abspath(root) for root in roots}
    kept: list[str] = []
    for real in sorted(paths, key=lambda real: _in_path_order(os.fsencode(real))):
        if not kept or not is_inside(real, kept[-1]):
            kept.append(real)
    return sorted((paths[real] for real in kept), key=lambda path: _in_path_order(os.fsencode(path)))


def _in_path_order(directory: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/"


def _study_instance_uid(path: str) -> str:
    """Of a DICOM file; empty when it is none, or can't be read: the run will say why."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings(action="ignore"):
            data_set = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
            return str(data_set.get("StudyInstanceUID") or "")
    except Exception:  # noqa: BLE001 - pydicom raises what a broken file makes it stumble on
        return ""


# --- writing ---


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that takes the place of `out` at the end, whole and on the disk, or not at all."""
    temporary = out.with_name(f".{out.name}.{token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", opener=_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(out.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_csv(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    text = TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study_dir"])
    rows = 0
    for study_dir in study_dirs:
        writer.writerow([escape(study_dir)])
        rows += 1
    text.detach()
    return rows


def _write_json_lines(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    rows = 0
    for study_dir in study_dirs:
        file.write(json.dumps({"study_dir": escape(study_dir)}, ensure_ascii=False).encode() + b"\n")
        rows += 1
    return rows


def _write_parquet(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    schema = pa.schema([("study_dir", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        while batch := [escape(study_dir) for study_dir in islice(study_dirs, _PARQUET_BATCH_ROWS)]:
            writer.write_batch(pa.record_batch([batch], schema=schema))
            rows += len(batch)
    return rows


_WRITERS: Final[Mapping[str, Callable[[BinaryIO, Iterator[str]], int]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".parquet": _write_parquet,
}
