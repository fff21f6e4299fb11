"""What a manifest must be: rows of text go in; study entries, or every fault by row and column, come out.

A cell is text; an empty one says nothing. Numbers arrive as they were written. What a fault says never quotes
a cell, nor a column's name that is not one of `COLUMNS`: a file without a header has data there.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, TypeVar

from tasks.core.errors import ManifestError, Problem
from tasks.core.escape import escape, escaped_bytes, unescape
from tasks.core.models import StudyEntry
from tasks.core.store_urls import is_store_url, joined, split_url
from tasks.core.study_entries import StudyEntries

COLUMNS: Final = (
    "study_dir",
    "study_instance_uid",
    "expected_instances",
    "expected_bytes",
    "priority",
    "label",
)
MAX_CELL_CHARS: Final = 32_767
MAX_NAME_CHARS: Final = 200  # of a label, and of a column's name

_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+")  # DICOM PS3.5 9.1, and leading zeros, which files have, too
_MAX_UID_CHARS: Final = 64
_WHOLE: Final = re.compile(r"(-?[0-9]{1,15})(?:\.0)?")  # pandas writes 12.0 where a column has gaps
_MAX_DIGITS: Final = 9
_MAX_DIGITS_OF_BYTES: Final = 15  # a float has them exactly, too
# Around a cell: white space, and what no screen shows. Spreadsheets, web pages and databases leave it behind.
_BLANKS: Final = (
    " \t\n\r\v\f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_OTHER_STORE: Final = re.compile(r"(?!(?:s3|sftp):)[A-Za-z][A-Za-z0-9+.-]*://")
# `D:\archive`, `\\nas\pacs`; an escaped byte is no share's name.
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\/]+\\(?!\\|x[0-9a-fA-F]{2})")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

Row = tuple[int, Mapping[str, str]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PathRules:
    """What a relative study directory starts from, `root` or else `base`, and that it must stay in `root`.

    `base` is the manifest's folder; both are absolute. `real` resolves links; here it is text alone.
    """

    base: str
    root: str | None = None
    real: Callable[[str], str] = posixpath.normpath


def check(columns: Sequence[str], rows: Iterable[Row | Problem], rules: PathRules) -> StudyEntries:
    """The entries of a manifest without a fault. `rows` may hold the faults that its reader found.

    Rows count from 1 and a row's number becomes its `study_no`. A path's `..` is resolved as text, as a shell
    does. Raises ManifestError with every fault otherwise.
    """
    checker = _Checker(columns, rules)
    checked = map(checker.entry, rows)
    entries = StudyEntries(entry for entry in checked if entry is not None)
    for entry, first in entries.of_the_same_directory():
        if entry.study_dir:  # none where that is a fault itself
            checker.fault(entry.study_no, "study_dir", f"is the same directory as in row {first.study_no}")
    if not entries and not checker.problems:
        checker.fault(0, "", "it has no rows")
    if checker.problems:
        raise ManifestError(sorted(checker.problems, key=attrgetter("row")))
    return entries


def without_blanks(text: str) -> str:
    """A cell, or a column's name, without what a spreadsheet leaves around it."""
    return text.strip(_BLANKS)


def row_cells(names: Iterable[str], record: Iterable[str]) -> dict[str, str]:
    """A row's cells by their names; those of `COLUMNS` without blanks, the others as they came."""
    return {
        name: without_blanks(cell) if name in COLUMNS else cell
        for name, cell in zip(names, record, strict=False)
    }


def path_cell(path: str) -> str:
    """A path as a manifest has it, so that the very same is read back: blanks around it are escaped."""
    cell = escape(path)
    plain = without_blanks(cell)
    if len(plain) == len(cell):
        return cell
    before, _, after = cell.partition(plain) if plain else (cell, "", "")
    return f"{escaped_bytes(before)}{plain}{escaped_bytes(after)}"


def is_uid(text: str) -> bool:
    """Whether a manifest may have it as a UID: at most 64 characters, numbers joined by dots."""
    return len(text) <= _MAX_UID_CHARS and _UID.fullmatch(text) is not None


def column_label(column: str, position: int) -> str:
    """How a fault names a column; `position` counts from 1."""
    return column if column in COLUMNS else f"column {position}"


class _FaultyCellError(Exception):
    """What is wrong with a cell, as a predicate: 'is empty'."""


