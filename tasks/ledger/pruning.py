"""Listings that no report needs any more: those of earlier runs into a report directory that has a newer one.

`dicom-ingest report` writes the newest run's report again, and no other reads a listing once it has ended. A
migration that is not over is left whole: it can be gone on with, and its report needs the shards that ended.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from tasks.ledger.database import fetch
from tasks.ledger.schema import listing, run
from tasks.ledger.shard_runs import is_over, shard_run_ids
from tasks.ledger.statements import Scope

_POSITION: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)
_PAGE: Final = 5000  # rows of one commit: others write in between
_SILENT_S: Final = (
    24 * 3600
)  # a run that was killed has no end, nor has one that only sleeps with its machine
_MARK: Final = "pruned"  # beside the counters of a run's progress

Write = Callable[[Callable[[sa.Connection], Any]], Any]


def prune(engine: sa.Engine, scope: Scope, write: Write) -> None:
    """Deletes them, of runs that began before this one. Where it is cut short, the next run goes on."""
    for run_id in _superseded(engine, scope):
        write(partial(_mark, run_id=run_id))
        while to := _end_of_page(engine, run_id):
            write(partial(_delete, run_id=run_id, to=to))


def is_pruned(engine: sa.Engine, run_ids: Sequence[str]) -> bool:
    """Whether rows of these runs may be gone."""
    kept = fetch(engine, sa.select(run.c.progress).where(run.c.run_id.in_(run_ids)))
    return any(_MARK in (row.progress or {}) for row in kept)


def _superseded(engine: sa.Engine, scope: Scope) -> list[str]:
    """The runs, and shards of such, that have a listing which may go."""
    (ours,) = fetch(engine, sa.select(run).where(run.c.run_id == scope.run_id))
    earlier = sa.select(run.c.run_id, run.c.end).where(
        run.c.campaign == scope.campaign,
        run.c.report_dir == ours.report_dir,
        run.c.serial < ours.serial,
        run.c.heartbeat_s < scope.now_s - _SILENT_S,  # 0 of one that has ended
    )
    found: list[str] = []
    for row in () if _is_shard(engine, scope.run_id) else fetch(engine, earlier):
        of_it = sa.select(run.c.run_id).where(run.c.run_id.in_(shard_run_ids(row.run_id)))
        shards = [shard.run_id for shard in fetch(engine, of_it)]
        if not _is_shard(engine, row.run_id) and (not shards or is_over(row.end)):
            found += [run_id for run_id in (row.run_id, *shards) if _end_of_page(engine, run_id)]
    return found


def _is_shard(engine: sa.Engine, run_id: str) -> bool:
    """A shard's listing is its migration's, which has a report directory of its own."""
    whole = run_id.rpartition("-")[0]
    return bool(fetch(engine, sa.select(run.c.run_id).where(run.c.run_id == whole)))


def _end_of_page(engine: sa.Engine, run_id: str) -> tuple[int, int] | None:
    """Where the run's next rows end; None when it has none."""
    query = (
        sa.select(*_POSITION.clauses)
        .where(listing.c.run_id == run_id)
        .order_by(*_POSITION.clauses)
        .limit(_PAGE)
    )
    page = fetch(engine, query)
    return (page[-1].study_no, page[-1].file_no) if page else None


def _mark(db: sa.Connection, run_id: str) -> None:
    db.execute(sa.update(run).where(run.c.run_id == run_id).values(progress={_MARK: 1}))


def _delete(db: sa.Connection, run_id: str, to: tuple[int, int]) -> None:
    db.execute(sa.delete(listing).where(listing.c.run_id == run_id, to >= _POSITION))
