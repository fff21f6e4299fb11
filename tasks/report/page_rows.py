"""What the page shows of a report's rows and studies, gathered while they stream by.

Memory stays flat, whatever the archive: so many intervals of time, sizes by their order of magnitude, studies
in so many groups, the first rows of each kind of trouble; and the studies' table packed, about 20 bytes each.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tasks.core.completeness import Completeness, StudyResult
from tasks.core.escape import escape
from tasks.core.models import EXIT_ONE, Reason, Status
from tasks.report.page_tables import Cell, Column, PackedRows

Columns: TypeAlias = Mapping[str, Sequence[Any]]

# What `PageRows.add` takes; times in Unix nanoseconds.
ROW_COLUMNS: Final = (
    "study_no",
    "file_no",
    "status",
    "reason",
    "detail",
    "path",
    "same_uid_path",
    "size_bytes",
)
_ACCEPTED: Final = "accepted"  # so begins `detail` of a row that a person accepted
OUTCOMES: Final = {
    Completeness.COMPLETE.value: "complete",
    Completeness.INCOMPLETE.value: "not complete",
    Completeness.NEITHER.value: "nothing to store",
    "with_exceptions": "with exceptions",
}
_WORTH_A_LOOK: Final = (Reason.ARCHIVE, Reason.OTHER)
_INTERVALS: Final = 160
_FEWEST_INTERVALS: Final = 8
_SHORTEST_S: Final = 0.25
_MOST_OF_A_KIND: Final = 50
_EXCERPT_OF_A_KIND: Final = 3
_MOST_FILES: Final = 1000
_MOST_DETAILS: Final = 20
_MOST_GROUPS: Final = 120
_SMALLEST_BITS: Final = 10  # sizes up to 1 KiB are one class, each next one reaches four times as far
_FILES: Final = (
    Column("Study", "number", "xs"),
    Column("File", "number", "xs"),
    Column("Status", "word", "m"),
    Column("Reason", "word", "m", is_narrow=False),
    Column("Detail", "text", "wide", is_narrow=False),
    Column("Path", "text", "l"),
    Column("Same instance as", "text", "none"),
)
_STUDIES: Final = (
    Column("No.", "number", "xs"),
    Column("Directory", "text", "l"),
    Column("Label", "text", "s", is_narrow=False),
    Column("Outcome", "word", "m", words=OUTCOMES),
    Column("Files", "number", "xs", is_narrow=False),
    Column("Stored", "number", "xs", is_narrow=False),
    Column("Failed", "number", "xs"),
    Column("Expected", "number", "none"),
    Column("Size", "bytes", "s", is_narrow=False),
    Column("Modalities", "text", "none"),
    Column("Why", "text", "wide", is_narrow=False),
    Column("Overlaps", "number", "none"),
)
_VERIFIED: Final = (
    Column("Registered", "number", "none"),
    Column("Confirmed", "number", "s", is_narrow=False),
    Column("May be deleted", "word", "s", is_narrow=False),
)


@dataclass(slots=True)
class Kind:
    """The rows of one status and reason."""

    files: int = 0
    studies: int = 0
    last_study: int = 0
    shown: int = 0
    details: Counter[str] = field(default_factory=Counter)  # the first few that were seen

    def add(self, study_no: int, detail: str) -> None:
        """The next row; they come study by study."""
        self.files += 1
        if self.last_study != study_no:
            self.studies, self.last_study = self.studies + 1, study_no
        if detail and (detail in self.details or len(self.details) < _MOST_DETAILS):
            self.details[detail] += 1


class Intervals:
    """What happened when: the time of a run, cut into equal intervals."""

    def __init__(self, started_ns: int, finished_ns: int) -> None:
        self.started_ns = started_ns
        self.wall_ns = max(finished_ns - started_ns, 1)
        of_it = math.ceil(self.wall_ns / 1e9 / _SHORTEST_S)
        self.count = max(_FEWEST_INTERVALS, min(_INTERVALS, of_it))
        self.bytes = [0.0] * self.count
        self.files = [0] * self.count
        self.failures = [0] * self.count

    @property
    def each_s(self) -> float:
        """How long one is."""
        return self.wall_ns / 1e9 / self.count

    def add_sent(self, started_ns: int | None, finished_ns: int | None, size_bytes: int) -> None:
        """A file's bytes, spread over the time that it took."""
        if finished_ns is None:
            return
        last = self._at(finished_ns)
        first = last if started_ns is None else min(self._at(started_ns), last)
        self.files[last] += 1
        if first == last:
            self.bytes[last] += size_bytes
            return
        share = size_bytes / (last - first + 1)
        for number in range(first, last + 1):
            self.bytes[number] += share

    def add_failure(self, finished_ns: int | None) -> None:
        """A row whose status says exit 1; of what was not tried there is no time."""
        if finished_ns is not None:
            self.failures[self._at(finished_ns)] += 1

    def _at(self, ns: int) -> int:
        """A clock that was set back puts nothing outside."""
        return min(max((ns - self.started_ns) * self.count // self.wall_ns, 0), self.count - 1)


class StudyGroups:
    """Outcomes of studies in the manifest's order: some groups of equal size, however many studies."""

    def __init__(self) -> None:
        self.each = 1  # studies of a group
        self.groups: list[Counter[str]] = []
        self.total: Counter[str] = Counter()

    def add(self, outcome: str) -> None:
        """The next study."""
        if self.total.total() % self.each == 0:
            self.groups.append(Counter())
        self.groups[-1][outcome] += 1
        self.total[outcome] += 1
        if len(self.groups) > _MOST_GROUPS:
            pairs = zip(self.groups[::2], [*self.groups[1::2], Counter()], strict=False)
            self.groups = [one + other for one, other in pairs]
            self.each *= 2


class PageRows:
    """What the page shows, as far as rows and studies have come."""

    def __init__(self, started_ns: int, finished_ns: int, *, is_verified: bool = False) -> None:
        self.intervals = Intervals(started_ns, finished_ns)
        self.outcomes = StudyGroups()
        self.kinds: dict[tuple[str, str], Kind] = {}
        self.accepted = Kind()
        self.files = PackedRows(_FILES, _MOST_FILES)
        self.studies = PackedRows([*_STUDIES, *(_VERIFIED if is_verified else ())])
        self.other_reasons = 0  # studies that are not complete though no row of them says why
        self.worth_a_look: Counter[str] = Counter()  # what is no DICOM, by reason
        self._bits: Counter[int] = Counter()

    def add(self, columns: Columns) -> None:
        """Some rows: ROW_COLUMNS, and `started_ns` and `finished_ns`."""
        self._bits.update(size.bit_length() for size in columns["size_bytes"] if size is not None)
        times = zip(
            columns["status"],
            columns["started_ns"],
            columns["finished_ns"],
            columns["size_bytes"],
            strict=True,
        )
        for at, (status, started_ns, finished_ns, size) in enumerate(times):
            if status == Status.UPLOADED:
                self.intervals.add_sent(started_ns, finished_ns, size or 0)
            elif status in EXIT_ONE:
                self._add_trouble([columns[name][at] for name in ROW_COLUMNS], finished_ns)
            elif status == Status.NOT_DICOM and columns["reason"][at] in _WORTH_A_LOOK:
                self.worth_a_look[columns["reason"][at]] += 1

    def add_study(self, study: StudyResult) -> None:
        """The next study."""
        self._add_study(
            (
                study.study_no,
                escape(study.study_dir),
                escape(study.label),
                str(study.complete),
                study.files,
                study.stored,
                study.failed,
                study.expected,
                study.bytes,
                study.modalities,
                study.why,
                study.overlaps,
            )
        )

    def add_verified_study(self, cells: Mapping[str, str]) -> None:
        """The next one, as studies.csv has it."""
        self._add_study(
            (
                _number(cells["study_no"]),
                *(cells[name] for name in ("study_dir", "label", "complete")),
                *(_number(cells[name]) for name in ("files", "stored", "failed", "expected", "bytes")),
                *(cells[name] for name in ("modalities", "why")),
                *(_number(cells[name]) for name in ("overlaps", "registered", "confirmed")),
                cells["safe_to_delete"],
            )
        )

    def sizes(self) -> list[tuple[str, int]]:
        """How many files have up to which size, from the smallest class that occurs to the largest."""
        classes: Counter[int] = Counter()
        for bits, count in self._bits.items():
            classes[max(0, math.ceil((bits - _SMALLEST_BITS) / 2))] += count
        if not classes:
            return []
        return [(_size_word(each), classes[each]) for each in range(min(classes), max(classes) + 1)]

    def _add_study(self, cells: Sequence[Cell]) -> None:
        outcome, failed = str(cells[3]), cells[6]
        is_incomplete = outcome == Completeness.INCOMPLETE
        self.outcomes.add(outcome)
        self.other_reasons += is_incomplete and not failed
        self.studies.add(cells, is_in_excerpt=is_incomplete)

    def _add_trouble(self, row: Sequence[Any], finished_ns: int | None) -> None:
        study_no, file_no, status, reason, detail, path, same_uid_path, _ = row
        if is_accepted(detail):
            kind = self.accepted
        else:
            kind = self.kinds.setdefault((str(status), str(reason)), Kind())
            self.intervals.add_failure(finished_ns)
        kind.add(study_no, detail)
        if kind.shown < _MOST_OF_A_KIND:
            kind.shown += 1
            cells = (study_no, file_no, str(status), str(reason), detail, path, same_uid_path)
            self.files.add(cells, is_in_excerpt=kind.shown <= _EXCERPT_OF_A_KIND)


def is_accepted(detail: str) -> bool:
    """Whether a person accepted the row."""
    return detail.startswith(_ACCEPTED)


def _number(cell: str) -> int | None:
    return int(cell) if cell else None


def _size_word(size_class: int) -> str:
    """Up to where a class reaches."""
    bits = _SMALLEST_BITS + 2 * size_class
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")[min(bits // 10, 5)]
    return f"{1 << bits - 10 * min(bits // 10, 5)} {unit}"
