"""Objects of a bucket: how far it is listed, what is to be done, who has claimed what, what became of it.

What takes a connection writes by it, and may be executed again when its commit got lost on the way. `settle`
takes all requests that share a commit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.object_outcomes import After, Expected, ObjectTodo, keys_before_move
from tasks.core.object_standing import KnownObject, ObjectStanding, object_standing
from tasks.core.progress import Found, is_bad
from tasks.ledger.database import execute_many, fetch
from tasks.ledger.liveness import OtherRuns
from tasks.ledger.registered_instances import (
    ClosingObject,
    RegisteredInstances,
    SendingObjects,
    SettlingObject,
)
from tasks.ledger.schema import (
    OPEN,
    bucket_listing,
    bucket_object,
    file,
    instance,
    issued_key,
    other_content,
    run,
)
from tasks.ledger.statements import Scope
from tasks.remote.bucket import BucketObject

_AT_ONCE: Final = 1000  # rows read or looked up
_bind = sa.bindparam
_OUTCOME: Final = (
    *("status", "reason", "detail", "sop_instance_uid", "study_instance_uid", "size_bytes", "etag"),
    *("sha256", "attempts", "started_ns", "finished_ns", "moved_to", "tagged"),
)
_outcome_of = attrgetter(*_OUTCOME)
# In the order of ObjectTodo.
_TODO: Final = tuple(
    bucket_object.c[each.name] for each in fields(ObjectTodo) if each.name in bucket_object.c
)
_KNOWN: Final = ("object_id", "etag", "size_bytes", "status", "is_open", "seen", "moved_to", "tagged")
_ORDER: Final = (bucket_object.c.study_instance_uid, bucket_object.c.modified_ns, bucket_object.c.object_id)

# Of an object whose claim is another's by now no row is changed.
_SETTLED: Final = (
    sa.update(bucket_object)
    .where(bucket_object.c.object_id == _bind("at"), bucket_object.c.claimed_by == _bind("by"))
    .values(
        **{name: _bind(f"new_{name}") for name in _OUTCOME}, run_id=_bind("by"), is_open=False, claimed_by=""
    )
)
_REOPENING: Final = ("etag", "size_bytes", "modified_ns", "status", "seen", "moved_to")
_REOPENED: Final = (
    sa.update(bucket_object)
    .where(bucket_object.c.object_id == _bind("at"))
    .values(
        **{name: _bind(f"new_{name}") for name in _REOPENING},
        is_open=True,
    )
)
_CLOSED: Final = (
    sa.update(bucket_object)
    .where(bucket_object.c.object_id == _bind("at"))
    .values(moved_to=_bind("new_moved_to"), tagged=_bind("new_tagged"), is_open=False, claimed_by="")
)
_SENDING: Final = (
    sa.update(bucket_object)
    .where(bucket_object.c.object_id == _bind("at"), bucket_object.c.claimed_by == _bind("by"))
    .values(attempts=bucket_object.c.attempts + 1)
)


class ListingState(NamedTuple):
    """How far a listing has come, and the serial of the run that began it."""

    after_key: str
    serial: int


class Objects:
    """The objects of one bucket, as a run of one campaign sees them."""

    def __init__(
        self,
        engine: sa.Engine,
        scope: Scope,
        bucket: str,
        instances: RegisteredInstances,
        others: OtherRuns,
    ) -> None:
        self._engine = engine
        self._scope = scope
        self._others = others
        self._ours = (bucket_object.c.campaign == scope.campaign, bucket_object.c.bucket == bucket)
        self._names = {"campaign": scope.campaign, "bucket": bucket}
        self._instances = instances

    # -- what is to be done --------------------------------------------------------------------------------

    def begin_listing(self, db: sa.Connection, prefix: str) -> ListingState:
        """Goes on with a listing that was cut off, or begins one."""
        its = self._listing(prefix)
        held = db.execute(sa.select(bucket_listing).where(*its).with_for_update()).one_or_none()
        if held and not held.is_whole:
            return ListingState(held.after_key, held.serial)
        serial = self.serial(db)
        new = {"after_key": "", "is_whole": False, "serial": serial}
        if held:
            db.execute(sa.update(bucket_listing).where(*its).values(**new))
        else:
            db.execute(self._scope.insert(bucket_listing).values(**self._names, prefix=prefix, **new))
        return ListingState("", serial)

    def enrol(
        self, db: sa.Connection, prefix: str, page: Sequence[BucketObject], serial: int, after: After
    ) -> Found:
        """Adds a page of the listing, and moves its cursor."""
        enrolled = self._enrol(db, page, serial, after)
        if page:
            cursor = sa.update(bucket_listing).where(*self._listing(prefix))
            db.execute(cursor.values(after_key=page[-1].key))
        return enrolled

    def end_listing(self, db: sa.Connection, prefix: str) -> None:
        """It is whole."""
        db.execute(sa.update(bucket_listing).where(*self._listing(prefix)).values(is_whole=True))

    def enrol_named(
        self, db: sa.Connection, named: Sequence[BucketObject], after: After, *, is_afresh: bool
    ) -> Found:
        """Adds objects that somebody named. `is_afresh`: those that are registered are looked at again.

        One that was moved may be named by the key that it has by now.
        """
        serial = self.serial(db)
        if not is_afresh:
            return self._enrol(db, named, serial, after)
        moved = self._moved(db, [each.key for each in named])
        named = [replace(each, key=moved.get(each.key, each.key)) for each in named]
        its = (*self._ours, bucket_object.c.key.in_([each.key for each in named]))
        query = sa.select(bucket_object.c.object_id, bucket_object.c.sop_instance_uid).where(*its)
        self._instances.forget(db, [(row.object_id, row.sop_instance_uid) for row in db.execute(query)])
        again = {"status": "", "size_bytes": None, "etag": "", "is_open": True, "seen": serial}
        db.execute(sa.update(bucket_object).where(*its).values(**again))
        known = self._known(db, [each.key for each in named])
        new = {each.key: each for each in named if each.key not in known}
        if new:
            self._add(db, new, serial)
        size_bytes = sum(max(0, each.size_bytes) for each in named)
        return Found(len(named), len(named), size_bytes, size_bytes)

    def claim(self, db: sa.Connection, batch_no: int, most: int, prefix: str, seen: int) -> list[ObjectTodo]:
        """Claims the next objects that nobody has: study by study, as they came."""
        query = (
            sa.select(*_TODO)
            .where(*self._ours, OPEN, bucket_object.c.claimed_by == "", *self._within(prefix, seen))
            .order_by(*_ORDER)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        found = db.execute(query).all()
        ours = {"claimed_by": self._scope.run_id, "batch_no": batch_no}
        by_id = bucket_object.c.object_id.in_([row.object_id for row in found])
        db.execute(sa.update(bucket_object).where(by_id).values(**ours))
        return self._todos(db, found)

    def left(self, db: sa.Connection, batch_no: int) -> list[ObjectTodo]:
        """What is not settled of a batch."""
        its = bucket_object.c.claimed_by == self._scope.run_id, bucket_object.c.batch_no == batch_no
        query = sa.select(*_TODO).where(*self._ours, OPEN, *its)
        found = db.execute(query.order_by(*_ORDER)).all()
        return self._todos(db, found)

    def free_claims_of_dead(self, db: sa.Connection, prefix: str, seen: int) -> int:
        """Frees what dead runs have claimed; how many objects living ones have."""
        others = (bucket_object.c.claimed_by.not_in(["", self._scope.run_id]), *self._within(prefix, seen))
        query = (
            sa.select(bucket_object.c.claimed_by, sa.func.count())
            .where(*self._ours, OPEN, *others)
            .group_by(bucket_object.c.claimed_by)
        )
        living = 0
        for run_id, count in db.execute(query).all():
            if self._others.is_dead(db, run_id):
                self.free_claims(db, run_id)
            else:
                living += count
        return living

    def count_others(self, prefix: str, seen: int) -> int:
        """How many objects have no outcome and are not this run's: what another is about to claim, too.

        Those are locked, and left out of `claim`; that they are claimed shows once it has committed.
        """
        others = bucket_object.c.claimed_by != self._scope.run_id
        query = sa.select(sa.func.count()).where(*self._ours, OPEN, others, *self._within(prefix, seen))
        return int(fetch(self._engine, query)[0][0])

    def free_claims(self, db: sa.Connection, run_id: str) -> None:
        """What a run has claimed is free again."""
        its = (*self._ours, OPEN, bucket_object.c.claimed_by == run_id)
        db.execute(sa.update(bucket_object).where(*its).values(claimed_by=""))
        self._instances.free_claims(db, run_id)

    # -- what becomes of it --------------------------------------------------------------------------------

    def begin_sending(self, db: sa.Connection, requests: list[SendingObjects]) -> list[None]:
        """If the outcome of what leaves is never known, that it left is."""
        todos = [todo for request in requests for todo in request.todos]
        execute_many(db, _SENDING, [{"at": todo.object_id, "by": self._scope.run_id} for todo in todos])
        return [None] * len(requests)

    def settle(self, db: sa.Connection, requests: list[SettlingObject]) -> list[None]:
        """Keeps outcomes."""
        execute_many(db, _SETTLED, [self._settled(each) for each in requests])
        self._instances.settle(db, requests)
        return [None] * len(requests)

    def close(self, db: sa.Connection, requests: list[ClosingObject]) -> list[None]:
        """Keeps what was done with them."""
        rows = [
            {"at": todo.object_id, "new_moved_to": moved_to, "new_tagged": tagged}
            for todo, moved_to, tagged in requests
        ]
        execute_many(db, _CLOSED, rows)
        return [None] * len(requests)

    # -- the report ----------------------------------------------------------------------------------------

    def rows(self) -> "Iterator[sa.Row[Any]]":
        """Every object that the campaign knows of this bucket, in the order in which they were first seen."""
        query = sa.select(bucket_object).where(*self._ours).order_by(bucket_object.c.object_id)
        after = 0
        while page := fetch(self._engine, query.where(bucket_object.c.object_id > after).limit(_AT_ONCE)):
            yield from page
            after = page[-1].object_id

    # -- parts ---------------------------------------------------------------------------------------------

    def _todos(self, db: sa.Connection, found: "Sequence[sa.Row[Any]]") -> list[ObjectTodo]:
        expected = self._expected(db, [row.key for row in found])
        return [replace(ObjectTodo(*row), expected=expected.get(row.key, Expected())) for row in found]

    def _enrol(self, db: sa.Connection, page: Sequence[BucketObject], serial: int, after: After) -> Found:
        known = self._known(db, [each.key for each in page])
        reopened, new, settled_bytes, again = [], {}, 0, {}
        for each in page:
            its = known.get(each.key)
            if its is None:
                new[each.key] = each
                continue
            if is_bad(its.status):
                again[its.object_id] = its.status
            standing = object_standing(its, each.etag, each.size_bytes, serial, after)
            if standing is ObjectStanding.SETTLED:
                settled_bytes += max(0, each.size_bytes)
            else:
                reopened.append(_reopened(its, each, serial, standing))
        if reopened:
            execute_many(db, _REOPENED, reopened)
        if new:
            self._add(db, new, serial)
        size_bytes = sum(max(0, each.size_bytes) for each in page)  # negative: an event did not say it
        to_do = len(reopened) + len(new)
        return Found(len(page), to_do, size_bytes, size_bytes - settled_bytes, again=again)

    def _moved(self, db: sa.Connection, keys: Sequence[str]) -> dict[str, str]:
        """Of those keys to which an object was moved, the key that it came under."""
        wanted = {before for key in keys for before in keys_before_move(key)}
        if not wanted:
            return {}
        columns = bucket_object.c.key, bucket_object.c.moved_to
        query = sa.select(*columns).where(*self._ours, bucket_object.c.key.in_(wanted))
        return {moved_to: key for key, moved_to in db.execute(query) if moved_to}

    def _known(self, db: sa.Connection, keys: Sequence[str]) -> dict[str, KnownObject]:
        columns = (bucket_object.c[name] for name in _KNOWN)
        query = sa.select(bucket_object.c.key, *columns).where(*self._ours, bucket_object.c.key.in_(keys))
        return {key: KnownObject(*rest) for key, *rest in db.execute(query)}

    def _add(self, db: sa.Connection, new: dict[str, BucketObject], serial: int) -> None:
        hints = self._hints(db, list(new))
        rows = [
            {
                **self._names,
                "key": each.key,
                "etag": each.etag,
                "size_bytes": each.size_bytes if each.size_bytes >= 0 else None,
                "modified_ns": each.modified_ns,
                "sop_instance_uid": hints.get(each.key, ("", ""))[0],
                "study_instance_uid": hints.get(each.key, ("", ""))[1],
                "is_open": True,
                "seen": serial,
            }
            for each in sorted(new.values(), key=lambda each: each.key)  # two runs can't deadlock
        ]
        execute_many(db, self._scope.insert(bucket_object), rows)

    def _hints(self, db: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """SOP and Study Instance UID of what was uploaded under these keys, where the ledger knows it."""
        query = (
            sa.select(issued_key.c.key, issued_key.c.sop_instance_uid, file.c.study_instance_uid)
            .join(file, file.c.file_id == issued_key.c.file_id)
            .where(issued_key.c.campaign == self._scope.campaign, issued_key.c.key.in_(keys))
        )
        return {key: (uid, study) for key, uid, study in db.execute(query)}

    def _expected(self, db: sa.Connection, keys: Sequence[str]) -> dict[str, Expected]:
        """What was uploaded under these keys: its UID, and where the object is an instance's its SHA-256."""
        found: dict[str, Expected] = {}
        of_keys = issued_key.c.campaign == self._scope.campaign, issued_key.c.key.in_(keys)
        for key, uid in db.execute(
            sa.select(issued_key.c.key, issued_key.c.sop_instance_uid).where(*of_keys)
        ):
            found[key] = Expected(uid)
        for table in (instance, other_content):
            stored = (
                sa.select(issued_key.c.key, issued_key.c.sop_instance_uid, table.c.sha256)
                .join(
                    table,
                    (table.c.campaign == issued_key.c.campaign)
                    & (table.c.sop_instance_uid == issued_key.c.sop_instance_uid)
                    & (table.c.key == issued_key.c.key),
                )
                .where(*of_keys)
            )
            for key, uid, sha256 in db.execute(stored):
                found[key] = Expected(uid, sha256)
        return found

    def _listing(self, prefix: str) -> "tuple[sa.ColumnElement[bool], ...]":
        names = self._names | {"prefix": prefix}
        return tuple(bucket_listing.c[name] == value for name, value in names.items())

    def _within(self, prefix: str, seen: int) -> "tuple[sa.ColumnElement[bool], ...]":
        """Of the objects under a prefix, those that a listing of this serial, or a later one, had to do."""
        key, its = bucket_object.c.key, bucket_object.c.seen >= seen
        return (its, sa.func.substr(key, 1, len(prefix)) == prefix) if prefix else (its,)

    def serial(self, db: sa.Connection) -> int:
        """That of this run: it grows with each run that begins."""
        return int(db.scalar(sa.select(run.c.serial).where(run.c.run_id == self._scope.run_id)) or 0)

    def _settled(self, request: SettlingObject) -> dict[str, Any]:
        values = zip((f"new_{name}" for name in _OUTCOME), _outcome_of(request.outcome), strict=True)
        return dict(values, at=request.todo.object_id, by=self._scope.run_id)


def _reopened(its: KnownObject, each: BucketObject, serial: int, standing: ObjectStanding) -> dict[str, Any]:
    """What is registered keeps its status, if it is to be moved or tagged alone."""
    is_same = standing is ObjectStanding.AFTERWARDS
    return {
        "at": its.object_id,
        "new_etag": each.etag,
        "new_size_bytes": each.size_bytes if each.size_bytes >= 0 else None,
        "new_modified_ns": each.modified_ns,
        "new_status": its.status if is_same else "",
        "new_moved_to": its.moved_to if is_same else "",
        "new_seen": serial,
    }
