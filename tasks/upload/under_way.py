"""One file under way: what has happened to it so far, and what of that its outcome says."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tasks.core.claim_order import Position
from tasks.core.errors import FaultKind
from tasks.core.models import Outcome, Reason, Rejected, Status, Todo
from tasks.remote.upload_api import PresignedUrl
from tasks.source.file_content import Content

_OF_CONTENT: Final = ("header", "digests", "size_bytes", "mtime_ns", "ctime_ns")


@dataclass(slots=True)
class UnderWay:
    """Times in nanoseconds since the epoch."""

    todo: Todo
    position: Position  # in the order of claims
    started_ns: int
    place: int = 0  # in the order in which files are sent
    content: Content | None = None
    read_ns: int | None = None  # when that was begun to be read
    url: PresignedUrl | None = None
    attempts: int = 0  # PUTs
    http_status: int | None = None
    reason: Reason = Reason.INTERRUPTED  # why it ends, if it has to end now
    detail: str = ""  # of the last fault, as the next
    last_reason: Reason = Reason.INTERRUPTED
    claimed: set[str] = field(default_factory=set)  # SOP Instance UIDs
    faults: Counter[FaultKind] = field(default_factory=Counter)
    is_settled: bool = False
    has_begun: bool = False  # it is one of those that the run may send
    is_inside: bool = False  # between asking for a URL and the end of its PUT

    def ends(self, now_ns: int, status: Status, reason: Reason = Reason.NONE, **more: Any) -> Outcome:
        """Its outcome; `more`: the fields of a stored one."""
        known = {name: getattr(self.content, name) for name in _OF_CONTENT} if self.content else {}
        known |= {"read_ns": self.read_ns, "attempts": self.attempts, "http_status": self.http_status}
        known |= {"detail": self.detail} if status is Status.FAILED else {}
        return Outcome(status, reason, started_ns=self.started_ns, finished_ns=now_ns, **(known | more))

    def ends_rejected(self, now_ns: int, rejected: Rejected) -> Outcome:
        """The outcome of one that is not to be sent, whatever was known of it before."""
        return Outcome(
            rejected.status,
            rejected.reason,
            header=rejected.header,
            size_bytes=rejected.size_bytes,
            mtime_ns=rejected.mtime_ns,
            ctime_ns=rejected.ctime_ns,
            attempts=self.attempts,
            started_ns=self.started_ns,
            finished_ns=now_ns,
            detail=rejected.detail,
        )
