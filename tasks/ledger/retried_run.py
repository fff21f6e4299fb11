"""A run that is over, of which another sends some rows again: which studies have such, and all other rows.

The new run walks the studies that have rows to be sent again. Of all others it takes the listing over as it
is; and of those that it walks, the rows that were not chosen. So its report has a row for every file.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.decisions import ACCEPTING
from tasks.core.errors import UsageError
from tasks.core.escape import unescape
from tasks.core.models import EXIT_ONE, Listed, Reason, Status, Unwalked
from tasks.core.selection import Selection
from tasks.ledger.database import connect, execute_many, fetch, retry_while_busy
from tasks.ledger.decided import IS_SAME_FILE
from tasks.ledger.files import kept_path
from tasks.ledger.schema import decision, file, listing, run, study
from tasks.ledger.statements import KNOWN_STATUS, Scope, known_select

_PAGE: Final = 5000  # rows of one commit: others write in between
_NEVER: Final = 2**31 - 1  # the number of no batch: what is not chosen is in none
_POSITION: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)
_TAKEN_OVER: Final = ("study_no", "file_no", "file_id", "settled", "said")
_NOT_TRIED: Final = (Status.NOT_ATTEMPTED, Reason.STOPPED)
_Row = Listed | Unwalked


class RetriedRun:
    """The rows of a run, or of all shards of one. Nothing is written but for the run that retries it."""

    def __init__(
        self, url: str | Path, campaign: str, run_id: str, shards: Sequence[str], selection: Selection
    ) -> None:
        self._engine = connect(url)
        self._run_id = run_id
        self._run_ids = shards or [run_id]
        self._selection = selection
        self._scope = Scope(self._engine.dialect.name, campaign, run_id="", dead_after_s=0)
        self._known = known_select(self._scope).add_columns(file.c.reason)
        self.study_nos = self._chosen_studies()  # ascending

    def close(self) -> None:
        """Lets the database go."""
        self._engine.dispose()

    def require_newest(self) -> None:
        """UsageError when another run into its report directory has begun since, and maybe ended."""
        ours, other = run.alias("our_run"), run.alias("other_run")
        later = (
            sa.select(other.c.run_id)
            .join(ours, (other.c.campaign == ours.c.campaign) & (other.c.report_dir == ours.c.report_dir))
            .where(ours.c.run_id == self._run_id, other.c.serial > ours.c.serial)
            .limit(1)
        )
        if fetch(self._engine, later):
            raise UsageError(
                "A later run into this report directory has begun meanwhile. Nothing was sent. Run the same "
                "command again: it goes on from that run."
            )

    def only_file(self) -> Path | None:
        """The one file that the run had, if it had no other row: it may have been sent by itself."""
        query = (
            sa.select(file.c.path)
            .join(listing, listing.c.file_id == file.c.file_id)
            .where(listing.c.run_id.in_(self._run_ids))
            .limit(2)
        )
        paths = [row.path for row in fetch(self._engine, query)]
        return Path(unescape(paths[0])) if len(paths) == 1 and not paths[0].endswith("/") else None

    def take_over(self, run_id: str) -> None:
        """Gives a run that has begun the rows of all studies that it does not walk.

        These count as scanned once all their rows are there: whoever is killed before has not walked them.
        """
        for earlier in self._run_ids:
            after = (0, 0)
            while to := self._end_of_page(earlier, after):
                retry_while_busy(partial(self._copy, run_id, earlier, after, to))
                after = to
        retry_while_busy(partial(self._close_studies, run_id))

    def divide(self, run_id: str, rows: Sequence[_Row]) -> list[_Row]:
        """Of rows of a walk, those that are looked at; the others are the run's as they were."""
        known = {row.path: row for row in fetch(self._engine, self._known, self._named(rows))}
        earlier = self._listed([row.file_id for row in known.values()])
        looked_at, kept = [], []
        for row in rows:
            its = known.get(kept_path(row))
            before = earlier.get(its.file_id) if its else None
            if its is None or before is None or self._is_looked_at(its, before):
                looked_at.append(row)
            else:
                at = {"run_id": run_id, "batch_no": _NEVER, "study_no": row.study_no, "file_no": row.file_no}
                kept.append(at | {name: before[name] for name in ("file_id", "settled", "said")})
        if kept:
            retry_while_busy(partial(self._keep, kept))
        return looked_at

    def _is_looked_at(self, known: Any, before: dict[str, Any]) -> bool:
        """What the last run did not come to counts as what it was before, too: so a retry is gone on with."""
        has = self._selection.has
        if not before["settled"]:
            return has(*_NOT_TRIED) or has(known.status, known.reason)
        is_fine = known.status not in EXIT_ONE
        return self._selection.is_all if is_fine else has(known.status, known.reason)

    def _chosen_studies(self) -> list[int]:
        is_named: Any = KNOWN_STATUS.in_([*(self._selection.statuses or EXIT_ONE)])
        if self._selection.reasons:
            is_named &= file.c.reason.in_([*self._selection.reasons])
        if self._selection.has(*_NOT_TRIED):
            is_named |= ~listing.c.settled
        is_accepted = sa.func.coalesce(
            listing.c.settled
            & decision.c.decision.in_(ACCEPTING)
            & (decision.c.status == KNOWN_STATUS)
            & IS_SAME_FILE,
            sa.false(),
        )
        chosen = (
            sa.select(listing.c.study_no)
            .join(file, file.c.file_id == listing.c.file_id)
            .outerjoin(decision, decision.c.file_id == listing.c.file_id)
            .where(listing.c.run_id.in_(self._run_ids), is_named, ~is_accepted)
        )
        unscanned = sa.select(study.c.study_no).where(study.c.run_id.in_(self._run_ids), ~study.c.scanned)
        found = {
            row.study_no for query in (chosen, unscanned) for row in fetch(self._engine, query.distinct())
        }
        return sorted(found)

    def _named(self, rows: Sequence[_Row]) -> dict[str, Any]:
        return self._scope.named([kept_path(row) for row in rows])

    def _listed(self, file_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        query = sa.select(listing.c.file_id, listing.c.settled, listing.c.said).where(
            listing.c.run_id.in_(self._run_ids), listing.c.file_id.in_(file_ids)
        )
        return {row.file_id: row._asdict() for row in fetch(self._engine, query)}

    def _end_of_page(self, run_id: str, after: tuple[int, int]) -> tuple[int, int] | None:
        query = (
            sa.select(listing.c.study_no, listing.c.file_no)
            .where(listing.c.run_id == run_id, after < _POSITION)
            .order_by(listing.c.study_no, listing.c.file_no)
            .limit(_PAGE)
        )
        page = fetch(self._engine, query)
        return (page[-1].study_no, page[-1].file_no) if page else None

    def _copy(self, run_id: str, earlier: str, after: tuple[int, int], to: tuple[int, int]) -> None:
        walked = self._walked(after[0], to[0])
        rows = sa.select(
            sa.literal(run_id), sa.literal(_NEVER), *(listing.c[name] for name in _TAKEN_OVER)
        ).where(
            listing.c.run_id == earlier,
            after < _POSITION,
            to >= _POSITION,
            listing.c.study_no.not_in(walked),
        )
        with self._engine.execution_options(writes=True).begin() as db:
            db.execute(sa.insert(listing).from_select(["run_id", "batch_no", *_TAKEN_OVER], rows))

    def _close_studies(self, run_id: str) -> None:
        ours = study.c.run_id == run_id
        with self._engine.execution_options(writes=True).begin() as db:
            db.execute(sa.update(study).where(ours).values(scanned=True))
            for page in _pages(self.study_nos):
                db.execute(sa.update(study).where(ours, study.c.study_no.in_(page)).values(scanned=False))

    def _walked(self, first: int, last: int) -> list[int]:
        return self.study_nos[bisect_left(self.study_nos, first) : bisect_right(self.study_nos, last)]

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        with self._engine.execution_options(writes=True).begin() as db:
            execute_many(db, sa.insert(listing), rows)


def _pages(numbers: Sequence[int]) -> Iterator[list[int]]:
    waiting = iter(numbers)
    while page := list(islice(waiting, 1000)):
        yield page
