"""The list of rows that a person may decide about: written with a column `decision`, and read again.

As CSV, or as JSON, an object a line. What spreadsheets leave behind is no fault: blanks around a cell, empty
rows, other columns, another separator. A faulty list is refused whole, with every fault by row and column;
what has another row or file by now is refused row by row.
"""

import csv
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from tasks.comparison.named_differences import Comparison, compare_files
from tasks.core.decisions import MOST_CHARS, Decision, objection, possible
from tasks.core.errors import Problem, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.manifest import path_cell, without_blanks
from tasks.core.models import Status
from tasks.core.report_columns import ReportRow
from tasks.core.words import counted
from tasks.ledger.decided import Decisions
from tasks.run.resolution import Chosen, standing

LIST_COLUMNS: Final = (
    "decision",
    "reason_text",
    "possible",
    "study_no",
    "file_no",
    "status",
    "reason",
    "detail",
    "path",
    "same_uid_path",
    "differs",
    "sop_instance_uid",
    "size_bytes",
    "sha256",
    "as_of",
)
_NEEDED: Final = ("decision", "path", "as_of")
_WORDS: Final = {str(each): each for each in Decision if each} | {"none": Decision.WITHDRAW}
_AT_ONCE: Final = 1000
_MOST_FAULTS: Final = 20  # that are listed
_SEPARATORS: Final = (",", ";", "\t")
_REFUSED_SHOWN: Final = 20


