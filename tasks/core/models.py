"""The words of the project as types. They travel between the stages: load, scan, plan, upload, report.

Times are Unix nanoseconds in memory and ISO 8601 UTC in a report. A path is text as the operating system
would open it (bytes that are not UTF-8 as surrogates, PEP 383); `core/escape.py` is how it is written down.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Status(StrEnum):
    """What became of one row of the report; `EXIT_ONE` says which of them make a run exit with 1."""

    UPLOADED = "uploaded"
    ALREADY_UPLOADED = "already_uploaded"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    NOT_DICOM = "not_dicom"
    INVALID = "invalid"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    CHANGED = "changed"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    NOT_ATTEMPTED = "not_attempted"


EXIT_ONE: Final = frozenset(
    {
        Status.CONFLICT,
        Status.INVALID,
        Status.UNREADABLE,
        Status.MISSING,
        Status.CHANGED,
        Status.TOO_LARGE,
        Status.FAILED,
        Status.NOT_ATTEMPTED,
    }
)


class Reason(StrEnum):
    """Why a row has its status; the closed list, grouped by the status it goes with."""

    NONE = ""
    # uploaded
    REPLACED = "replaced"
    # not_dicom
    DICOMDIR = "dicomdir"
    EMPTY = "empty"
    ARCHIVE = "archive"
    TEXT = "text"
    SYSTEM_FILE = "system_file"
    OTHER = "other"
    # invalid
    NO_PREAMBLE = "no_preamble"
    TRUNCATED = "truncated"
    NO_UID = "no_uid"
    MALFORMED = "malformed"
    # unreadable
    PERMISSION = "permission"
    IO_ERROR = "io_error"
    BROKEN_LINK = "broken_link"
    LINK_LOOP = "link_loop"
    LINK_OUTSIDE_ROOT = "link_outside_root"
    # changed
    DAMAGED = "damaged"
    ALTERED = "altered"
    # missing
    NOT_FOUND = "not_found"
    NOT_A_DIRECTORY = "not_a_directory"
    # failed
    AUTH = "auth"
    PRESIGN = "presign"
    EXPIRED = "expired"
    THROTTLED = "throttled"
    NETWORK = "network"
    SERVER = "server"
    INTEGRITY = "integrity"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    # not_attempted
    NOT_SCANNED = "not_scanned"
    STOPPED = "stopped"
    TOO_YOUNG = "too_young"


ZEROS: Final = "zeros"  # of a file that is DICOM no more: what it is, in `detail`


class Flaw(StrEnum):
    """What is wrong with a file that is held back, in `detail` of its row; the closed list."""

    NONE = ""
    # truncated
    IN_ELEMENT = "it ends within an element"
    IN_SEQUENCE = "it ends within a sequence"
    IN_PIXELS = "it ends within its pixel data"
    BEFORE_LAST_FRAME = "it ends before its last frame"
    IN_DEFLATED_DATA = "it ends within its deflated data"
    # malformed
    ENDLESS_ELEMENT = "an element has no end that can be found"
    ENDLESS_SEQUENCE = "a sequence has no end that can be found"
    TOO_MANY_ELEMENTS = "it has more elements than can be looked at"
    NO_UID_AT_ALL = "what stands in place of a UID is none"
    DAMAGED_DEFLATED_DATA = "its deflated data are damaged or too large"
    SECOND_PREAMBLE = "its data set is another file, with a preamble of its own"

    @property
    def reason(self) -> Reason:
        """That of the row."""
        return (
            Reason.NONE if not self else Reason.TRUNCATED if self.startswith("it ends") else Reason.MALFORMED
        )


# Reasons for which a file is held back, and with which an operator may have it sent all the same.
ACCEPTABLE: Final = (Reason.MALFORMED, Reason.NO_PREAMBLE, Reason.TRUNCATED)


class Balance(StrEnum):
    """What is to be equal between shards."""

    FILES = "files"
    BYTES = "bytes"


class OnConflict(StrEnum):
    """What to do with a file whose SOP Instance UID is stored with other bytes, from another path."""

    REPORT = "report"
    UPLOAD = "upload"


class Proof(StrEnum):
    """What vouches for a stored object having the bytes that were sent; `core/checksums.py` judges."""

    CRC64NVME = "crc64nvme"
    ETAG = "etag"  # it is their MD5
    CONTENT_MD5 = "content_md5"  # S3 checked it, and shows no checksum of its own
    OTHER_ETAG = "other_etag"  # as CONTENT_MD5, where ETags look like MD5s and are none
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """One row of a manifest, checked. `study_no` counts the rows from 1, in the manifest's order."""

    study_no: int
    study_dir: str
    study_instance_uid: str = ""
    expected_instances: int | None = None
    priority: int = 0
    label: str = ""
    extra: tuple[tuple[str, str], ...] = ()  # unknown columns, as they came, for studies.csv
    expected_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run's files go, and which they are."""

    api_host: str = ""  # host:port
    manifest_sha256: str = ""  # empty: without a manifest
    root: str = ""  # absolute, escaped; empty: none was given
    same_platform: bool = False  # said to be the platform that the campaign has, by another name


