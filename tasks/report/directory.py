"""The report directory: the files of a report, whole or not at all, and the earlier reports beside them."""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Final, cast

from tasks.core.completeness import StudyResult
from tasks.core.errors import StoppedError
from tasks.core.models import Proof, RunFacts, StudyEntry, Summary
from tasks.core.report_columns import ReportRow
from tasks.ledger.private_files import read_private, require_directory_of_ours, require_ours
from tasks.report.hashing_file import HashingFile
from tasks.report.report_page import REPORT_HTML, Certified, PageFacts, page_rows, write_report_page
from tasks.report.studies_csv import StudiesCsv
from tasks.report.tables import Totals, summary, write_rows

REPORT_CSV: Final = "report.csv"
REPORT_PARQUET: Final = "report.parquet"
STUDIES_CSV: Final = "studies.csv"
SUMMARY_JSON: Final = "summary.json"
# The summary last: with it a report is whole.
FILES: Final = (REPORT_CSV, REPORT_PARQUET, STUDIES_CSV, REPORT_HTML, SUMMARY_JSON)

# What `verify` finds, beside the report that it is of; it writes studies.csv anew, too.
VERIFICATION_CSV: Final = "verification.csv"
VERIFICATION_JSON: Final = "verification.json"
VERIFICATION_CERTIFICATE_JSON: Final = "verification-certificate.json"
VERIFICATION_CERTIFICATE_SIG: Final = "verification-certificate.sig"
REPAIR_MANIFEST_CSV: Final = "repair-manifest.csv"
REPAIR_KEYS_TXT: Final = "repair-keys.txt"
REPAIRS: Final = (
    REPAIR_MANIFEST_CSV,
    REPAIR_KEYS_TXT,
)  # they stay where a command that reads them expects them
VERIFICATION: Final = (
    VERIFICATION_CERTIFICATE_JSON,
    VERIFICATION_CERTIFICATE_SIG,
    VERIFICATION_CSV,
    VERIFICATION_JSON,
)

RUNS: Final = "runs"  # what it holds: a directory for each earlier report
CERTIFICATE_JSON: Final = "certificate.json"  # of this report: it goes when the report goes
CERTIFICATE_SIG: Final = "certificate.sig"
AUDIT_JSONL: Final = "audit.jsonl"  # the trail of all runs into the directory

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_MARK: Final = "%Y%m%dT%H%M%S.%fZ"
_HOME: Final = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(\d+|unknown)(-\d+)?")  # a mark, and the end of its run