def listed(
    rows: Iterable[ReportRow], decisions: Decisions, *, compare: bool = True, with_values: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows as they are listed, by LIST_COLUMNS; text from outside is escaped."""
    waiting = iter(rows)
    while page := list(islice(waiting, _AT_ONCE)):
        as_of = decisions.as_of([row.file_id for row in page])
        for row in page:
            found = comparison_of(row, with_values=with_values) if compare else None
            yield _listed(
                row, as_of.get(row.file_id, ""), found.words(with_values=with_values) if found else ""
            )


def comparison_of(row: ReportRow, *, with_values: bool = False) -> Comparison | None:
    """Of a conflict: what differs between the file, and the one that has its UID, as both are now."""
    if row.status != Status.CONFLICT or not row.same_uid_path:
        return None
    return compare_files(unescape(row.path), unescape(row.same_uid_path), with_values=with_values)


def _listed(row: ReportRow, as_of: str, differs: str) -> dict[str, Any]:
    said = {name: getattr(row, name) for name in LIST_COLUMNS if name in ReportRow._fields}
    return (
        dict.fromkeys(LIST_COLUMNS, "")
        | said
        | {
            "possible": " ".join(possible(row.status, row.reason)),
            "path": path_cell(unescape(row.path)),
            "same_uid_path": path_cell(unescape(row.same_uid_path)),
            "differs": differs,
            "as_of": as_of,
        }
    )


def csv_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Lines of CSV, the header first."""
    yield _csv_line(LIST_COLUMNS)
    for row in rows:
        yield _csv_line([row[name] for name in LIST_COLUMNS])


def _csv_line(cells: Sequence[Any]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def json_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """An object a line."""
    return (json.dumps(row) for row in rows)


@dataclass(slots=True)
class DecisionList:
    """Decisions about rows as they were listed: each is made, or refused with a reason."""

    database: sqlite3.Connection  # flat memory, whatever the number of rows
    decisions: Decisions
    refused: Counter[str] = field(default_factory=Counter)  # by why
    first: list[str] = field(default_factory=list)  # that are refused, by their rows
    unchanged: int = 0

    def __post_init__(self) -> None:
        """The table of a database that has none."""
        self.database.execute(
            "CREATE TABLE listed (number INTEGER PRIMARY KEY, path TEXT, decision TEXT, reason_text TEXT, "
            "as_of TEXT, seen INTEGER DEFAULT 0)"
        )
        self.database.execute("CREATE UNIQUE INDEX listed_by_path ON listed (path, as_of)")

    def add(self, number: int, path: str, as_of: str, decision: Decision, reason_text: str) -> bool:
        """One more, about an escaped path. False when there is one about that row already."""
        values = number, path, str(decision), reason_text, as_of
        insert = (
            "INSERT OR IGNORE INTO listed (number, path, decision, reason_text, as_of) VALUES (?, ?, ?, ?, ?)"
        )
        return self.database.execute(insert, values).rowcount == 1

    def choose(self, rows: Iterator[ReportRow]) -> Iterator[Chosen]:
        """Of the last run's rows those that the list decides about."""
        while page := list(islice(rows, _AT_ONCE)):
            as_of = self.decisions.as_of([row.file_id for row in page])
            for row in page:
                yield from self._chosen(row, as_of.get(row.file_id, ""))
        rest = self.database.execute("SELECT number FROM listed WHERE NOT seen ORDER BY number")
        for (number,) in rest:
            self._refuse(number, "is not in the last run's report any more, or is fine by now")

    def _chosen(self, row: ReportRow, as_of: str) -> Iterator[Chosen]:
        query = "SELECT number, decision, reason_text, as_of FROM listed WHERE path = ? AND NOT seen"
        for number, decision, reason_text, its in self.database.execute(query, (row.path,)).fetchall():
            self.database.execute("UPDATE listed SET seen = 1 WHERE number = ?", (number,))
            if its != as_of:
                self._refuse(number, "has another row, or is another file, than when it was listed")
            elif row.decision == decision:
                self.unchanged += 1
            elif why := objection(standing(row), Decision(decision)):
                self._refuse(number, why)
            else:
                yield Chosen(row, Decision(decision), reason_text)

    def _refuse(self, number: int, why: str) -> None:
        self.refused[why] += 1
        if len(self.first) < _REFUSED_SHOWN:
            self.first.append(f"row {number}: it {why}")


def read_list(at: Path, reason_text: str, database: sqlite3.Connection, decisions: Decisions) -> DecisionList:
    """A list as it came back. UsageError with every fault by row and column."""
    found = DecisionList(database, decisions)
    reader = _Reader(found, without_blanks(reason_text))
    try:
        with at.open(encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(_records(file), 1):
                reader.add(number, cells)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UsageError(f"--decisions can't be read: {why}. Nothing was decided.") from None
    except (ValueError, csv.Error, RecursionError):
        raise UsageError(
            "--decisions is neither CSV nor JSON lines in UTF-8. Nothing was decided. A spreadsheet writes "
            "it as 'CSV UTF-8'."
        ) from None
    reader.raise_faults()
    return found


def _records(file: TextIO) -> Iterator[dict[str, str]]:
    """Row by row, blank cells trimmed; by what the file's first character says."""
    first = file.readline()
    lines = _chain(first, file)
    if first.lstrip().startswith("{"):
        for line in lines:
            if line.strip():
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError
                yield {str(name): _cell(value) for name, value in found.items()}
        return
    csv.field_size_limit(1 << 30)
    separator = max(_SEPARATORS, key=first.count)
    rows = csv.reader(lines, delimiter=separator)
    names = [without_blanks(name) for name in next(rows, [])]
    if missing := [name for name in _NEEDED if name not in names]:
        raise UsageError(
            f"--decisions lacks the column {', '.join(missing)}: export the list again. Nothing was decided."
        )
    for row in rows:
        yield dict(zip(names, map(without_blanks, row), strict=False))


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _cell(value: Any) -> str:
    return without_blanks(value if isinstance(value, str) else "" if value is None else str(value))


class _Reader:
    """Checks a list row by row, and keeps what is wrong with it."""

    def __init__(self, found: DecisionList, reason_text: str) -> None:
        self._found = found
        self._reason_text = reason_text
        self._problems: list[Problem] = []
        self._faults = 0

    def add(self, number: int, cells: dict[str, str]) -> None:
        """A row without a decision says nothing."""
        word = cells.get("decision", "").lower()
        if not word:
            return
        faults = list(self._row_faults(cells, word))
        for column, what in faults:
            self._fault(number, column, what)
        if faults:
            return
        why = cells.get("reason_text") or self._reason_text
        path = escape(unescape(cells["path"]))
        if not self._found.add(number, path, cells["as_of"], _WORDS[word], why):
            self._fault(number, "path", "is in the list already")

    def _row_faults(self, cells: dict[str, str], word: str) -> Iterator[tuple[str, str]]:
        why = cells.get("reason_text") or self._reason_text
        if word not in _WORDS:
            yield "decision", f"is none of {', '.join(_WORDS)}"
        if not why:
            yield "reason_text", "is empty, and there is no --reason-text"
        if len(why) > MOST_CHARS:
            yield "reason_text", f"has more than {MOST_CHARS:,} characters"
        for name in ("path", "as_of"):
            if not cells.get(name):
                yield name, "is empty"

    def _fault(self, number: int, column: str, what: str) -> None:
        self._faults += 1
        if len(self._problems) < _MOST_FAULTS:
            self._problems.append(Problem(number, column, what))

    def raise_faults(self) -> None:
        """UsageError, when there are any."""
        if self._faults:
            lines = [f"  {problem}" for problem in self._problems]
            if more := self._faults - len(lines):
                lines.append(f"  ... and {more:,} more")
            what = (
                f"The list of decisions was refused: {counted(self._faults, 'fault')}. Nothing was decided."
            )
            raise UsageError("\n".join([what, *lines]))