@dataclass(frozen=True, slots=True)
class Listed:
    """A regular file that scan found. `file_no` counts the rows of its study from 1, in path order."""

    study_no: int
    file_no: int
    path: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int | None = None  # None: nobody asked for it


@dataclass(frozen=True, slots=True)
class Unwalked:
    """A directory or link that could not be walked, or a study directory or file that is not there."""

    study_no: int
    file_no: int
    path: str
    status: Status
    reason: Reason
    is_file: bool = False  # a file or link, there or gone: no directory


@dataclass(frozen=True, slots=True)
class Header:
    """What identifies an instance (DICOM PS3.3 C.12.1, PS3.10 7.1); empty text where the file has none."""

    sop_instance_uid: str
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    modality: str = ""  # PS3.3 C.7.3.1.1.1


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is not to be sent, and why. `header` is kept when it was read all the same."""

    status: Status
    reason: Reason
    header: Header | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    detail: str = ""  # what it is, where the reason does not say it
    reasons: frozenset[Reason] = frozenset()  # besides, where there are several

    def is_sent(self, accepted: Collection[str] = ACCEPTABLE) -> bool:
        """Whether an operator who accepts these reasons has it sent as it is, byte for byte."""
        has_uid = self.header is not None and bool(self.header.sop_instance_uid)
        return self.status is Status.INVALID and has_uid and {self.reason, *self.reasons} <= {*accepted}


@dataclass(frozen=True, slots=True)
class Digests:
    """Of one file's bytes: lower-case hex, the CRC in base64 as S3 has it."""

    sha256: str
    md5: str = ""  # empty: not computed, for nothing would be compared with it
    crc64nvme: str = ""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What is stored of a path: the content that an earlier run read there."""

    sha256: str
    sop_instance_uid: str
    size_bytes: int | None
    mtime_ns: int | None
    has_own_object: bool = True  # else it is the object of another file, which this one duplicates
    is_lost: bool = False  # the store has lost the object


@dataclass(frozen=True, slots=True)
class Todo:
    """A file of a batch that is not settled yet. `str(todo)` is its only name in logs and in Prefect."""

    file_id: int  # its row in the ledger
    study_no: int
    file_no: int
    path: str
    stored: StoredContent | None = None

    def __str__(self) -> str:
        return f"study {self.study_no} file {self.file_no}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file in this run. Everything the report says of it but its names."""

    status: Status
    reason: Reason = Reason.NONE
    header: Header | None = None
    digests: Digests | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    read_ns: int | None = None  # when its bytes began to be read
    key: str = ""
    etag: str = ""
    proof: str = ""  # a Proof, of what is stored
    attempts: int = 0
    http_status: int | None = None
    started_ns: int | None = None
    finished_ns: int | None = None
    detail: str = ""  # why it failed, as the platform calls it, in a closed form; what a damaged file is now


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a report says of its run that no row says."""

    run_id: str
    campaign: str
    started_ns: int
    finished_ns: int
    peak_parallel: int
    parallel_course: list[tuple[float, int]] = field(
        default_factory=list
    )  # (seconds since the start, slots in use)
    problems: list[str] = field(default_factory=list)
    stopped_exit_code: int | None = None  # 3, 4 or 130 when the run ended early; wins over 0 and 1
    unused_keys: list[str] = field(default_factory=list)  # of the URLs that were asked for at the start
    api_host: str = ""  # host:port; empty when an earlier version did the run
    storage_hosts: list[str] = field(default_factory=list)  # host:port of each that something was sent to
    manifest_sha256: str = ""  # empty: without a manifest
    root: str = ""  # absolute, escaped; empty: none was given
    touched: int = 0  # files that were read for their ctime alone
    gone: int = 0  # stored files that the run before listed
    forecast: dict[str, Any] = field(default_factory=dict)  # what `plan` said of the same manifest
    settings: dict[str, str] = field(default_factory=dict)  # the options, as text; no secret
    versions: dict[str, str] = field(default_factory=dict)  # of the software that did the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in numbers: `summary.json`, in this order. What earlier versions did not write is empty."""

    run_id: str
    campaign: str
    api_host: str = ""
    storage_hosts: list[str] = field(default_factory=list)
    manifest_sha256: str = ""
    root: str = ""
    files: int
    bytes: int
    by_status: dict[str, int]
    studies: int
    complete_studies: int
    started_at: str
    finished_at: str
    wall_s: float
    files_per_s: float
    bytes_per_s: float
    peak_parallel: int
    exit_code: int
    parallel_course: list[tuple[float, int]] = field(default_factory=list)  # (seconds, slots) at each change
    problems: list[str] = field(default_factory=list)  # what the operator should know
    unused_keys: list[str] = field(default_factory=list)  # issued at the start; nothing was sent to them
    accepted: int = 0  # rows that a person accepted: no reason for exit code 1
    forecast: dict[str, Any] = field(default_factory=dict)  # what `plan` said of it; empty: nobody had asked
    settings: dict[str, str] = field(default_factory=dict)  # the run's options, as text; no secret
    versions: dict[str, str] = field(default_factory=dict)  # of the software that did the run
