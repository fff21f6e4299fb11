"""Everything that ends a run early, and every fault of one request, as a tree.

    IngestError                     one clear sentence; `exit_code` is what the process ends with
    ├── UsageError              2   settings, manifest or arguments are wrong: nothing was attempted
    │   ├── ManifestError           every fault by row and column
    │   └── ManifestFileError       the file of a manifest can't be read
    ├── StoppedError            3   the run can't go on; the report says what was not attempted
    │   └── WrongSettingsError      a server's answer shows that a setting is wrong: UsageError at the start
    ├── CredentialsRefusedError 4   whoever refuses them, at the start (no report) or at any later moment
    ├── InterruptedRunError     130 Ctrl-C or SIGTERM
    ├── InternalError           3   a defect, without the text of the exception that it was
    ├── RowRefusedError         3   the database refuses a value: it is that file's fault, and its end alone
    ├── PlannedEndError         1   a bound that the operator set is reached: the next run goes on
    └── NotAllStoredError       1   a run that came to its end: what Prefect's failed state carries

    Fault                           one presign or PUT that did not work; `core/retry.py` says what follows,
    │                               `ending` which of the errors above it is when that is the run's end
    └── TooLargeFault               a request of several parts that may well work with fewer of them

A message names a study and a file by their numbers, a setting by its name, a manifest cell by row and column.
It never holds a path, a UID, a cell's text, a token or a URL's query: messages reach logs and Prefect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tasks.core.models import Reason
from tasks.core.run_bounds import Bound
from tasks.core.words import counted


class IngestError(Exception):
    """The root: `str(error)` is a sentence for the operator that says what to do next."""

    exit_code = 3


class UsageError(IngestError):
    """Settings, manifest or arguments are wrong, and nothing was attempted."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a manifest. `row` counts from 1 below the header; 0 is the file as a whole."""

    row: int
    column: str
    what: str

    def __str__(self) -> str:
        where = f"row {self.row}, " if self.row else ""
        return f"{where}{self.column}: {self.what}" if self.column else f"{where}{self.what}"


class ManifestError(UsageError):
    """A manifest refused whole. `problems` has every fault; the message shows the first few."""

    LISTED: Final = 20

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"  {problem}" for problem in problems[: self.LISTED]]
        if len(problems) > self.LISTED:
            lines.append(f"  ... and {len(problems) - self.LISTED} more")
        count = counted(len(problems), "fault")
        super().__init__("\n".join([f"The manifest was refused: {count}. Nothing was sent.", *lines]))

    @property
    def summary(self) -> str:
        """One sentence, with the first fault."""
        first, others = self.problems[0], len(self.problems) - 1
        more = f", and {others} more that `dicom-ingest run` shows at a terminal" if others else ""
        return f"The manifest was refused, nothing was sent: {first}{more}."

    def __reduce__(self) -> tuple[type["ManifestError"], tuple[list[Problem]]]:
        return type(self), (list(self.problems),)


class ManifestFileError(UsageError):
    """A manifest that can't be opened or read."""


class StoppedError(IngestError):
    """The run can't go on: platform down, ledger not writable, a key handed out twice."""


class RowRefusedError(IngestError):
    """The database can't hold a value of a row. Where that is a file's, the file has failed, not the run."""


class WrongSettingsError(StoppedError):
    """An answer shows that a setting is wrong, for every file; at the start it becomes a UsageError."""


class CredentialsRefusedError(IngestError):
    """The API, or its token endpoint, refuses the credentials, or a file that holds them can't be read."""

    exit_code = 4


class InterruptedRunError(IngestError):
    """The operator, or the machine, asked the run to stop."""

    exit_code = 130


class InternalError(IngestError):
    """A defect of ours. Carries the type and line of the original exception, never its text."""

    @classmethod
    def hiding(cls, error: BaseException) -> "InternalError":
        """Raise it `from None`: libraries quote paths and URLs in exceptions, and Prefect stores them."""
        last = error.__traceback__
        while last and last.tb_next:
            last = last.tb_next
        where = f"{last.tb_frame.f_globals.get('__name__')}:{last.tb_lineno}" if last else "unknown place"
        return cls(
            f"Unexpected {type(error).__name__} at {where}. What was stored is in the ledger: "
            "run the same command again, and report this as a defect if it comes back."
        )


class PlannedEndError(IngestError):
    """A bound that the operator set is reached: no further file starts, those under way are finished."""

    exit_code = 1

    def __init__(self, message: str, bound: Bound) -> None:
        super().__init__(message, bound)
        self.bound = bound

    def __str__(self) -> str:
        return str(self.args[0])


