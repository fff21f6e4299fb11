"""One object under way, and what the pipeline needs of whoever paces it."""

from collections import Counter
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.core.errors import FaultKind
from tasks.core.object_outcomes import ObjectOutcome, ObjectReason, ObjectStatus, ObjectTodo
from tasks.core.platform_state import Step
from tasks.pipeline.object_reader import ReadObject


class Pace(Protocol):
    """How many requests to one side may be under way; `tasks/upload/slots.py` has one."""

    @property
    def outage_s(self) -> float:
        """For how long the side has been down; 0 when it is not."""
        ...

    def admission(self) -> AbstractAsyncContextManager[None]:
        """Waits while the side is down."""
        ...

    def slot(self, file_id: int, step: Step | None = None) -> AbstractAsyncContextManager[None]:
        """Around a request: of this step, where it is another than most are."""
        ...

    def pausing(self, file_id: int, seconds: float) -> AbstractContextManager[None]:
        """Around a pause before it is tried again."""
        ...


@dataclass(eq=False, slots=True)
class UnderRegistration:
    """Times in nanoseconds since the epoch."""

    todo: ObjectTodo
    started_ns: int
    read: ReadObject | None = None
    attempts: int = 0  # STOW-RS requests of this run
    asks_first: bool = False  # it may be in the registry
    is_contested: bool = False  # other bytes are, as far as the ledger knows, be it in another study
    claimed: str = ""  # the SOP Instance UID
    detail: str = ""  # of the last fault
    reason: ObjectReason = ObjectReason.INTERRUPTED  # why it has failed, if it ends now
    faults: Counter[FaultKind] = field(default_factory=Counter)
    is_settled: bool = False

    def __post_init__(self) -> None:
        self.asks_first = self.todo.attempts > 0  # and it is not known what became of them

    def ends(
        self, now_ns: int, status: ObjectStatus, reason: ObjectReason = ObjectReason.NONE, detail: str = ""
    ) -> ObjectOutcome:
        """Its outcome, with all that is known of it."""
        known: dict[str, Any] = {
            "size_bytes": self.todo.size_bytes,
            "etag": self.todo.etag,
            "study_instance_uid": self.todo.study_instance_uid,
            "sop_instance_uid": self.todo.expected.sop_instance_uid,
        }
        if read := self.read:
            known = {"size_bytes": read.size_bytes, "etag": read.etag, "sha256": read.sha256}
            for name in ("sop_instance_uid", "study_instance_uid", "series_instance_uid"):
                known[name] = getattr(read.header, name)
        return ObjectOutcome(
            status=status,
            reason=reason,
            detail=detail,
            attempts=self.todo.attempts + self.attempts,
            started_ns=self.started_ns,
            finished_ns=now_ns,
            **known,
        )
