"""The report directory: report.csv, report.parquet, studies.csv and summary.json, whole or not at all.

Rows are streamed in chunks, so memory does not grow with the archive (one study's UIDs are held at a time).
CSV and Parquet have the same rows with the same text: times as ISO 8601 UTC with microseconds, text from
outside escaped as in `core/escape.py`. In Parquet numbers are numbers, null where the CSV has an empty cell.
"""

import csv
import errno
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

from tasks.core.completeness import Completeness, StudyResult, StudyTally, exit_code
from tasks.core.errors import InternalError, StoppedError, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import REPORT_COLUMNS, ROW_COLUMNS, RunFacts, Status, StudyEntry, Summary

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

REPORT_CSV: Final = "report.csv"
REPORT_PARQUET: Final = "report.parquet"
STUDIES_CSV: Final = "studies.csv"
SUMMARY_JSON: Final = "summary.json"
# The summary last: with it a report is whole.
FILES: Final = (REPORT_CSV, REPORT_PARQUET, STUDIES_CSV, SUMMARY_JSON)

RUNS: Final = "runs"  # what it holds: a directory for each earlier report
CERTIFICATE_JSON: Final = "certificate.json"  # of this report: it goes when the report goes
CERTIFICATE_SIG: Final = "certificate.sig"

STUDY_COLUMNS: Final = (
    "study_no",
    "study_dir",
    "label",
    "study_instance_uid",
    "priority",
    "files",
    "bytes",
    "stored",
    "failed",
    "expected",
    "expected_bytes",
    "complete",
    "why",
    "seen_study_instance_uids",
    "modalities",
    "registered",
    "confirmed",
    "overlaps",
)

# One row, in ROW_COLUMNS order, as the ledger gives it: study_dir and paths escaped, the far side's text as
# it came; started_at and finished_at in Unix nanoseconds or None; duration_s None, for it is worked out here.
ReportRow: TypeAlias = tuple[Any, ...]
_Columns: TypeAlias = dict[str, Sequence[Any]]

_INTEGERS: Final = frozenset({"study_no", "file_no", "size_bytes", "attempts", "http_status"})
_TIMES: Final = frozenset({"started_at", "finished_at"})
# What StudyTally.add takes, after the study that it is of.
_TALLIED: Final = (
    "study_no",
    "status",
    "reason",
    "sop_instance_uid",
    "study_instance_uid",
    "modality",
    "size_bytes",
)
_ESCAPED_HERE: Final = (
    "key",
    "etag",
    "superseded_keys",
)  # UIDs are digits and dots (header.py), the rest ours
_CHUNK_ROWS: Final = 10_000
_LONGEST_CELL: Final = 1 << 30  # characters; what was written is read, also a manifest's longest cell escaped
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_MARK: Final = "%Y%m%dT%H%M%S.%fZ"
_NO_REPORT: Final = "There is no whole report in the report directory: run the command that writes it again."
_DAMAGED: Final = "The report is not as it was written: write it again, or name another one."

_REMEDIES: Final = {
    errno.ENOSPC: "Free space on the report directory's disk",
    errno.EDQUOT: "Free space on the report directory's disk",
    errno.EFBIG: "Raise the limit on file sizes",
    errno.EACCES: "Make the report directory writable",
    errno.EPERM: "Make the report directory writable",
    errno.EROFS: "Make the report directory writable",
}


def write_report(
    report_dir: Path,
    run: RunFacts,
    studies: Iterable[StudyEntry],
    overlaps: Mapping[int, int | None],
    rows: Iterable[ReportRow],
) -> Summary:
    """Writes the report of a run, and moves an earlier run's to a directory of its own in `runs/`.

    `overlaps` names, by study_no, the earlier entry that has a study's files. `rows` come sorted by study_no,
    then file_no; each study_no is one of `studies`. The report that was there stays as it is until all files
    are on the disk under temporary names. One run at a time may write into a directory.
    Raises `StoppedError` when the disk is full or the directory can't be written.
    """
    try:
        report_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        summary = _write_drafts(report_dir, run, studies, overlaps, rows)
        _keep_earlier(report_dir, run.run_id)
        _publish(report_dir)
    except OSError as error:
        raise StoppedError(_sentence(error)) from None
    finally:
        _discard_drafts(report_dir)
    return summary


@contextmanager
def private_file(report_dir: Path, name: str) -> Iterator[IO[bytes]]:
    """A file beside the report, written whole or not at all. Raises `StoppedError` as `write_report` does."""
    draft = _draft(report_dir, name)
    try:
        with _created(draft) as file:
            yield file
        draft.rename(report_dir / name)
        _sync_names(report_dir)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoppedError(_sentence(error)) from None