class NotAllStoredError(IngestError):
    """A run that wrote its report and whose exit code is not 0. `counts` are those of the flow's state."""

    exit_code = 1

    def __init__(self, message: str, counts: Mapping[str, Any]) -> None:
        super().__init__(message, counts)
        self.counts = counts

    def __str__(self) -> str:
        return str(self.args[0])


class FaultKind(StrEnum):
    """What went wrong with one request, as DESIGN.md section 7 groups it."""

    NETWORK = "network"  # connect error, time-out, reset, S3's 400 RequestTimeout
    THROTTLED = "throttled"  # 429, 503, SlowDown and its like
    SERVER = "server"  # 408, 500, 502, 504, a 409 that says "again"
    UNAUTHORIZED = "unauthorized"  # 401 on presign, with a fresh token
    FORBIDDEN = "forbidden"  # 403 on presign, with a fresh token
    PRESIGN = "presign"  # an answer without a url and a key
    SETTINGS = "settings"  # 404 and other 4xx on presign, TLS, a storage host that is not allowed
    KEY_REUSED = "key_reused"  # a key that was handed out before
    EXPIRED = "expired"  # the presigned URL's time was over
    REFUSED = "refused"  # another 403 on PUT
    REJECTED = "rejected"  # another 4xx on PUT
    INTEGRITY = "integrity"  # BadDigest, or an ETag that is another MD5
    CHANGED = "changed"  # the file changed while it was sent


REASONS: Final = {
    FaultKind.NETWORK: Reason.NETWORK,
    FaultKind.THROTTLED: Reason.THROTTLED,
    FaultKind.SERVER: Reason.SERVER,
    FaultKind.UNAUTHORIZED: Reason.AUTH,
    FaultKind.FORBIDDEN: Reason.AUTH,
    FaultKind.PRESIGN: Reason.PRESIGN,
    FaultKind.SETTINGS: Reason.PRESIGN,
    FaultKind.KEY_REUSED: Reason.PRESIGN,
    FaultKind.EXPIRED: Reason.EXPIRED,
    FaultKind.REFUSED: Reason.REFUSED,
    FaultKind.REJECTED: Reason.REFUSED,
    FaultKind.INTEGRITY: Reason.INTEGRITY,
    FaultKind.CHANGED: Reason.NONE,
}


class Fault(Exception):  # noqa: N818 - data that travels by raise, not the end of anything
    """One request that did not work. `what` is a clause for the log: no path, UID, token or URL in it.

    `detail` is what the platform calls it, in a closed form: S3's error code, or a word for the API's answer.
    `advice`: a sentence that says what to do about it, where one knows more than the kind. `is_certain`: it
    can't turn out to be none.
    """

    def __init__(
        self,
        kind: FaultKind,
        what: str,
        http_status: int | None = None,
        retry_after_s: float = 0.0,
        detail: str = "",
        advice: str = "",
        *,
        is_certain: bool = True,
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.detail = detail
        self.advice = advice
        self.is_certain = is_certain

    @property
    def reason(self) -> Reason:
        """The report's word for it."""
        return REASONS[self.kind]


class TooLargeFault(Fault):
    """413, or a time-out: half of the request may well work. Of one part alone, its kind decides."""


def ending(fault: Fault) -> IngestError:
    """The error that ends a run when no file can do better than this fault."""
    kind, advice = _ENDINGS.get(fault.kind, _ENDINGS[FaultKind.SETTINGS])
    return kind(f"Stopped: {fault}. {advice} Then run the same command again.")


_ENDINGS: Final[dict[FaultKind, tuple[type[IngestError], str]]] = {
    FaultKind.UNAUTHORIZED: (
        CredentialsRefusedError,
        "The credentials are refused: check the settings that hold them.",
    ),
    FaultKind.FORBIDDEN: (
        CredentialsRefusedError,
        "The credentials may not upload: ask for the permission, or use others.",
    ),
    FaultKind.KEY_REUSED: (
        StoppedError,
        "A cache before the API would make images overwrite each other: mend that.",
    ),
    FaultKind.PRESIGN: (
        WrongSettingsError,
        "That is no upload API, or a page before it: check --api-endpoint, and a proxy or sign-in page.",
    ),
    FaultKind.SETTINGS: (
        WrongSettingsError,
        "The settings are wrong: check --api-endpoint and --allow-storage-host.",
    ),
}