class _Checker:
    """Turns rows into entries one by one, and keeps what is wrong with them in `problems`."""

    def __init__(self, columns: Sequence[str], rules: PathRules) -> None:
        self.problems: list[Problem] = []
        self._names = frozenset(columns)
        self._rules = rules
        self._home = _normal(rules.root or rules.base)
        self._real_root = None if rules.root is None else rules.real(self._home)
        self._check_header(columns)

    def fault(self, row: int, column: str, what: str) -> None:
        self.problems.append(Problem(row, column, what))

    def entry(self, row: Row | Problem) -> StudyEntry | None:
        if isinstance(row, Problem):
            self.problems.append(row)
            return None
        number, cells = row
        self._check_names(number, cells)
        return StudyEntry(
            study_no=number,
            study_dir=self._study_dir(number, cells),
            study_instance_uid=self._read(row, "study_instance_uid", _uid, ""),
            expected_instances=self._read(row, "expected_instances", _count, None),
            expected_bytes=self._read(row, "expected_bytes", _bytes, None),
            priority=self._read(row, "priority", _whole, None) or 0,
            label=self._read(row, "label", _label, ""),
            extra=tuple((name, self._read(row, name, str, "")) for name in cells if name not in COLUMNS),
        )

    def _read(self, row: Row, column: str, read: Callable[[str], T], otherwise: T) -> T:
        number, cells = row
        try:
            return read(_text(cells.get(column, "")))
        except _FaultyCellError as fault:
            position = list(cells).index(column) + 1 if column in cells else 0
            self.fault(number, column_label(column, position), str(fault))
            return otherwise

    def _check_header(self, columns: Sequence[str]) -> None:
        if not columns:
            self.fault(0, "", "it is empty")
            return
        if "study_dir" not in self._names:
            self.fault(0, "study_dir", "there is no such column" + _separator_hint(columns))
        for position, name in enumerate(columns, 1):
            self._check_name(0, name, position)
            if name and name in columns[: position - 1]:
                self.fault(0, column_label(name, position), "the header has this column twice")

    def _check_names(self, row: int, cells: Mapping[str, str]) -> None:
        """JSON Lines has no header: there, a name is first seen in its row."""
        for position, name in enumerate(cells, 1):
            if name not in self._names:
                self._check_name(row, name, position)

    def _check_name(self, row: int, name: str, position: int) -> None:
        if not name:
            self.fault(row, f"column {position}", "the column has no name")
        elif len(name) > MAX_NAME_CHARS or not name.isprintable():
            self.fault(row, f"column {position}", "the column's name is too long or not plain UTF-8 text")

    def _study_dir(self, number: int, cells: Mapping[str, str]) -> str:
        if "study_dir" not in self._names:
            return ""  # said once, of the header
        if _WINDOWS_PATH.match(cells.get("study_dir", "")):
            self.fault(
                number, "study_dir", "is a path of Windows; write it as this machine mounts it, with /"
            )
            return ""
        return self._read((number, cells), "study_dir", self._directory, "")

    def _directory(self, text: str) -> str:
        if not text.strip():
            raise _FaultyCellError("is empty")
        if "\0" in text:
            raise _FaultyCellError("holds a NUL character")
        if _OTHER_STORE.match(text):
            raise _FaultyCellError(
                "is an address of no store that is read: s3:// and sftp:// are; mount others"
            )
        if is_store_url(text) or (is_store_url(self._home) and not text.startswith("/")):
            return self._in_store(joined(self._home, text))
        path = _normal(posixpath.join(self._home, text))
        self._check_inside_root(path)
        return path

    def _in_store(self, url: str) -> str:
        if split_url(url).has_password:
            raise _FaultyCellError("holds a password: leave it to the environment, or to ~/.ssh")
        if not split_url(url).place:
            raise _FaultyCellError("names no bucket and no host")
        if self._real_root is not None:
            raise _FaultyCellError("lies outside --root")
        return url

    def _check_inside_root(self, path: str) -> None:
        if self._real_root is None:
            return
        if not is_inside(path, self._home):
            raise _FaultyCellError("lies outside --root")
        if not is_inside(self._rules.real(path), self._real_root):
            raise _FaultyCellError("leads out of --root through a link")


def _text(cell: str) -> str:
    if len(cell) > MAX_CELL_CHARS:
        raise _FaultyCellError(f"is longer than {MAX_CELL_CHARS} characters")
    if not cell.isascii() and _SURROGATE.search(cell):
        raise _FaultyCellError("is not UTF-8 text")
    return unescape(cell)


def _uid(text: str) -> str:
    if text and not is_uid(text):
        raise _FaultyCellError("is not a UID (DICOM PS3.5 9.1)")
    return text


def _whole(text: str, max_digits: int = _MAX_DIGITS) -> int | None:
    if not text.strip():
        return None
    match = _WHOLE.fullmatch(text.strip())
    if match is None or len(match.group(1).lstrip("-")) > max_digits:
        raise _FaultyCellError(f"is not a whole number of at most {max_digits} digits")
    return int(match.group(1))


def _bytes(text: str) -> int | None:
    return _count(text, _MAX_DIGITS_OF_BYTES)


def _count(text: str, max_digits: int = _MAX_DIGITS) -> int | None:
    count = _whole(text, max_digits)
    if count is not None and count < 0:
        raise _FaultyCellError("is negative")
    return count


def _label(text: str) -> str:
    if len(text) > MAX_NAME_CHARS:
        raise _FaultyCellError(f"is longer than {MAX_NAME_CHARS} characters")
    if not text.isprintable():
        raise _FaultyCellError("holds control or invisible characters")
    return text


def _separator_hint(columns: Sequence[str]) -> str:
    for name, character in (("semicolons", ";"), ("tabs", "\t")):
        if any(character in column for column in columns):
            return f"; the header looks separated by {name}"
    return ""


def _normal(path: str) -> str:
    if is_store_url(path):
        return path
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal  # POSIX lets exactly two slashes stand


def is_inside(path: str, directory: str) -> bool:
    """By their text; both are absolute and normal."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
