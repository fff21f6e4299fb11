"""Whether the ledger still has what a run found: files, and what is stored, are kept as of the last look.

A report that is written again must be that run's. What a later run made of a file, or of the instance whose
duplicate it is, would stand there in place of it.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import Status
from tasks.ledger.database import fetch
from tasks.ledger.schema import file, instance, listing, other_content, run

_ours = run.alias("our_run")
_later = run.alias("later_run")
# Found again as it was, such a file's row differs in nothing but when, and by which run.
_NEVER_SENT: Final = (
    Status.NOT_DICOM,
    Status.INVALID,
    Status.UNREADABLE,
    Status.MISSING,
    Status.TOO_LARGE,
    Status.NOT_ATTEMPTED,
    Status.CONFLICT,
)


def is_overwritten(engine: sa.Engine, run_ids: Sequence[str]) -> bool:
    """Whether a later run looked differently at what these have settled: a run, or all shards of one."""
    first = sa.select(sa.func.min(run.c.serial)).where(run.c.run_id.in_(run_ids)).scalar_subquery()
    others = sa.select(run.c.run_id).where(run.c.serial > first, run.c.run_id.not_in(run_ids)).limit(1)
    if not fetch(engine, others):
        return False
    said = file.c.status + "/" + file.c.reason
    is_the_same = (listing.c.said == said) & file.c.status.in_(_NEVER_SENT)
    looks = [_looks(run_ids).join(_later, _later.c.run_id == file.c.run_id).where(~is_the_same)]
    looks += [
        _looks(run_ids)
        .join(stored, _is_of_duplicate(stored))
        .join(_later, _later.c.run_id == stored.c.run_id)
        for stored in (instance, other_content)
    ]
    is_later = (_later.c.serial > _ours.c.serial, _later.c.run_id.not_in(run_ids))
    return any(fetch(engine, look.where(*is_later).limit(1)) for look in looks)


def _looks(run_ids: Sequence[str]) -> "sa.Select[Any]":
    """What these runs have settled, with the run whose row of the report it is."""
    return (
        sa.select(listing.c.file_id)
        .join(file, file.c.file_id == listing.c.file_id)
        .join(_ours, _ours.c.run_id == listing.c.run_id)
        .where(listing.c.run_id.in_(run_ids), listing.c.settled)
    )


def _is_of_duplicate(stored: sa.Table) -> Any:
    beside = (stored.c.sha256 == file.c.sha256) if stored is other_content else sa.true()
    return (
        (file.c.status == Status.DUPLICATE)
        & (stored.c.campaign == file.c.campaign)
        & (stored.c.sop_instance_uid == file.c.sop_instance_uid)
        & beside
    )
