"""The rows of a report: report.csv and report.parquet, and what they add up to.

Rows are streamed in chunks, so memory does not grow with the archive (one study's UIDs are held at a time).
CSV and Parquet have the same rows with the same text: times as ISO 8601 UTC with microseconds, text from
outside escaped as in `core/escape.py`. In Parquet numbers are numbers, null where the CSV has an empty cell.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import eq, itemgetter
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

from tasks.core.completeness import StudyResult, StudyTally, exit_code
from tasks.core.decisions import ACCEPTING
from tasks.core.errors import InternalError
from tasks.core.escape import escape
from tasks.core.models import RunFacts, Status, StudyEntry, Summary
from tasks.core.problems import Verdict, proof_problems, row_problems, run_problems
from tasks.core.report_columns import COLUMNS, REPORT_COLUMNS, Escaped, Kind, ReportRow

if TYPE_CHECKING:
    import pyarrow as pa

_Columns: TypeAlias = dict[str, Sequence[Any]]

# What StudyTally.add takes, after the study that it is of.
_TALLIED: Final = (
    "study_no",
    "status",
    "reason",
    "sop_instance_uid",
    "study_instance_uid",
    "modality",
    "size_bytes",
    "detail",
    "decision",
    "is_study_dir",
)
_OWN_OBJECT: Final = frozenset((Status.UPLOADED, Status.ALREADY_UPLOADED))
_CHUNK_ROWS: Final = 1000
# A row group of Parquet, as CSV. Writing one takes 25 times as much memory; each is kept track of to the end.
_GROUP_BYTES: Final = 512 << 10, 4 << 20  # the first ones, the last ones of a large report
_GROUPS: Final = 256  # from so many on they grow


def write_rows(
    csv_file: IO[bytes],
    parquet_file: IO[bytes],
    rows: Iterable[ReportRow],
    totals: "Totals",
    also: Callable[[_Columns], None] = lambda _: None,
) -> None:
    """Writes report.csv and report.parquet; the rows, sorted by study_no, are counted in `totals`.

    `also` is given them as well, column by column, with `started_ns` and `finished_ns`.

    Parquet is read off the CSV's own bytes: quicker than from Python's objects, and the two must agree.
    """
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    schema = report_schema()
    names = arrow_csv.ReadOptions(column_names=schema.names, use_threads=False)
    types = arrow_csv.ConvertOptions(column_types=schema, null_values=[""], strings_can_be_null=False)
    csv_file.write(_csv([REPORT_COLUMNS]))
    with parquet.ParquetWriter(parquet_file, schema, compression="zstd") as writer:
        for text in _grouped(_texts(rows, totals, also)):
            csv_file.write(text)
            writer.write_table(arrow_csv.read_csv(io.BytesIO(text), names, convert_options=types))


def _texts(rows: Iterable[ReportRow], totals: "Totals", also: Callable[[_Columns], None]) -> Iterator[bytes]:
    """The rows as CSV, some at a time: as objects they take ten times as much."""
    source = iter(rows)
    while chunk := list(islice(source, _CHUNK_ROWS)):
        columns = _columns(chunk)
        totals.add(columns)
        also(columns)
        yield _csv(zip(*(columns[name] for name in REPORT_COLUMNS), strict=True))


def _grouped(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Joined to what makes a row group of Parquet."""
    group, written_bytes = b"", 0
    least, most = _GROUP_BYTES
    for text in texts:
        group += text
        if len(group) >= min(most, max(least, written_bytes // _GROUPS)):
            written_bytes += len(group)
            yield group
            group = b""
    if group:
        yield group


def _columns(chunk: Sequence[ReportRow]) -> _Columns:
    """The rows as columns, with everything as the report has it."""
    columns: _Columns = dict(zip(ReportRow._fields, zip(*chunk, strict=True), strict=True))
    started, finished = columns["started_at"], columns["finished_at"]
    columns["duration_s"] = [_duration_s(*times) for times in zip(started, finished, strict=True)]
    for name, column in COLUMNS.items():
        if column.escaped is Escaped.REPORT:
            columns[name] = _escaped(columns[name])
        elif column.kind is Kind.TIME:
            columns[name] = [iso(ns) for ns in columns[name]]
    columns["started_ns"], columns["finished_ns"] = started, finished
    return columns


def _escaped(column: Sequence[str | None]) -> list[str]:
    safe = {text: escape(text or "") for text in set(column)}  # most columns repeat a few values
    return [safe[text] for text in column]


def iso(ns: int | None) -> str:
    """Unix nanoseconds as ISO 8601 UTC with microseconds; empty for none."""
    if ns is None:
        return ""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_iso_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=4096)
def _iso_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _duration_s(started_ns: int | None, finished_ns: int | None) -> float | None:
    if started_ns is None or finished_ns is None:
        return None
    return round((finished_ns - started_ns) / 1e9, 6)


def _csv(lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def report_schema() -> "pa.Schema":
    """Of report.parquet."""
    import pyarrow as pa

    types = {Kind.INTEGER: pa.int64(), Kind.SECONDS: pa.float64()}
    return pa.schema([(name, types.get(column.kind, pa.string())) for name, column in COLUMNS.items()])


class Totals:
    """What the rows add up to, for each study and for the run."""

    def __init__(
        self,
        studies: Iterable[StudyEntry],
        overlaps: Mapping[int, int | None],
        tell: Callable[[StudyResult], None],
    ) -> None:
        """`tell` is given each study, in their order, when its last row has come."""
        self._ahead = iter(studies)
        self._overlaps = overlaps
        self._tell = tell
        self._tally: StudyTally | None = None
        self.studies = 0
        self.complete_studies = 0
        self.incomplete_studies = 0
        self.by_status: Counter[str] = Counter()
        self.verdicts: Counter[Verdict] = Counter()
        self.proofs: Counter[str] = Counter()  # of what is stored; a duplicate's is another file's
        self.objects_left = 0
        self.uploaded_bytes = 0
        self.accepted = 0

    def add(self, columns: _Columns) -> None:
        """Counts the rows of a chunk, by column."""
        self.by_status.update(columns["status"])
        details, decisions = columns["detail"], columns["decision"]
        if any(decisions):  # whose details have a person's words, any number of them
            details = ["" if each else detail for each, detail in zip(decisions, details, strict=True)]
        verdicts = zip(columns["status"], columns["reason"], details, strict=True)
        self.verdicts.update(map(Verdict._make, verdicts))
        self.accepted += sum(each in ACCEPTING for each in decisions)
        proofs = zip(columns["status"], columns["proof"], strict=True)
        self.proofs.update(proof for status, proof in proofs if status in _OWN_OBJECT)
        self.objects_left += sum(columns["objects_left"])
        sizes = zip(columns["status"], columns["size_bytes"], strict=True)
        self.uploaded_bytes += sum(size or 0 for status, size in sizes if status == Status.UPLOADED)
        columns = columns | {"is_study_dir": list(map(eq, columns["path"], columns["study_dir"]))}
        rows = zip(*(columns[name] for name in _TALLIED), strict=True)
        for study_no, group in groupby(rows, key=itemgetter(0)):
            tally = self._tally_of(study_no)
            for _, *cells in group:
                tally.add(*cells)

    def close(self) -> None:
        """No row follows: tells the studies that have none, too."""
        while self._next():
            pass

    def _tally_of(self, study_no: int) -> StudyTally:
        while tally := self._tally or self._next():
            if tally.study_no == study_no:
                return tally
            self._next()
        raise InternalError("The rows of the report did not come study by study: this is a defect.")

    def _next(self) -> StudyTally | None:
        """Goes on to the next study, if there is one."""
        if self._tally is not None:
            self._count(self._tally.result())
        entry = next(self._ahead, None)
        self._tally = None if entry is None else StudyTally(entry, self._overlaps.get(entry.study_no))
        return self._tally

    def _count(self, study: StudyResult) -> None:
        self.studies += 1
        self.complete_studies += study.is_complete
        self.incomplete_studies += study.is_incomplete
        self._tell(study)


def summary(run: RunFacts, totals: Totals) -> Summary:
    """The run in numbers."""
    by_status = {status.value: totals.by_status[status] for status in Status if totals.by_status[status]}
    code = exit_code(by_status, totals.incomplete_studies, totals.accepted)
    wall_s = max(run.finished_ns - run.started_ns, 0) / 1e9
    return Summary(
        run_id=run.run_id,
        campaign=run.campaign,
        api_host=run.api_host,
        storage_hosts=list(run.storage_hosts),
        manifest_sha256=run.manifest_sha256,
        root=run.root,
        files=totals.by_status.total(),
        bytes=totals.uploaded_bytes,
        by_status=by_status,
        studies=totals.studies,
        complete_studies=totals.complete_studies,
        started_at=iso(run.started_ns),
        finished_at=iso(run.finished_ns),
        wall_s=round(wall_s, 3),
        files_per_s=rate(by_status.get(Status.UPLOADED, 0), wall_s),
        bytes_per_s=rate(totals.uploaded_bytes, wall_s),
        peak_parallel=run.peak_parallel,
        exit_code=code if run.stopped_exit_code is None else run.stopped_exit_code,
        parallel_course=list(run.parallel_course),
        problems=[
            *run.problems,
            *row_problems(totals.verdicts, totals.objects_left),
            *proof_problems(totals.proofs),
            *run_problems(run),
        ],
        unused_keys=list(run.unused_keys),
        accepted=totals.accepted,
        forecast=_forecast_and_result(run, totals, wall_s),
        settings=dict(run.settings),
        versions=dict(run.versions),
        ended_by=run.ended_by,
    )


def _forecast_and_result(run: RunFacts, totals: Totals, wall_s: float) -> dict[str, Any]:
    """What `plan` said, and beside it under the same names what came of it; empty when nobody had asked."""
    if not run.forecast:
        return {}
    result = {
        "duration_s": round(wall_s, 3),
        "ends_at": iso(run.finished_ns),
        "files": totals.by_status[Status.UPLOADED],
        "bytes": totals.uploaded_bytes,
    }
    return {**run.forecast, "result": result}


def rate(count: int, wall_s: float) -> float:
    """So many a second."""
    return round(count / wall_s, 1) if wall_s else 0.0
