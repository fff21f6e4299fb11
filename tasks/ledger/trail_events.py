"""What the audit trail learns from the ledger: every key that is issued, stored under, refused or superseded.

The lines are on the disk before the ledger commits what they say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from tasks.core.audit_chain import Event
from tasks.core.models import Outcome, Reason, Status, Todo
from tasks.ledger.statements import KEYS_OF


class AuditTrail(Protocol):
    """Where events are written down; `tasks/audit/log.py` has one."""

    @property
    def path(self) -> Path:
        """The file, which this process has locked."""
        ...

    def record(self, event: Event, **facts: Any) -> None:
        """One line more, on the disk with the next flush."""
        ...

    def flush(self) -> None:
        """Returns when every line is on the disk."""
        ...


class IssuedKey(NamedTuple):
    """A key, its file, and the SOP Instance UID of what is to be sent there."""

    todo: Todo
    key: str
    sop_instance_uid: str


class _Current(NamedTuple):
    """A file and the key, if any, that is not superseded."""

    todo: Todo
    key: str


class PendingEvents:
    """Writes events, those of a transaction when it is about to be committed; nothing without a trail."""

    def __init__(self, trail: AuditTrail | None) -> None:
        self._recorder = trail
        self._events: list[tuple[Event, dict[str, Any]]] = []  # of the transaction that is under way

    def begin(self) -> None:
        """A transaction begins; what one said that was taken back is forgotten."""
        self._events.clear()

    def flush(self) -> None:
        """Returns when every line is on the disk, those of this transaction after all others."""
        events, self._events = self._events, []
        if self._recorder is not None:
            for event, facts in events:
                self._recorder.record(event, **facts)
            self._recorder.flush()

    def add(self, event: Event, **facts: Any) -> None:
        """Of the transaction that is under way."""
        self._events.append((event, facts))


class TrailEvents(PendingEvents):
    """The events of one campaign's files."""

    def __init__(self, trail: AuditTrail, campaign: str) -> None:
        super().__init__(trail)
        self._trail = trail
        self._campaign = campaign

    def record_issued(self, db: sa.Connection, keys: Sequence[IssuedKey]) -> None:
        """Keys to which files will be sent, and those that they supersede."""
        self._record_superseded(db, {todo.file_id: _Current(todo, key) for todo, key, _ in keys})
        for todo, key, uid in keys:
            self._file(Event.KEY_ISSUED, todo, key=key, sop_instance_uid=uid)

    def record_unused(self, key: str) -> None:
        """A key to which nothing will be sent."""
        self.add(Event.KEY_UNUSED, key=key)

    def record_storage_host(self, storage_host: str) -> None:
        """A host that files go to from here on."""
        self._trail.record(Event.STORAGE_HOST, storage_host=storage_host)

    def record_settled(self, db: sa.Connection, outcomes: Sequence[tuple[Todo, Outcome]]) -> None:
        """Outcomes: what was stored, and what was tried, or given up, without that."""
        superseding = {}
        for todo, outcome in outcomes:
            if outcome.status is Status.UPLOADED and outcome.header and outcome.digests:
                uid, sha256 = outcome.header.sop_instance_uid, outcome.digests.sha256
                self._file(Event.STORED, todo, key=outcome.key, sop_instance_uid=uid, sha256=sha256)
                if outcome.reason is Reason.REPLACED:  # until now the earlier object was the instance's
                    superseding[todo.file_id] = _Current(todo, outcome.key)
            elif outcome.attempts or outcome.status is Status.FAILED:
                superseding[todo.file_id] = _Current(todo, "")
                self._file(
                    Event.REFUSED,
                    todo,
                    status=outcome.status,
                    reason=outcome.reason,
                    http_status=outcome.http_status,
                )
        self._record_superseded(db, superseding)

    def _record_superseded(self, db: sa.Connection, files: Mapping[int, _Current]) -> None:
        """Every key of these files, by file_id, but the current one of each, and of each instance."""
        if not files:
            return
        for file_id, key in db.execute(KEYS_OF, {"in_campaign": self._campaign, "files": list(files)}):
            todo, current = files[file_id]
            if key != current:
                self._file(Event.SUPERSEDED, todo, key=key)

    def _file(self, event: Event, todo: Todo, **facts: Any) -> None:
        self.add(event, study_no=todo.study_no, file_no=todo.file_no, **facts)
