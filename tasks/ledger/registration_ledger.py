"""The ledger as a run of `ingest` sees it: one campaign, one bucket, one registry.

    objects.py               objects: listed, claimed, settled
    registered_instances.py  what is registered, and which object may be
    group_commit.py          the thread through which all of it is written

Whoever writes waits until that is durable; what becomes of an object is on the audit trail before.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from tasks.core.audit_chain import Event
from tasks.core.errors import IngestError, StoppedError
from tasks.core.models import RunFacts, Target
from tasks.core.object_outcomes import DONE, After, ObjectTodo
from tasks.core.progress import Found
from tasks.core.registration_rows import REGISTRATION_CSV
from tasks.ledger.database import connect, patience_s, prepare, wait_for_locks
from tasks.ledger.group_commit import Reply, Request, Writer
from tasks.ledger.liveness import OtherRuns, awake_or_asleep, heartbeat_s, kept_lock
from tasks.ledger.objects import ListingState, Objects
from tasks.ledger.registered_instances import (
    ClaimingInstance,
    ClosingObject,
    ObjectRequest,
    RegisteredInstances,
    SendingObjects,
    SettlingObject,
)
from tasks.ledger.registered_studies import RegisteredStudies
from tasks.ledger.runs import SILENT, Runs
from tasks.ledger.statements import Scope
from tasks.ledger.trail_events import AuditTrail, PendingEvents
from tasks.remote.bucket import BucketObject

_NO_TARGET: Final = Target()
_T = TypeVar("_T")


class Endpoints(NamedTuple):
    """Which objects, and where they are registered."""

    bucket: str
    prefix: str
    registry: str  # host:port/path


class RegistrationLedger:
    """Thread-safe. A run that counts as dead may neither claim nor settle anything."""

    def __init__(
        self,
        url: str | Path,
        campaign: str,
        run_id: str,
        endpoints: Endpoints,
        dead_after_s: float,
        trail: AuditTrail | None = None,
        counters: Callable[[], dict[str, int]] = dict,
        clock: Callable[[], float] = awake_or_asleep,
    ) -> None:
        """Opens or creates the database; see `tasks/ledger/ledger.py`."""
        self.run_id = run_id
        self._endpoints = endpoints
        self._engine = connect(url)
        wait_for_locks(self._engine, heartbeat_s(dead_after_s))
        try:
            prepare(self._engine)
        except IngestError:
            self._engine.dispose()
            raise
        scope = self._scope = Scope(self._engine.dialect.name, campaign, run_id, dead_after_s)
        locked = kept_lock(trail.path) if trail else ""
        self._events = PendingEvents(trail)
        self._runs = Runs(self._engine, scope, counters, locked=locked)
        others = OtherRuns(scope, clock, locked)
        self._instances = RegisteredInstances(scope, endpoints.registry, others)
        self._objects = Objects(self._engine, scope, endpoints.bucket, self._instances, others)
        self._writer = Writer(
            self._engine,
            self._runs.beat,
            heartbeat_s(dead_after_s),
            at_begin=self._events.begin,
            before_commit=self._events.flush,
            clock=clock,
            patience_s=patience_s(dead_after_s),
        )

    def close(self) -> None:
        """Commits what waits, and lets the database go."""
        self._writer.close()
        self._engine.dispose()

    def studies(self, quiet_after_s: float, clock_ns: Callable[[], int]) -> RegisteredStudies:
        """Which of the registry's studies have arrived."""
        return RegisteredStudies(self._engine, self._scope, self._endpoints.registry, quiet_after_s, clock_ns)

    def begin(self, started_ns: int, report_dir: Path) -> None:
        """The run is known from here on, by the report that it is about to write."""
        report = report_dir / REGISTRATION_CSV
        self._writer.write(lambda db: self._runs.begin(db, started_ns, report, (), {}, _NO_TARGET))
        self._runs.at_work_since_ns = started_ns

    def end(self, facts: RunFacts) -> None:
        """The run is over: what it still claims is free again."""

        def end(db: sa.Connection) -> None:
            self._objects.free_claims(db, self.run_id)
            self._runs.end(db, facts)

        self._writer.write(end)
        self._runs.at_work_since_ns = None

    # -- what is to be done --------------------------------------------------------------------------------

    def begin_listing(self) -> ListingState:
        """Goes on with a listing that was cut off, or begins one."""
        return self._write_alive(lambda db: self._objects.begin_listing(db, self._endpoints.prefix))

    def enrol(self, page: Sequence[BucketObject], serial: int, after: After) -> Found:
        """Adds a page of the listing; with it, its cursor is durable."""
        prefix = self._endpoints.prefix
        return self._write_alive(lambda db: self._objects.enrol(db, prefix, page, serial, after))

    def end_listing(self) -> None:
        """The listing is whole: the next one begins anew."""
        self._write_alive(lambda db: self._objects.end_listing(db, self._endpoints.prefix))

    def enrol_named(self, named: Sequence[BucketObject], after: After, *, is_afresh: bool = False) -> Found:
        """Adds objects that somebody named. `is_afresh`: those that are registered are looked at again.

        Their size is negative where it is not known.
        """
        return self._write_alive(lambda db: self._objects.enrol_named(db, named, after, is_afresh=is_afresh))

    def serial(self) -> int:
        """The run's own: what it names itself was seen then."""
        return self._write_alive(self._objects.serial)

    def claim(self, batch_no: int, most: int, seen: int = 0) -> list[ObjectTodo]:
        """Claims the next objects that nobody has, `seen` by a listing of this serial or a later one."""
        where = batch_no, most, self._endpoints.prefix, seen
        return self._write_alive(lambda db: self._objects.claim(db, *where))

    def left(self, batch_no: int) -> list[ObjectTodo]:
        """What is not settled of a batch."""
        return self._write_alive(lambda db: self._objects.left(db, batch_no))

    def count_others(self, seen: int = 0) -> int:
        """How many objects have no outcome and are not this run's."""
        return self._objects.count_others(self._endpoints.prefix, seen)

    def free_claims_of_dead(self, seen: int = 0) -> int:
        """Frees what dead runs have claimed; how many objects living ones have."""
        prefix = self._endpoints.prefix
        return self._write_alive(lambda db: self._objects.free_claims_of_dead(db, prefix, seen))

    # -- what becomes of it --------------------------------------------------------------------------------

    def post(self, request: ObjectRequest, reply: Reply) -> None:
        """Returns at once; the writer's thread calls `reply`, once it is durable, or with an exception.

        To a claim the answer is an InstanceClaim, to others None. Only with its outcome durable an object
        counts as done.
        """
        self._writer.post(self._handled(request), reply)

    # -- the report ----------------------------------------------------------------------------------------

    def rows(self) -> "Iterator[sa.Row[Any]]":
        """Every object that the campaign knows of this bucket, in the order in which they were first seen."""
        return self._objects.rows()

    def _handled(self, request: ObjectRequest) -> Request:
        match request:
            case ClaimingInstance():
                return self._claim_instances, request
            case SendingObjects():
                return self._begin_sending, request
            case SettlingObject():
                return self._settle, request
            case ClosingObject():
                return self._close, request

    def _claim_instances(self, db: sa.Connection, requests: list[ClaimingInstance]) -> list[Any]:
        return self._refusals(len(requests)) or self._instances.claim(db, requests)

    def _begin_sending(self, db: sa.Connection, requests: list[SendingObjects]) -> list[Any]:
        return self._refusals(len(requests)) or self._objects.begin_sending(db, requests)

    def _settle(self, db: sa.Connection, requests: list[SettlingObject]) -> list[Any]:
        if refusals := self._refusals(len(requests)):
            return refusals
        for todo, outcome, _ in requests:
            is_done = outcome.status in DONE
            self._events.add(
                Event.REGISTERED if is_done else Event.NOT_REGISTERED,
                key=todo.key,
                status=outcome.status,
                reason=outcome.reason,
                sop_instance_uid=outcome.sop_instance_uid,
                sha256=outcome.sha256,
            )
        return self._objects.settle(db, requests)

    def _close(self, db: sa.Connection, requests: list[ClosingObject]) -> list[Any]:
        if refusals := self._refusals(len(requests)):
            return refusals
        for todo, moved_to, _ in requests:
            if moved_to:
                self._events.add(Event.MOVED, key=todo.key, moved_to=moved_to)
        return self._objects.close(db, requests)

    def _write_alive(self, work: Callable[[sa.Connection], _T]) -> _T:
        def works(db: sa.Connection, items: list[None]) -> list[Any]:
            return self._refusals(len(items)) or [work(db) for _ in items]

        answer: _T = self._writer.submit(works, None)
        return answer

    def _refusals(self, count: int) -> list[StoppedError]:
        """One for each request of a run that counts as dead; else none."""
        return [StoppedError(SILENT) for _ in range(count)] if self._runs.counts_as_dead else []