def read_report(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a report directory, or of one of its CSV files, one by one; all text, and unescaped."""
    with _readable(_csv_of(path)) as file:
        lines = csv.reader(file)
        names = [unescape(name) for name in next(lines, [])]
        if not names:
            raise UsageError(_DAMAGED)
        for line in lines:
            yield dict(zip(names, map(unescape, line), strict=True))


def read_table(path: Path) -> "pd.DataFrame":
    """A report directory, or one of its CSV files, as a table of text, unescaped; empty text is not known.

    The one place where pandas reads a report: by its defaults the UID 1.10 would become the number 1.1.
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


def read_not_complete(report_dir: Path, most: int) -> NotComplete:
    """Counts them, and gives so many rows at most. What an earlier version did not write is empty."""
    incomplete, without_image = 0, 0
    first: list[dict[str, str]] = []
    with _readable(report_dir / STUDIES_CSV) as file:
        for row in csv.DictReader(file):
            complete = row.get("complete")
            incomplete += complete == Completeness.INCOMPLETE
            without_image += complete == Completeness.NEITHER and bool(row.get("why"))
            if complete == Completeness.INCOMPLETE and len(first) < most:
                first.append({name: row.get(name) or "" for name in STUDY_COLUMNS})
    return NotComplete(incomplete, without_image, first)


# --- writing: drafts first, then names ----------------------------------------------------------------------


def _write_drafts(
    report_dir: Path,
    run: RunFacts,
    studies: Iterable[StudyEntry],
    overlaps: Mapping[int, int | None],
    rows: Iterable[ReportRow],
) -> Summary:
    totals = _Totals(studies, overlaps)
    _write_rows(_draft(report_dir, REPORT_CSV), _draft(report_dir, REPORT_PARQUET), rows, totals)
    with _created(_draft(report_dir, STUDIES_CSV)) as file:
        file.writelines(_csv(lines) for lines in _chunks(_study_lines(totals.results())))
    summary = _summary(run, totals)
    with _created(_draft(report_dir, SUMMARY_JSON)) as file:
        file.write(json.dumps(asdict(summary), indent=2).encode() + b"\n")
    return summary


def _write_rows(csv_path: Path, parquet_path: Path, rows: Iterable[ReportRow], totals: "_Totals") -> None:
    """Parquet is read off the CSV's own bytes: quicker than from Python's objects, and the two must agree."""
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    schema = _schema()
    names = arrow_csv.ReadOptions(column_names=schema.names)
    types = arrow_csv.ConvertOptions(column_types=schema, null_values=[""], strings_can_be_null=False)
    with _created(csv_path) as csv_file, _created(parquet_path) as parquet_file:
        csv_file.write(_csv([REPORT_COLUMNS]))
        with parquet.ParquetWriter(parquet_file, schema, compression="zstd") as writer:
            for chunk in _chunks(rows):
                columns = _columns(chunk)
                totals.add(columns)
                text = _csv(zip(*(columns[name] for name in REPORT_COLUMNS), strict=True))
                csv_file.write(text)
                writer.write_table(arrow_csv.read_csv(io.BytesIO(text), names, convert_options=types))


def _columns(chunk: Sequence[ReportRow]) -> _Columns:
    """The rows as columns, with everything as the report has it."""
    columns: _Columns = dict(zip(ROW_COLUMNS, zip(*chunk, strict=True), strict=True))
    for name in _ESCAPED_HERE:
        columns[name] = _escaped(columns[name])
    started, finished = columns["started_at"], columns["finished_at"]
    columns["duration_s"] = [_duration_s(*times) for times in zip(started, finished, strict=True)]
    for name in _TIMES:
        columns[name] = [_iso(ns) for ns in columns[name]]
    return columns


def _escaped(column: Sequence[str | None]) -> list[str]:
    safe = {text: escape(text or "") for text in set(column)}  # most columns repeat a few values
    return [safe[text] for text in column]


def _iso(ns: int | None) -> str:
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


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = dict.fromkeys(_INTEGERS, pa.int64()) | {"duration_s": pa.float64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in REPORT_COLUMNS])


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    source = iter(items)
    while chunk := list(islice(source, _CHUNK_ROWS)):
        yield chunk


