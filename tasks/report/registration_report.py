"""registration.csv and registration.json: what became of every object, and one run of `ingest` in numbers.

One row for each object that the campaign knows of the bucket, whichever run registered it: so a run that was
given a few keys loses none of the others' rows. Each file is written whole or not at all.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, cast

from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.models import RunFacts
from tasks.core.object_outcomes import ObjectStatus
from tasks.core.registration_rows import (
    REGISTRATION_COLUMNS,
    REGISTRATION_CSV,
    RegistrationRow,
    RegistrationSummary,
    RegistrationTotals,
)
from tasks.core.report_columns import Escaped, Kind
from tasks.ledger.private_files import read_private, require_ours
from tasks.report.directory import private_file
from tasks.report.hashing_file import HashingFile
from tasks.report.tables import iso, rate

REGISTRATION_JSON: Final = "registration.json"
REGISTRATION_CERTIFICATE: Final = "registration-certificate.json"
REGISTRATION_SIG: Final = "registration-certificate.sig"
REGISTRATION_FILES: Final = (REGISTRATION_CSV, REGISTRATION_JSON)  # the summary last: it makes them whole
_ROWS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class WrittenRegistration:
    """As it was written: its summary, and by name the SHA-256 of each file's very bytes."""

    summary: RegistrationSummary
    sha256: dict[str, str]


def require_registration_files(report_dir: Path) -> None:
    """UsageError when one of the files is a link, no regular file, or another user's."""
    for name in (*REGISTRATION_FILES, REGISTRATION_CERTIFICATE, REGISTRATION_SIG):
        require_ours(report_dir / name, f"{name} in the report directory")


def write_registration(
    report_dir: Path, facts: RunFacts, place: tuple[str, str], seen: int, known: Iterable[Any]
) -> WrittenRegistration:
    """Writes both files. `place`: bucket and registry; `seen`: the serial of the run's listing.

    `known`: the ledger's rows. Raises StoppedError when the disk is full or the directory can't be written.
    """
    totals, sha256 = RegistrationTotals(facts.run_id, seen), {}
    with private_file(report_dir, REGISTRATION_CSV) as file:
        hashing = HashingFile(file)
        _write_rows(cast("IO[bytes]", hashing), totals.rows(known))
    sha256[REGISTRATION_CSV] = hashing.sha256
    summary = _summary(facts, place, totals)
    with private_file(report_dir, REGISTRATION_JSON) as file:
        hashing = HashingFile(file)
        hashing.write(json.dumps(asdict(summary), indent=2).encode() + b"\n")
    sha256[REGISTRATION_JSON] = hashing.sha256
    return WrittenRegistration(summary, sha256)


def read_registration(report_dir: Path) -> RegistrationSummary:
    """The summary of the newest run of `ingest`. UsageError when there is none that can be read."""
    try:
        return RegistrationSummary(**json.loads(read_private(report_dir / REGISTRATION_JSON)))
    except (OSError, ValueError, TypeError, RecursionError):
        raise UsageError(
            f"There is no {REGISTRATION_JSON} that can be read in this report directory."
        ) from None


def _write_rows(file: IO[bytes], rows: Iterator[RegistrationRow]) -> None:
    file.write(_csv([list(REGISTRATION_COLUMNS)]))
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        file.write(_csv([_cells(row) for row in chunk]))


def _cells(row: RegistrationRow) -> Sequence[object]:
    columns = REGISTRATION_COLUMNS.values()
    return [_cell(value, column.kind, column.escaped) for value, column in zip(row, columns, strict=True)]


def _cell(value: object, kind: Kind, escaped: Escaped) -> object:
    if kind is Kind.TIME:
        return iso(cast("int | None", value))
    return escape(str(value)) if escaped is Escaped.REPORT else value


def _csv(lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _summary(facts: RunFacts, place: tuple[str, str], totals: RegistrationTotals) -> RegistrationSummary:
    wall_s = max(facts.finished_ns - facts.started_ns, 0) / 1e9
    code = int(totals.bad > 0)
    return RegistrationSummary(
        run_id=facts.run_id,
        campaign=facts.campaign,
        bucket=place[0],
        registry=place[1],
        objects=totals.by_status.total(),
        bytes=totals.bytes,
        by_status={each.value: totals.by_status[each] for each in ObjectStatus if totals.by_status[each]},
        not_seen=totals.not_seen,
        started_at=iso(facts.started_ns),
        finished_at=iso(facts.finished_ns),
        wall_s=round(wall_s, 3),
        objects_per_s=rate(totals.registered, wall_s),
        bytes_per_s=rate(totals.registered_bytes, wall_s),
        exit_code=code if facts.stopped_exit_code is None else facts.stopped_exit_code,
        problems=list(facts.problems),
    )
