"""The report's columns, each declared once: what it is named, what it holds, how it is written, what it says.

`ReportRow` is the declaration. The order of its fields is the report's, and from it derive the header of
report.csv, the schema of report.parquet, what the ledger selects, and the table in the documentation.

To add a column: a field here, one in `Outcome` (core/models.py) that is filled in where its value is known,
and one in the ledger's table `file` (ledger/schema.py, with a migration). A column that is derived needs an
expression in ledger/report_query.py instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Annotated, Any, Final, NamedTuple, get_args, get_type_hints


class Kind(StrEnum):
    """What a cell holds; an empty one means that nobody knows."""

    TEXT = "text"
    INTEGER = "integer"
    SECONDS = "seconds"
    TIME = "ISO 8601, UTC"  # in the ledger, and in a ReportRow, Unix nanoseconds


class Escaped(Enum):
    """Who escapes a text that comes from outside (`core/escape.py`)."""

    NOBODY = auto()  # digits, UIDs, and words of our own need none
    LEDGER = auto()  # it is kept escaped
    REPORT = auto()  # it is kept as it came


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the report. `sentence` is its line in the documentation."""

    kind: Kind
    sentence: str
    escaped: Escaped = Escaped.NOBODY
    of_the_run: bool = False  # blank until the run has settled the file, whatever earlier runs made of it


_TEXT: Final = Kind.TEXT
_INTEGER: Final = Kind.INTEGER


class ReportRow(NamedTuple):
    """A row of the report as the ledger gives it. `duration_s` is worked out when the report is written.

    A field without a `Column` is no column of the report: studies.csv or summary.json alone show it.
    """

    study_no: Annotated[int, Column(_INTEGER, "the study's row in the manifest, from 1")]
    file_no: Annotated[int, Column(_INTEGER, "the file's number in its study, from 1, in path order")]
    study_dir: Annotated[str, Column(_TEXT, "the study's directory", Escaped.LEDGER)]
    path: Annotated[
        str,
        Column(
            _TEXT,
            "the file, as the operating system opens it; of a member the archive, `!`, its name there",
            Escaped.LEDGER,
        ),
    ]
    status: Annotated[str, Column(_TEXT, "what became of the file")]
    reason: Annotated[str, Column(_TEXT, "why it has this status")]
    key: Annotated[str, Column(_TEXT, "the object that holds its bytes", Escaped.REPORT)]
    sop_instance_uid: Annotated[str, Column(_TEXT, "from the file's header, as are the next four")]
    study_instance_uid: Annotated[str, Column(_TEXT, "the study it says it belongs to")]
    series_instance_uid: Annotated[str, Column(_TEXT, "the series it says it belongs to")]
    sop_class_uid: Annotated[str, Column(_TEXT, "what kind of object it is")]
    transfer_syntax_uid: Annotated[str, Column(_TEXT, "how its data set is encoded")]
    size_bytes: Annotated[int | None, Column(_INTEGER, "its size")]
    sha256: Annotated[str, Column(_TEXT, "of the very bytes that were sent, lower-case hex")]
    md5: Annotated[
        str, Column(_TEXT, "of the same bytes, lower-case hex; empty where nothing was compared with it")
    ]
    etag: Annotated[str, Column(_TEXT, "what the store called the object's content", Escaped.REPORT)]
    attempts: Annotated[int, Column(_INTEGER, "how many PUTs it took", of_the_run=True)]
    superseded_keys: Annotated[
        str, Column(_TEXT, "other keys that were issued for it, joined with `;`", Escaped.REPORT)
    ]
    http_status: Annotated[int | None, Column(_INTEGER, "of the last answer about it", of_the_run=True)]
    started_at: Annotated[int | None, Column(Kind.TIME, "when work on it began", of_the_run=True)]
    finished_at: Annotated[int | None, Column(Kind.TIME, "when its outcome was known", of_the_run=True)]
    duration_s: Annotated[None, Column(Kind.SECONDS, "`finished_at` less `started_at`")]
    run_id: Annotated[str, Column(_TEXT, "the run that this outcome is of", of_the_run=True)]
    crc64nvme: Annotated[str, Column(_TEXT, "of the same bytes, in base64 as S3 shows it")]
    detail: Annotated[
        str,
        Column(
            _TEXT,
            "of a failed file: S3's error code, or the API's complaint; of a damaged one: what it is now; of "
            "one that is held back: what is wrong with it; of one that a person accepted: `accepted`, by "
            "whom and why",
            of_the_run=True,
        ),
    ]
    same_uid_path: Annotated[
        str, Column(_TEXT, "of a duplicate or a conflict: the file that has its UID", Escaped.LEDGER)
    ]
    modality: str
    proof: str  # a Proof, of what is stored
    file_id: int  # its row in the ledger; 0: it has none
    decision: str  # a Decision, where a person made one about this very file and outcome
    objects_left: int  # 1: an object of the file's earlier content is its instance's still, and in no row


_HINTS: Final[Mapping[str, Any]] = get_type_hints(ReportRow, include_extras=True)
COLUMNS: Final[Mapping[str, Column]] = {
    name: hint.__metadata__[0] for name, hint in _HINTS.items() if hasattr(hint, "__metadata__")
}
REPORT_COLUMNS: Final = tuple(COLUMNS)


def blank(name: str) -> str | int | None:
    """What a field of ReportRow holds while nothing is known: None where its type has it, else "" or 0."""
    (hint, *_) = get_args(_HINTS[name]) or (_HINTS[name],)
    return None if hint not in (str, int) else hint()