class _Totals:
    """What the rows add up to, for each study and for the run."""

    def __init__(self, studies: Iterable[StudyEntry], overlaps: Mapping[int, int | None]) -> None:
        self._ahead = {entry.study_no: entry for entry in studies}
        self._overlaps = overlaps
        self._study_no = 0
        self._tally: StudyTally | None = None
        self._results: list[StudyResult] = []
        self.by_status: Counter[str] = Counter()
        self.uploaded_bytes = 0

    def add(self, columns: _Columns) -> None:
        self.by_status.update(columns["status"])
        sizes = zip(columns["status"], columns["size_bytes"], strict=True)
        self.uploaded_bytes += sum(size or 0 for status, size in sizes if status == Status.UPLOADED)
        rows = zip(*(columns[name] for name in _TALLIED), strict=True)
        for study_no, group in groupby(rows, key=itemgetter(0)):
            tally = self._turn_to(study_no)
            for _, *cells in group:
                tally.add(*cells)

    def results(self) -> list[StudyResult]:
        """Every study in the manifest's order, also those without a row. No row can be added afterwards."""
        self._close()
        self._results += [self._tally_for(entry).result() for entry in self._ahead.values()]
        self._ahead.clear()
        return sorted(self._results, key=lambda study: study.study_no)

    def _turn_to(self, study_no: int) -> StudyTally:
        if self._tally is None or study_no != self._study_no:
            self._close()
            entry = self._ahead.pop(study_no, None)
            if entry is None:
                raise InternalError("The rows of the report did not come study by study: this is a defect.")
            self._study_no, self._tally = study_no, self._tally_for(entry)
        return self._tally

    def _tally_for(self, entry: StudyEntry) -> StudyTally:
        return StudyTally(entry, self._overlaps.get(entry.study_no))

    def _close(self) -> None:
        if self._tally is not None:
            self._results.append(self._tally.result())
        self._tally = None


def _summary(run: RunFacts, totals: _Totals) -> Summary:
    studies = totals.results()
    by_status = {status.value: totals.by_status[status] for status in Status if totals.by_status[status]}
    told = exit_code(by_status, sum(study.is_incomplete for study in studies))
    wall_s = max(run.finished_ns - run.started_ns, 0) / 1e9
    return Summary(
        run_id=run.run_id,
        campaign=run.campaign,
        files=totals.by_status.total(),
        bytes=totals.uploaded_bytes,
        by_status=by_status,
        studies=len(studies),
        complete_studies=sum(study.is_complete for study in studies),
        started_at=_iso(run.started_ns),
        finished_at=_iso(run.finished_ns),
        wall_s=round(wall_s, 3),
        files_per_s=_rate(by_status.get(Status.UPLOADED, 0), wall_s),
        bytes_per_s=_rate(totals.uploaded_bytes, wall_s),
        peak_parallel=run.peak_parallel,
        exit_code=told if run.stopped_exit_code is None else run.stopped_exit_code,
        parallel_course=list(run.parallel_course),
        problems=list(run.problems),
        unused_keys=list(run.unused_keys),
    )


def _rate(count: int, wall_s: float) -> float:
    return round(count / wall_s, 1) if wall_s else 0.0


def _study_lines(studies: Sequence[StudyResult]) -> Iterator[list[Any]]:
    """The lines of studies.csv: our columns, then the manifest's unknown ones."""
    carried = list(dict.fromkeys(name for study in studies for name, _ in study.extra))
    yield [*STUDY_COLUMNS, *_carried_names(carried)]
    for study in studies:
        extra = dict(study.extra)
        yield [*_study_cells(study), *(escape(extra.get(name, "")) for name in carried)]


def _carried_names(names: Iterable[str]) -> list[str]:
    """The unknown columns' names, with `manifest_` before one that is taken."""
    taken = list(STUDY_COLUMNS)
    for name in names:
        free = name
        while free in taken:
            free = f"manifest_{free}"
        taken.append(free)
    return [escape(name) for name in taken[len(STUDY_COLUMNS) :]]


def _study_cells(study: StudyResult) -> list[Any]:
    return [
        study.study_no,
        escape(study.study_dir),
        escape(study.label),
        escape(study.study_instance_uid),
        study.priority,
        study.files,
        study.bytes,
        study.stored,
        study.failed,
        study.expected,
        study.expected_bytes,
        study.complete,
        study.why,
        study.seen_study_instance_uids,
        study.modalities,
        "",  # registered and confirmed: nobody has asked the registry yet
        "",
        study.overlaps,
    ]


# --- the directory ------------------------------------------------------------------------------------------


