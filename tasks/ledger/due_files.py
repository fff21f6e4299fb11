"""What a run has still to do, and how much of it is done."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from tasks.core.escape import unescape
from tasks.core.models import Status, Todo
from tasks.ledger.database import fetch
from tasks.ledger.schema import UNSETTLED, file, listing, run, study
from tasks.ledger.shard_runs import shard_run_ids
from tasks.ledger.statements import Scope

_AT_ONCE: Final = 1000  # rows read

Todos = Callable[[int, Sequence[int]], Iterator[Todo]]


class DueFiles:
    """As the run itself sees them."""

    def __init__(self, engine: sa.Engine, scope: Scope) -> None:
        self._engine = engine
        self._scope = scope

    def is_any(self) -> bool:
        """Whether a file is not settled, or a study directory not walked to its end."""
        of_run = self._scope.run_id
        unsettled = sa.select(listing.c.file_id).where(listing.c.run_id == of_run, UNSETTLED)
        unscanned = sa.select(study.c.study_no).where(study.c.run_id == of_run, ~study.c.scanned)
        return any(fetch(self._engine, query.limit(1)) for query in (unsettled, unscanned))

    def in_order(self, batch_no: int, place: Callable[[int], int], todo: Todos) -> Iterator[Todo]:
        """A batch's files study by study, by the `place` of each study_no; page by page.

        `todo` gives those of some studies of a batch, in the report's order.
        """
        page: list[int] = []
        rows = 0
        for study_no, files in sorted(self._studies(batch_no), key=lambda found: place(found[0])):
            page.append(study_no)
            rows += files
            if rows >= _AT_ONCE:
                yield from _in_order(todo(batch_no, page), page, place)
                page, rows = [], 0
        if page:
            yield from _in_order(todo(batch_no, page), page, place)

    def unfinished(self, study_nos: Sequence[int]) -> list[int]:
        """Those of these studies, few of them, in which something is left to do."""
        of_these = (listing.c.run_id == self._scope.run_id, listing.c.study_no.in_(study_nos))
        files = sa.select(listing.c.study_no).where(*of_these, ~listing.c.settled).distinct()
        of_these = (study.c.run_id == self._scope.run_id, study.c.study_no.in_(study_nos))
        dirs = sa.select(study.c.study_no).where(*of_these, ~study.c.scanned)
        return sorted({row.study_no for query in (files, dirs) for row in fetch(self._engine, query)})

    def started_before(self) -> frozenset[str]:
        """The study directories that the run before this one had started, and not finished."""
        ours = sa.select(run.c.serial).where(run.c.run_id == self._scope.run_id).scalar_subquery()
        before = (
            sa.select(run.c.run_id)
            .where(run.c.campaign == self._scope.campaign, run.c.serial < ours)
            .where(run.c.run_id.not_in(_family(self._scope.run_id)))
            .order_by(run.c.serial.desc())
            .limit(1)
        )
        found: set[str] = set()
        for newest in fetch(self._engine, before):
            its = sa.select(run.c.run_id, run.c.end).where(run.c.run_id.in_(_family(newest.run_id)))
            for row in fetch(self._engine, its):
                found |= self._study_dirs(row.run_id, (row.end or {}).get("started", []))
        return frozenset(found)

    def _study_dirs(self, run_id: str, study_nos: Sequence[int]) -> set[str]:
        query = sa.select(study.c.study_dir).where(study.c.run_id == run_id, study.c.study_no.in_(study_nos))
        return {unescape(row.study_dir) for row in fetch(self._engine, query)} if study_nos else set()

    def _studies(self, batch_no: int) -> list[tuple[int, int]]:
        """study_no, and how many of its files are not settled yet, of all studies of a batch."""
        query = (
            sa.select(listing.c.study_no, sa.func.count().label("files"))
            .where(listing.c.run_id == self._scope.run_id, listing.c.batch_no == batch_no, UNSETTLED)
            .group_by(listing.c.study_no)
        )
        return [(row.study_no, row.files) for row in fetch(self._engine, query)]

    def count_stored(self) -> int:
        """How many files this run has stored, whichever of its processes did."""
        query = sa.select(sa.func.count().label("stored")).where(
            file.c.run_id == self._scope.run_id, file.c.status == Status.UPLOADED
        )
        (found,) = fetch(self._engine, query)
        stored: int = found.stored
        return stored


def _in_order(todos: Iterator[Todo], page: Sequence[int], place: Callable[[int], int]) -> Iterator[Todo]:
    """Of one study, which may be large, as they come."""
    return todos if len(page) == 1 else iter(sorted(todos, key=lambda todo: place(todo.study_no)))


def _family(run_id: str) -> list[str]:
    """A run and its shards, by the name of any of them."""
    whole = run_id.rpartition("-")[0] or run_id
    return [whole, *shard_run_ids(whole)]
