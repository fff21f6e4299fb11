"""Decisions that a person made about rows of a report: kept, taken back, and whether they still hold.

A decision is about a file as it was, and about a row as it was: status, reason, and of a conflict the bytes
that are stored. When any of that has changed it holds no more; it stays here until another is made.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.decisions import ACCEPTING, Decision
from tasks.core.models import Status
from tasks.ledger.database import connect, execute_many, fetch, retry_while_busy
from tasks.ledger.schema import decision, file, instance

# Of these the ledger has the SHA-256 of the file itself, not of what is stored of its path.
_HASHED: Final = (Status.CONFLICT, Status.DUPLICATE, Status.FAILED)


class Decided(NamedTuple):
    """What a person decided about the row of a file; status and reason are the row's."""

    file_id: int
    status: str
    reason: str
    decision: Decision
    user_id: str  # escaped, as the next
    reason_text: str


def _is_same(name: str) -> Any:
    return decision.c[name].is_not_distinct_from(file.c[name])


_is_hashed = (file.c.sha256 != "") & file.c.status.in_(_HASHED)
IS_SAME_FILE: Final = (
    _is_same("size_bytes") & _is_same("mtime_ns") & _is_same("sha256") & (_is_hashed | _is_same("ctime_ns"))
)
# Beside the row's status. `instance` is joined by the UID of what may be in conflict.
IS_AS_DECIDED: Final = (
    IS_SAME_FILE
    & (decision.c.reason == file.c.reason)
    & (
        (decision.c.status != Status.CONFLICT)
        | (decision.c.stored_sha256 == sa.func.coalesce(instance.c.sha256, ""))
    )
)
# Of a file whose row says conflict: the bytes that are to be sent all the same.
_is_stored_still = (
    sa.exists(instance.c.sha256)
    .where(
        instance.c.campaign == file.c.campaign,
        instance.c.sop_instance_uid == file.c.sop_instance_uid,
        instance.c.sha256 == decision.c.stored_sha256,
    )
    .correlate(file, decision)
)
UPLOAD_SHA256: Final = sa.case(
    ((decision.c.decision == Decision.UPLOAD) & _is_stored_still, decision.c.sha256), else_=""
)


def said_of(detail: Any) -> Any:
    """What the row's detail says: what was decided, by whom and why, and what it said before."""
    what = sa.case(
        (decision.c.decision.in_(ACCEPTING), sa.literal("accepted (") + decision.c.decision + ")"),
        else_=decision.c.decision,
    )
    before = sa.case((detail != "", sa.literal(" [") + detail + "]"), else_="")
    return what + " by " + decision.c.user_id + ": " + decision.c.reason_text + before


_at: sa.BindParameter[int] = sa.bindparam("at")
_FORGET: Final = sa.delete(decision).where(decision.c.file_id == _at)
_AS_IT_IS: Final = ("size_bytes", "mtime_ns", "ctime_ns", "sha256")
_stored_sha256 = sa.case(
    (sa.bindparam("row_status", type_=sa.Text) == Status.CONFLICT, sa.func.coalesce(instance.c.sha256, "")),
    else_="",
)
_KEEP: Final = sa.insert(decision).from_select(
    [
        "file_id",
        *_AS_IT_IS,
        "status",
        "reason",
        "stored_sha256",
        "decision",
        "user_id",
        "reason_text",
        "decided_ns",
    ],
    sa.select(
        file.c.file_id,
        *(file.c[name] for name in _AS_IT_IS),
        sa.bindparam("row_status", type_=sa.Text),
        sa.bindparam("row_reason", type_=sa.Text),
        _stored_sha256,
        *(sa.bindparam(name, type_=sa.Text) for name in ("decided", "by", "why")),
        sa.bindparam("now_ns", type_=sa.BigInteger),
    )
    .outerjoin(
        instance,
        (instance.c.campaign == file.c.campaign) & (instance.c.sop_instance_uid == file.c.sop_instance_uid),
    )
    .where(file.c.file_id == _at),
)


_STANDING: Final = sa.select(
    file.c.file_id,
    file.c.status,
    file.c.reason,
    *(file.c[name] for name in _AS_IT_IS),
    sa.func.coalesce(instance.c.sha256, ""),
).outerjoin(
    instance,
    (instance.c.campaign == file.c.campaign)
    & (instance.c.sop_instance_uid == sa.case((file.c.status.in_(_HASHED), file.c.sop_instance_uid))),
)


class Decisions:
    """Those of a ledger that is there, and of the newest schema."""

    def __init__(self, url: str | Path) -> None:
        self._engine = connect(url)

    def close(self) -> None:
        """Lets the database go."""
        self._engine.dispose()

    def decide(self, decisions: Sequence[Decided], now_ns: int) -> None:
        """Keeps what was decided, in place of what was before: all of it, or nothing."""
        retry_while_busy(lambda: self._decide(decisions, now_ns))

    def as_of(self, file_ids: Sequence[int]) -> dict[int, str]:
        """By file a word that is another once its row, or what it is in conflict with, is."""
        rows = fetch(self._engine, _STANDING.where(file.c.file_id.in_(file_ids)))
        return {row.file_id: f"v{sha256(repr(tuple(row)).encode()).hexdigest()[:16]}" for row in rows}

    def _decide(self, decisions: Sequence[Decided], now_ns: int) -> None:
        kept = [_bound(each, now_ns) for each in decisions if each.decision is not Decision.WITHDRAW]
        with self._engine.execution_options(writes=True).begin() as db:
            execute_many(db, _FORGET, [{"at": each.file_id} for each in decisions])
            if kept:
                execute_many(db, _KEEP, kept)


def _bound(each: Decided, now_ns: int) -> dict[str, Any]:
    return {
        "at": each.file_id,
        "row_status": str(each.status),
        "row_reason": str(each.reason),
        "decided": str(each.decision),
        "by": each.user_id,
        "why": each.reason_text,
        "now_ns": now_ns,
    }