_REMEDIES: Final = {
    errno.ENOSPC: "Free space on the report directory's disk",
    errno.EDQUOT: "Free space on the report directory's disk",
    errno.EFBIG: "Raise the limit on file sizes",
    errno.EACCES: "Make the report directory writable",
    errno.EPERM: "Make the report directory writable",
    errno.EROFS: "Make the report directory writable",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A report as it was written: its summary, and by name the SHA-256 of each file's very bytes."""

    summary: Summary
    sha256: dict[str, str]
    unvouched: int = 0  # files that are stored, and nothing vouches for the bytes


def require_report_files(report_dir: Path) -> None:
    """UsageError when a report's file, or its draft, is a link, no regular file, or another user's.

    So it is of `runs/`: an earlier report, which is moved there, would go elsewhere.
    """
    require_directory_of_ours(report_dir / RUNS, f"{RUNS} in the report directory")
    names = (*FILES, CERTIFICATE_JSON, CERTIFICATE_SIG, *VERIFICATION, *REPAIRS)
    for path in (each for name in names for each in (report_dir / name, _draft(report_dir, name))):
        require_ours(path, f"{path.name} in the report directory")


def write_report(
    report_dir: Path,
    run: RunFacts,
    studies: Iterable[StudyEntry],
    overlaps: Mapping[int, int | None],
    rows: Iterable[ReportRow],
) -> Written:
    """Writes the report of a run, and moves an earlier run's to a directory of its own in `runs/`.

    `studies` come sorted by study_no, and are gone through twice. `overlaps` names, by study_no, the earlier
    entry that has a study's files. `rows` come sorted by study_no, then file_no; each study_no is one of
    `studies`. The report that was there stays as it is until all files are on the disk under temporary names.
    One run at a time may write into a directory.
    Raises `StoppedError` when the disk is full or the directory can't be written.
    """
    try:
        report_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = _write_drafts(report_dir, run, studies, overlaps, rows)
        _keep_earlier(report_dir, run.run_id)
        _publish(report_dir)
    except OSError as error:
        raise StoppedError(_sentence(error)) from None
    finally:
        _discard_drafts(report_dir)
    return written


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


class Drafts:
    """Files of a report directory that are written under temporary names, and published in one go."""

    def __init__(self, report_dir: Path) -> None:
        self.sha256: dict[str, str] = {}  # by name, of what was written
        self._names: list[str] = []
        self._report_dir = report_dir

    def draft(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file, on the disk when the block ends."""
        self._names.append(name)
        return _hashed_draft(self._report_dir, self.sha256, name)

    def discard(self) -> None:
        """Removes those that were not published."""
        for name in self._names:
            with suppress(OSError):
                _draft(self._report_dir, name).unlink(missing_ok=True)

    def publish(self, last: str) -> None:
        """Gives them their names, `last` once the rest is sure to be there."""
        for names in ([name for name in self.sha256 if name != last], [last]):
            for name in names:
                _draft(self._report_dir, name).rename(self._report_dir / name)
            _sync_names(self._report_dir)


@contextmanager
def drafts(report_dir: Path, last: str) -> Iterator[Drafts]:
    """Writes files beside a report, all of them or none. Raises `StoppedError` as `write_report` does."""
    written = Drafts(report_dir)
    try:
        yield written
        written.publish(last)
    except OSError as error:
        reason, remedy = _why(error)
        raise StoppedError(
            f"What was found could not be written: {reason}. {remedy}, then run the same command again."
        ) from None
    finally:
        written.discard()


def _write_drafts(
    report_dir: Path,
    run: RunFacts,
    studies: Iterable[StudyEntry],
    overlaps: Mapping[int, int | None],
    rows: Iterable[ReportRow],
) -> Written:
    sha256: dict[str, str] = {}
    draft = partial(_hashed_draft, report_dir, sha256)
    carried = dict.fromkeys(name for study in studies for name, _ in study.extra)
    with draft(REPORT_CSV) as csv_file, draft(REPORT_PARQUET) as parquet_file, draft(STUDIES_CSV) as file:
        csv, page = StudiesCsv(file, carried), page_rows(run)

        def tell(study: StudyResult) -> None:
            csv.add(study)
            page.add_study(study)

        totals = Totals(studies, overlaps, tell)
        write_rows(csv_file, parquet_file, rows, totals, page.add)
        totals.close()
    in_numbers = summary(run, totals)
    with draft(SUMMARY_JSON) as file:
        file.write(json.dumps(asdict(in_numbers), indent=2).encode() + b"\n")
    with draft(REPORT_HTML) as file:  # last, for it has the others' digests
        certified = Certified(CERTIFICATE_JSON, dict(sha256))
        write_report_page(file, PageFacts(report_dir, in_numbers, page, [certified]))
    return Written(in_numbers, sha256, totals.proofs[Proof.NOTHING])


@contextmanager
def _hashed_draft(report_dir: Path, sha256: dict[str, str], name: str) -> Iterator[IO[bytes]]:
    """A new draft; the hash of what was written to it is in `sha256` when the block ends."""
    with _created(_draft(report_dir, name)) as file:
        hashing = HashingFile(file)
        yield cast("IO[bytes]", hashing)
    sha256[name] = hashing.sha256


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
        for name in (*VERIFICATION, CERTIFICATE_JSON, CERTIFICATE_SIG, SUMMARY_JSON):
            (report_dir / name).unlink(missing_ok=True)
        return
    names = (*VERIFICATION, CERTIFICATE_JSON, CERTIFICATE_SIG, *FILES)
    if there := [name for name in names if (report_dir / name).is_file()]:
        _move(report_dir, there, _new_home(report_dir, there))


def _move(report_dir: Path, names: Sequence[str], home: Path) -> None:
    """Renames the files, the last of them once the others are sure to be there."""
    *rest, last = names
    for directory in (home.parent, home):
        directory.mkdir(mode=0o700, exist_ok=True)
    for each in (rest, [last]):
        for name in each:
            (report_dir / name).rename(home / name)
        for directory in (home, home.parent, report_dir):
            _sync_names(directory)


def _new_home(report_dir: Path, names: Sequence[str]) -> Path:
    """Where an earlier report goes: to a new directory, or to one that an interrupted move began to fill."""
    mark = _mark_of(report_dir / names[-1])
    marks = (mark if number == 1 else f"{mark}-{number}" for number in count(1))
    homes = (report_dir / RUNS / each for each in marks)
    return next(home for home in homes if not _is_occupied(home, names))


def earlier_reports(report_dir: Path) -> list[Path]:
    """The directories in `runs/` with the reports of earlier runs, by name.

    Not of them is what somebody gave another name and has an audit trail of its own: a report directory.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        homes = [home for home in (report_dir / RUNS).iterdir() if home.is_dir()]
        return sorted(
            home for home in homes if _HOME.fullmatch(home.name) or not (home / AUDIT_JSONL).exists()
        )
    return []


def _is_occupied(home: Path, names: Sequence[str]) -> bool:
    """Whether another report is there, or anything that a move of these files would overwrite."""
    return any(os.path.lexists(home / name) for name in {SUMMARY_JSON, *names}) or (
        os.path.lexists(home) and (home.is_symlink() or not home.is_dir())
    )


def _mark_of(last: Path) -> str:
    """Start and exit code of the run whose summary this is; of any other file its own time, and `unknown`."""
    if last.name == SUMMARY_JSON:
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            summary = json.loads(read_private(last))
            started = datetime.fromisoformat(summary["started_at"]).astimezone(UTC)
            if summary["exit_code"] in range(256):
                return f"{started:{_MARK}}-{summary['exit_code']:d}"
    modified_us = min(max(0, last.stat().st_mtime_ns // 1000), _LATEST_US)
    return f"{_EPOCH + timedelta(microseconds=modified_us):{_MARK}}-unknown"


def _run_id_of(summary_json: Path) -> str:
    """The run_id in a summary; empty when there is none."""
    try:
        run_id = json.loads(read_private(summary_json))["run_id"]
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
    reason, remedy = _why(error)
    return f"The report could not be written: {reason}. {remedy}, then run `dicom-ingest report REPORT_DIR`."


def _why(error: OSError) -> tuple[str, str]:
    """The reason, and what to do about it."""
    what = os.strerror(error.errno) if error.errno else "the disk gave an error"
    remedy = _REMEDIES.get(error.errno or 0, "Put that right")
    reason = what[0].lower() + what[1:]
    return reason, remedy
