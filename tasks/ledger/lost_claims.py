"""Files whose claim was lost on the way: what they are instead of uploaded.

| its SOP Instance UID is                          | a living run's file is | a dead run's file is       |
| ------------------------------------------------ | ---------------------- | -------------------------- |
| stored meanwhile with the same bytes             | duplicate              | duplicate                  |
| stored meanwhile with other bytes                | conflict               | conflict                   |
| claimed by another, or stored from the same path | failed, interrupted    | left alone: not_attempted  |

Its key is superseded in any case.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import Outcome, Reason, Status
from tasks.ledger.file_requests import Settling
from tasks.ledger.schema import file, instance, listing, run
from tasks.ledger.statements import Scope

_NOT_STORED: Final[dict[str, Any]] = {"reason": Reason.NONE, "key": "", "etag": "", "proof": "", "detail": ""}


def is_stored(outcome: Outcome | None) -> bool:
    """Whether the file is in the store under the outcome's key."""
    return outcome is not None and outcome.status is Status.UPLOADED and outcome.digests is not None


def settled_elsewhere(db: sa.Connection, scope: Scope, requests: Sequence[Settling]) -> list[Settling]:
    """For a run that counts as dead: its files that have an outcome by what other runs stored, and that."""
    found = []
    for todo, outcome, claimed in requests:
        settled = _stored_by_another(db, scope, todo.file_id, outcome)
        if settled and not _has_newer_outcome(db, scope, todo.file_id, todo.study_no, todo.file_no):
            found.append(Settling(todo, settled, claimed))
    return found


def without_claim(db: sa.Connection, scope: Scope, request: Settling) -> Settling:
    """A file that was sent, whose claim another has now: with the outcome that this gives it."""
    todo, outcome, claimed = request
    assert outcome
    settled = _stored_by_another(db, scope, todo.file_id, outcome)
    cut_off = replace(outcome, **_NOT_STORED | {"status": Status.FAILED, "reason": Reason.INTERRUPTED})
    return Settling(todo, settled or cut_off, claimed)


def _stored_by_another(
    db: sa.Connection, scope: Scope, file_id: int, outcome: Outcome | None
) -> Outcome | None:
    if not outcome or not outcome.header or not outcome.digests:
        return None
    stored = db.scalar(
        sa.select(instance.c.sha256).where(
            instance.c.campaign == scope.campaign,
            instance.c.sop_instance_uid == outcome.header.sop_instance_uid,
            instance.c.key != "",
            instance.c.file_id != file_id,
        )
    )
    if stored is None:
        return None
    status = Status.DUPLICATE if stored == outcome.digests.sha256 else Status.CONFLICT
    return replace(outcome, **_NOT_STORED | {"status": status})


def _has_newer_outcome(db: sa.Connection, scope: Scope, file_id: int, study_no: int, file_no: int) -> bool:
    """Whether this run settled the file, a later one looked at it, or any other stored it."""
    began = sa.select(run.c.serial).where(run.c.run_id == scope.run_id).scalar_subquery()
    others = sa.select(file.c.file_id).outerjoin(run, run.c.run_id == file.c.run_id)
    by_another = others.where(
        file.c.file_id == file_id,
        file.c.run_id != scope.run_id,
        (file.c.status == Status.UPLOADED) | (run.c.serial > began),
    )
    ours = sa.select(listing.c.file_id).where(
        listing.c.run_id == scope.run_id,
        listing.c.study_no == study_no,
        listing.c.file_no == file_no,
        listing.c.settled,
    )
    return db.execute(by_another).first() is not None or db.execute(ours).first() is not None
