"""The statements that read and write the ledger for many rows at once, each compiled once.

Bound names differ from the columns they set: SQLAlchemy keeps the columns' own names for itself.
`new_<column>` is what a column is set to.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import Digests, Header, Outcome, Status
from tasks.ledger.schema import (
    PATH_SHA256,
    file,
    instance,
    issued_key,
    listing,
    other_content,
    run,
    stored_file,
)

NO_FILE: Final = 0  # in place of a file_id: of a key to which nothing is sent

_bind = sa.bindparam

HEADER: Final = tuple(field.name for field in fields(Header))
DIGESTS: Final = tuple(field.name for field in fields(Digests))
OUTCOME: Final = tuple(field.name for field in fields(Outcome) if field.name not in ("header", "digests"))

# What is known of a file once it is read; of its way to the store, which the stored instance knows, too; and
# the rest of an outcome, which nobody else knows and each look at the file makes anew.
_READ: Final = ("size_bytes", "mtime_ns", "ctime_ns", "read_ns", *HEADER, *DIGESTS)
_SENT: Final = tuple(name for name in OUTCOME if name in instance.c)
_VERDICT: Final = tuple(name for name in OUTCOME if name not in {*_READ, *_SENT})


def _new(*names: str) -> dict[str, Any]:
    return {name: _bind(f"new_{name}") for name in names}


# Of a file that an earlier version looked at, and that is passed over now.
CTIME: Final = sa.update(file).where(file.c.file_id == _bind("at")).values(**_new("ctime_ns"))

LOOKED_AT: Final = (
    sa.update(file)
    .where(file.c.file_id == _bind("at"))
    .values(**_new(*_READ, *_SENT, *_VERDICT), run_id=_bind("by"))
)


def _first_known(md5: "sa.ColumnElement[str]", other: "sa.ColumnElement[str]") -> "sa.ColumnElement[str]":
    """A look that sends nothing computes no MD5: what is known of the same bytes stays."""
    return sa.case((md5 != "", md5), else_=other)


_md5_before = sa.case((file.c.sha256 == _bind("new_sha256"), file.c.md5), else_="")
# Looked at, and found to be what is stored: the row says that it is, and the storing run's facts, again.
KEPT: Final = (
    sa.update(file)
    .where(file.c.file_id == _bind("at"))
    .values(**_new(*_READ) | {"md5": _first_known(_bind("new_md5"), _md5_before)})
)


def _kept_key(table: sa.Table) -> sa.Update:
    return (
        sa.update(file)
        .where(
            file.c.file_id == _bind("at"),
            table.c.file_id == file.c.file_id,
            table.c.campaign == file.c.campaign,
            table.c.sop_instance_uid == _bind("uid"),
            table.c.sha256 == _bind("new_sha256"),
            table.c.key != "",
        )
        .values(
            **dict.fromkeys(_VERDICT, "") | {"status": Status.UPLOADED},
            **{name: table.c[name] for name in (*_SENT, "run_id")},
            md5=_first_known(table.c.md5, file.c.md5),
        )
    )


KEPT_KEY: Final = _kept_key(instance)
KEPT_CONTENT_KEY: Final = _kept_key(other_content)
# Settled by the scan: what is known of the file otherwise stays.
UNOPENED: Final = (
    sa.update(file)
    .where(file.c.file_id == _bind("at"))
    .values(
        **dict.fromkeys(_VERDICT, "") | _new("status", "reason", "detail"),
        key="",
        run_id=_bind("by"),
        last_status=sa.case(
            (sa.literal_column("0") == _bind("is_file"), ""),
            (file.c.status == "", Status.NOT_ATTEMPTED),
            (file.c.status == Status.MISSING, file.c.last_status),
            else_=file.c.status,
        ),
    )
)
# A look is about to find otherwise what was stored: what it was is kept, for this and every later run.
_is_stored = sa.text("file.status IN ('uploaded', 'duplicate')")
_KEPT_ASIDE: Final = tuple(column.name for column in stored_file.c)
_stored_now = sa.select(*(file.c[name] for name in _KEPT_ASIDE)).where(
    file.c.file_id == _bind("at"), _is_stored
)
FORGET_ASIDE: Final = sa.delete(stored_file).where(
    stored_file.c.file_id == _bind("at"), sa.exists(_stored_now.with_only_columns(file.c.file_id))
)
SET_ASIDE: Final = sa.insert(stored_file).from_select(_KEPT_ASIDE, _stored_now)

_its_stored_file = (file.c.file_id == _bind("at"), stored_file.c.file_id == file.c.file_id)
_duplicated_key = (
    sa.select(instance.c.key)
    .where(
        instance.c.campaign == file.c.campaign,
        instance.c.sop_instance_uid == stored_file.c.sop_instance_uid,
        instance.c.sha256 == stored_file.c.sha256,
    )
    .correlate(file, stored_file)
    .scalar_subquery()
)
# Looked at, and damaged or unreadable: its row has key and UIDs of what is stored.
NAME_STORED: Final = (
    sa.update(file)
    .where(*_its_stored_file)
    .values(
        **{name: stored_file.c[name] for name in (*HEADER, *DIGESTS, "etag")},
        key=sa.case(
            (stored_file.c.status == sa.literal_column(f"'{Status.UPLOADED}'"), stored_file.c.key),
            else_=sa.func.coalesce(_duplicated_key, ""),
        ),
    )
)
# Looked at, and again what was stored beside the instance of another file: no instance says what run did.
KEPT_BESIDE: Final = (
    sa.update(file)
    .where(
        *_its_stored_file,
        file.c.status != sa.literal_column(f"'{Status.UPLOADED}'"),
        stored_file.c.status == sa.literal_column(f"'{Status.UPLOADED}'"),
        stored_file.c.sha256 == _bind("new_sha256"),
    )
    .values(
        **dict.fromkeys(_VERDICT, "") | {"status": Status.UPLOADED},
        **{name: stored_file.c[name] for name in (*_SENT, "run_id")},
        md5=_first_known(stored_file.c.md5, file.c.md5),
    )
)
SETTLED: Final = (
    sa.update(listing)
    .where(
        listing.c.run_id == _bind("by"),
        listing.c.study_no == _bind("study_no_is"),
        listing.c.file_no == _bind("file_no_is"),
    )
    .values(settled=True, said=_bind("new_said"))
)


def _files_own(table: sa.Table) -> "tuple[sa.ColumnElement[bool], ...]":
    """What a file has claimed, or stored, under a SOP Instance UID."""
    return (
        table.c.campaign == _bind("in_campaign"),
        table.c.sop_instance_uid == _bind("uid"),
        table.c.file_id == _bind("at"),
    )


def _unclaim(table: sa.Table) -> sa.Delete:
    # Not `key = ''`: PostgreSQL would take the index of all that this run claims, and of what it has claimed.
    has_no_key = sa.func.length(table.c.key) == 0
    return sa.delete(table).where(*_files_own(table), has_no_key, table.c.run_id == _bind("by"))


# Each counts no row when the claim is another's by now. What is stored is this path's to replace.
STORED: Final = (
    sa.update(instance)
    .where(*_files_own(instance), (instance.c.run_id == _bind("by")) | (instance.c.key != ""))
    .values(**_new(*DIGESTS, *_SENT), run_id=_bind("by"))
)
STORED_CONTENT: Final = (
    sa.update(other_content)
    .where(
        *_files_own(other_content),
        other_content.c.sha256 == _bind("new_sha256"),
        other_content.c.run_id == _bind("by"),
    )
    .values(**_new("md5", "crc64nvme", *_SENT))
)
# What the path had under this UID before.
FORGET_CONTENT: Final = sa.delete(other_content).where(
    *_files_own(other_content), other_content.c.sha256 != _bind("new_sha256")
)
UNCLAIM: Final = _unclaim(instance)
UNCLAIM_CONTENT: Final = _unclaim(other_content)

ISSUED: Final = sa.select(
    issued_key.c.file_id, issued_key.c.key, issued_key.c.issued_ns, issued_key.c.sop_instance_uid
).where(
    issued_key.c.campaign == _bind("in_campaign"),
    issued_key.c.run_id == _bind("in_run"),
    issued_key.c.key.in_(_bind("keys", expanding=True)),
)
# Whether a key is the current object of its instance, whatever became of the file that stored it.
IS_CURRENT: Final = sa.or_(
    *(
        sa.exists(stored.c.key)
        .where(
            stored.c.campaign == issued_key.c.campaign,
            stored.c.sop_instance_uid == issued_key.c.sop_instance_uid,
            stored.c.key == issued_key.c.key,
        )
        .correlate(issued_key)
        for stored in (instance, other_content)
    )
)
KEYS_OF: Final = sa.select(issued_key.c.file_id, issued_key.c.key).where(
    issued_key.c.campaign == _bind("in_campaign"),
    issued_key.c.file_id.in_(_bind("files", expanding=True)),
    ~IS_CURRENT,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """A run's part of the ledger: its rows in its campaign. It knows what SQL the database speaks."""

    dialect: str
    campaign: str
    run_id: str
    dead_after_s: float

    @property
    def now_s(self) -> "sa.ColumnElement[int]":
        """The database's clock: one for all machines."""
        is_sqlite = self.dialect == "sqlite"
        now = sa.func.strftime("%s", "now") if is_sqlite else sa.extract("epoch", sa.func.now())
        return sa.cast(now, sa.BigInteger)

    @property
    def is_alive(self) -> "sa.ColumnElement[bool]":
        """Whether a row of `run` had a sign of life no longer ago than `dead_after_s`."""
        return run.c.heartbeat_s > self.now_s - math.ceil(self.dead_after_s)

    def named(self, paths: Sequence[str]) -> dict[str, Any]:
        """What `known_select` is bound to for these paths."""
        bound: dict[str, Any] = {"in_campaign": self.campaign, "paths": paths}
        if self.dialect == "postgresql":
            bound["digests"] = [hashlib.sha256(path.encode()).digest() for path in paths]
        return bound

    def insert(self, table: sa.Table) -> Any:
        """Inserts rows, and leaves alone those that are there."""
        return _insert(self.dialect, table)