def _draft(report_dir: Path, name: str) -> Path:
    return report_dir / f".{name}.tmp"


@contextmanager
def _created(path: Path) -> Iterator[IO[bytes]]:
    """A new file for its owner alone, on the disk when the block ends."""
    path.unlink(missing_ok=True)  # what a killed run left
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


def _keep_earlier(report_dir: Path, run_id: str) -> None:
    """Moves another run's report to `runs/`; one of the same run makes room.

    The summary goes last: it names the directory, so that a move which is interrupted is finished by the next
    run.
    """
    earlier = _run_id_of(report_dir / SUMMARY_JSON)
    if earlier and earlier == run_id:
        for name in (CERTIFICATE_JSON, CERTIFICATE_SIG, SUMMARY_JSON):
            (report_dir / name).unlink(missing_ok=True)
        return
    names = (CERTIFICATE_JSON, CERTIFICATE_SIG, *FILES)
    if there := [name for name in names if (report_dir / name).is_file()]:
        _move(report_dir, there, _place_for(report_dir, there))


def _move(report_dir: Path, names: Sequence[str], place: Path) -> None:
    """Renames the files, the last of them once the others are sure to be there."""
    *rest, last = names
    for directory in (place.parent, place):
        directory.mkdir(mode=0o700, exist_ok=True)
    for each in (rest, [last]):
        for name in each:
            (report_dir / name).rename(place / name)
        for directory in (place, place.parent, report_dir):
            _sync_names(directory)


def _place_for(report_dir: Path, names: Sequence[str]) -> Path:
    """Where an earlier report goes: to a new directory, or to one that an interrupted move began to fill."""
    mark = _mark_of(report_dir / names[-1])
    marks = (mark if number == 1 else f"{mark}-{number}" for number in count(1))
    places = (report_dir / RUNS / each for each in marks)
    return next(place for place in places if not _is_taken(place, names))


def _is_taken(place: Path, names: Sequence[str]) -> bool:
    """Whether another report is there, or anything that a move of these files would overwrite."""
    return any(os.path.lexists(place / name) for name in {SUMMARY_JSON, *names}) or (
        os.path.lexists(place) and not place.is_dir()
    )


def _mark_of(last: Path) -> str:
    """Start and exit code of the run whose summary this is; of any other file its own time, and `unknown`."""
    if last.name == SUMMARY_JSON:
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            summary = json.loads(last.read_bytes())
            started = datetime.fromisoformat(summary["started_at"]).astimezone(UTC)
            if summary["exit_code"] in range(256):
                return f"{started:{_MARK}}-{summary['exit_code']:d}"
    modified_us = min(max(0, last.stat().st_mtime_ns // 1000), _LATEST_US)
    return f"{_EPOCH + timedelta(microseconds=modified_us):{_MARK}}-unknown"


def _run_id_of(summary_json: Path) -> str:
    """The run_id in a summary; empty when there is none."""
    try:
        run_id = json.loads(summary_json.read_bytes())["run_id"]
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return ""
    return run_id if isinstance(run_id, str) else ""


def _publish(report_dir: Path) -> None:
    """Gives the drafts their names; the summary last, once the rest is sure to be there."""
    *tables, summary = FILES
    for name in tables:
        _draft(report_dir, name).rename(report_dir / name)
    _sync_names(report_dir)
    _draft(report_dir, summary).rename(report_dir / summary)
    _sync_names(report_dir)


def _sync_names(report_dir: Path) -> None:
    descriptor = os.open(report_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard_drafts(report_dir: Path) -> None:
    for name in FILES:
        with suppress(OSError):
            _draft(report_dir, name).unlink(missing_ok=True)


def _sentence(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else "the disk gave an error"
    remedy = _REMEDIES.get(error.errno or 0, "Put that right")
    reason = what[0].lower() + what[1:]
    return f"The report could not be written: {reason}. {remedy}, then run `dicom-ingest report REPORT_DIR`."


# --- reading ------------------------------------------------------------------------------------------------


def _csv_of(path: Path) -> Path:
    return path / REPORT_CSV if path.is_dir() else path


@contextmanager
def _readable(path: Path) -> Iterator[IO[str]]:
    """An opened file of a report; whatever is wrong with it is a `UsageError`."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield file
    except FileNotFoundError:
        raise UsageError(_NO_REPORT) from None
    except OSError as error:
        raise UsageError(f"The report could not be read: {os.strerror(error.errno or 0)}.") from None
    except (ValueError, TypeError, csv.Error):
        raise UsageError(_DAMAGED) from None
