"""The claim on a SOP Instance UID in a registry: which object is stored under it, and what is registered.

What takes a connection writes by it, and may be executed again when its commit got lost on the way. `claim`
and `settle` take all requests that share a commit.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from tasks.core.object_outcomes import DONE, InstanceClaim, ObjectOutcome, ObjectTodo
from tasks.ledger.database import execute_many
from tasks.ledger.liveness import OtherRuns
from tasks.ledger.schema import UNSTORED, registered_instance
from tasks.ledger.statements import Scope

_bind = sa.bindparam
_OF_INSTANCE: Final = (
    registered_instance.c.campaign == _bind("in_campaign"),
    registered_instance.c.registry == _bind("at_registry"),
    registered_instance.c.sop_instance_uid == _bind("uid"),
)
_REGISTERED: Final = (
    sa.update(registered_instance)
    .where(*_OF_INSTANCE)
    .values(
        study_instance_uid=_bind("study"),
        series_instance_uid=_bind("series"),
        sha256=_bind("new_sha256"),
        key=_bind("new_key"),
        object_id=_bind("at"),
        run_id=_bind("by"),
        registered_ns=_bind("now_ns"),
    )
)
_UNCLAIMED: Final = sa.delete(registered_instance).where(
    *_OF_INSTANCE,
    sa.func.length(registered_instance.c.key) == 0,
    registered_instance.c.run_id == _bind("by"),
    registered_instance.c.object_id == _bind("at"),
)


class ClaimingInstance(NamedTuple):
    """An object asks for the SOP Instance UID that it holds."""

    todo: ObjectTodo
    sop_instance_uid: str


class SettlingObject(NamedTuple):
    """An object has its outcome; with `claimed`, the SOP Instance UID that was claimed for it."""

    todo: ObjectTodo
    outcome: ObjectOutcome
    claimed: str = ""


class SendingObjects(NamedTuple):
    """A STOW-RS request with these is about to leave."""

    todos: Sequence[ObjectTodo]


class ClosingObject(NamedTuple):
    """What was done with an object that has its outcome: nothing more is to be."""

    todo: ObjectTodo
    moved_to: str  # where it is by now; empty: it stayed where it was
    tagged: str


ObjectRequest: TypeAlias = ClaimingInstance | SendingObjects | SettlingObject | ClosingObject


class RegisteredInstances:
    """What one campaign has registered in one registry."""

    def __init__(self, scope: Scope, registry: str, others: OtherRuns) -> None:
        """`registry`: host:port/path of the DICOMweb server."""
        self._scope = scope
        self._registry = registry
        self._others = others
        table = registered_instance
        self._ours = (table.c.campaign == scope.campaign, table.c.registry == registry)

    def claim(self, db: sa.Connection, requests: list[ClaimingInstance]) -> list[InstanceClaim]:
        """The first claim wins; that of a dead run passes to who asks."""
        rows = [self._claim_values(each) for each in sorted(requests, key=lambda each: each.sop_instance_uid)]
        execute_many(db, self._scope.insert(registered_instance), rows)  # sorted: two runs can't deadlock
        uids = registered_instance.c.sop_instance_uid.in_([each.sop_instance_uid for each in requests])
        found = db.execute(sa.select(registered_instance).where(*self._ours, uids))
        held = {row.sop_instance_uid: row for row in found}
        return [self._claim_one(db, each, held[each.sop_instance_uid]) for each in requests]

    def settle(self, db: sa.Connection, requests: Sequence[SettlingObject]) -> None:
        """Keeps what is registered under its claim, and frees the claims of what is not."""
        claimed = [each for each in requests if each.claimed]
        registered = [self._registered(each) for each in claimed if each.outcome.status in DONE]
        unclaimed = [self._instance(each) for each in claimed if each.outcome.status not in DONE]
        for statement, rows in ((_REGISTERED, registered), (_UNCLAIMED, unclaimed)):
            if rows:
                execute_many(db, statement, rows)

    def forget(self, db: sa.Connection, objects: Sequence[tuple[int, str]]) -> None:
        """What these objects, each with its SOP Instance UID, are registered as counts for nothing."""
        table = registered_instance
        uids = table.c.sop_instance_uid.in_([uid for _, uid in objects])
        ids = table.c.object_id.in_([object_id for object_id, _ in objects])
        db.execute(sa.delete(table).where(*self._ours, uids, ids))

    def free_claims(self, db: sa.Connection, run_id: str) -> None:
        """What a run has claimed and not registered is free again."""
        its = registered_instance.c.run_id == run_id, UNSTORED
        db.execute(sa.delete(registered_instance).where(*self._ours, *its))

    def _claim_values(self, request: ClaimingInstance) -> dict[str, Any]:
        return {
            "campaign": self._scope.campaign,
            "registry": self._registry,
            "sop_instance_uid": request.sop_instance_uid,
            "object_id": request.todo.object_id,
            "run_id": self._scope.run_id,
        }

    def _claim_one(self, db: sa.Connection, request: ClaimingInstance, held: "sa.Row[Any]") -> InstanceClaim:
        if held.key:
            return InstanceClaim(mine=False, registered_sha256=held.sha256)
        is_ours = held.run_id == self._scope.run_id
        if is_ours or not self._others.is_dead(db, held.run_id):
            return InstanceClaim(mine=is_ours and held.object_id == request.todo.object_id)
        its = registered_instance.c.sop_instance_uid == request.sop_instance_uid
        as_seen = registered_instance.c.run_id == held.run_id, registered_instance.c.key == ""
        ours = {"object_id": request.todo.object_id, "run_id": self._scope.run_id}
        taken = db.execute(sa.update(registered_instance).where(*self._ours, its, *as_seen).values(**ours))
        return InstanceClaim(mine=taken.rowcount == 1)

    def _instance(self, request: SettlingObject) -> dict[str, Any]:
        of_object = {"at": request.todo.object_id, "by": self._scope.run_id, "uid": request.claimed}
        of_registry = {"in_campaign": self._scope.campaign, "at_registry": self._registry}
        return of_registry | of_object

    def _registered(self, request: SettlingObject) -> dict[str, Any]:
        outcome = request.outcome
        return self._instance(request) | {
            "study": outcome.study_instance_uid,
            "series": outcome.series_instance_uid,
            "new_sha256": outcome.sha256,
            "new_key": request.todo.key,
            "now_ns": outcome.finished_ns,
        }