@cache
def _insert(dialect: str, table: sa.Table) -> Any:
    insert: Any = import_module(f"sqlalchemy.dialects.{dialect}").insert  # of the other, nothing is needed
    return insert(table).on_conflict_do_nothing()


def known_select(scope: Scope) -> "sa.Select[Any]":
    """What is known of some `paths`; in PostgreSQL they are found by their digests, which have an index.

    A duplicate of what its owner replaced by other bytes is in conflict, as the report says, and to be done;
    so is what the store has lost.
    """
    times = (file.c[name] for name in ("size_bytes", "mtime_ns", "ctime_ns", "read_ns"))
    known = sa.select(file.c.path, file.c.file_id, KNOWN_STATUS.label("status"), *times).where(
        file.c.campaign == _bind("in_campaign"), file.c.path.in_(_bind("paths", expanding=True))
    )
    if scope.dialect != "postgresql":
        return known
    digest = sa.literal_column(PATH_SHA256, sa.LargeBinary)
    return known.where(digest.in_(_bind("digests", expanding=True)))


def is_lost(table: sa.Table) -> "sa.ColumnElement[bool]":
    """Whether the store has lost the object of a path: its own, or of what it duplicates and is to send."""
    own_or_duplicated = (table.c.key == table.c.lost_key) | (table.c.status == Status.DUPLICATE)
    return (table.c.lost_key != "") & own_or_duplicated


def _is_displaced() -> "sa.ColumnElement[bool]":
    """A duplicate of bytes that are no instance's any more."""
    has_its_bytes = (
        sa.exists(table.c.key)
        .where(
            table.c.campaign == file.c.campaign,
            table.c.sop_instance_uid == file.c.sop_instance_uid,
            table.c.sha256 == file.c.sha256,
        )
        .correlate(file)
        for table in (instance, other_content)
    )
    return sa.and_(file.c.status == Status.DUPLICATE, *(~each for each in has_its_bytes))


KNOWN_STATUS: Final = sa.case(
    (_is_displaced(), Status.CONFLICT), (is_lost(file), Status.FAILED), else_=file.c.status
)
