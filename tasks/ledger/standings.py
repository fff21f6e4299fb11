"""How the runs of a ledger stand, for whoever looks from beside: nothing is made, upgraded or written.

All of it comes from the runs' own rows, which have their counters with each sign of life: it takes no longer
for a ledger of many millions of files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.errors import UsageError
from tasks.core.registration_rows import REGISTRATION_CSV
from tasks.core.run_standings import (
    CampaignStanding,
    LedgerStanding,
    RunKind,
    RunStanding,
    RunState,
    state_of,
    total,
)
from tasks.ledger.database import NEWER_LEDGER, retry_while_busy
from tasks.ledger.known_runs import reading
from tasks.ledger.liveness import is_unlocked
from tasks.ledger.schema import HEAD, file, revision, run, study
from tasks.ledger.statements import Scope

_NS: Final = 1_000_000_000
_PATIENCE_S: Final = 10.0  # with a database that is locked, or whose server restarts
_NO_LEDGER: Final = (
    "There is no ledger there: name it with --ledger, or its report directory with --report-dir."
)
_EARLIER_LEDGER: Final = (
    "The ledger is of an earlier version of dicom-ingest, and is left as it is: the next run brings it up to "
    "date. Until then look with that version."
)
_Rows = Sequence["sa.Row[Any]"]


def read_standings(
    url: str | Path, dead_after_s: float, campaign: str | None = None, most_runs: int | None = None
) -> LedgerStanding:
    """How the runs stand: of all campaigns or one, the newest `most_runs` of each and all that are at work.

    Who gave no sign of life for `dead_after_s` counts as killed; so does at once whoever was on this machine
    and has let go of his trail. UsageError when there is no ledger, or one of another version.
    """
    found = retry_while_busy(
        lambda: reading(url, lambda db: _Reader(db, dead_after_s, most_runs).read(campaign)), _PATIENCE_S
    )
    if found is None:
        raise UsageError(_NO_LEDGER)
    return found


class _Reader:
    def __init__(self, db: sa.Connection, dead_after_s: float, most_runs: int | None) -> None:
        self._db = db
        self._scope = Scope(db.dialect.name, "", "", dead_after_s)
        self._most_runs = most_runs

    def read(self, campaign: str | None) -> LedgerStanding | None:
        """None when there is no ledger in the database."""
        if not sa.inspect(self._db).has_table(revision.name):
            return None
        _require_this_version(self._db.scalar(sa.select(revision.c.version_num)))
        seen_s: int = self._db.execute(sa.select(self._scope.now_s)).scalar_one()
        its_campaign = sa.true() if campaign is None else run.c.campaign == campaign
        query = (
            sa.select(run, self._scope.is_alive.label("alive"))
            .where(its_campaign)
            .order_by(run.c.campaign, run.c.serial.desc(), run.c.started_ns.desc())
        )
        rows = self._db.execute(query).all()
        by_campaign = groupby(rows, key=lambda row: row.campaign)
        campaigns = tuple(self._campaign(name, list(its)) for name, its in by_campaign)
        return LedgerStanding(seen_s * _NS, campaigns)

    def _campaign(self, name: str, rows: _Rows) -> CampaignStanding:
        names = {row.run_id for row in rows}
        shards: dict[str, list[sa.Row[Any]]] = {}
        for row in rows:
            if (whole := _whole(row.run_id)) in names:
                shards.setdefault(whole, []).append(row)
        runs = [row for row in rows if _whole(row.run_id) not in names]
        standings = list(self._newest(runs, shards))
        return CampaignStanding(name, tuple(standings), len(runs) - len(standings))

    def _newest(self, runs: _Rows, shards: Mapping[str, _Rows]) -> Iterator[RunStanding]:
        most = len(runs) if self._most_runs is None else self._most_runs
        for position, row in enumerate(runs):
            its_shards = shards.get(row.run_id, ())
            may_be_at_work = any(each.heartbeat_s > 0 for each in (row, *its_shards))
            if position < most or may_be_at_work:
                standing = self._standing(row, its_shards)
                if position < most or standing.is_at_work:
                    yield standing

    def _standing(self, row: "sa.Row[Any]", its_shards: _Rows) -> RunStanding:
        whole = self._one(row)
        if not its_shards:
            is_ingest = Path(row.report_dir).name == REGISTRATION_CSV
            return replace(
                next(self._with_studies([whole])), kind=RunKind.OBJECTS if is_ingest else RunKind.FILES
            )
        ones = sorted(map(self._one, its_shards), key=lambda shard: shard.run_id)
        shards = tuple(self._with_studies(ones))
        whole = replace(whole, kind=RunKind.SHARDS, shards=shards)
        return replace(
            whole,
            counters=total(whole),
            last_alive_ns=max(each.last_alive_ns for each in (whole, *shards)),
            studies=sum(shard.studies or 0 for shard in shards),
            studies_scanned=sum(shard.studies_scanned or 0 for shard in shards),
        )

    def _one(self, row: "sa.Row[Any]") -> RunStanding:
        end = row.end or {}
        is_alive = bool(row.alive) and not row.end and not is_unlocked(row.locked)
        code = end.get("stopped_exit_code")
        state = state_of(
            has_begun=row.started_ns > 0, has_ended=bool(row.end), is_alive=is_alive, stopped_exit_code=code
        )
        if row.end:
            last_ns = end["finished_ns"]
        elif state is RunState.WAITING:
            last_ns = 0
        else:
            last_ns = row.heartbeat_s * _NS or self._last_settled(row) or row.started_ns
        return RunStanding(row.run_id, state, row.started_ns, last_ns, row.progress or {}, code)

    def _last_settled(self, row: "sa.Row[Any]") -> int:
        """Of a run that another has declared dead: its sign of life is gone, but not what it did last."""
        last = sa.select(sa.func.max(file.c.finished_ns)).where(file.c.run_id == row.run_id)
        return self._db.scalar(last) or 0

    def _with_studies(self, runs: Sequence[RunStanding]) -> Iterator[RunStanding]:
        """With how many studies each has, and has walked: of those that have not ended."""
        ended = (RunState.ENDED, RunState.STOPPED)
        counts = self._study_counts(each.run_id for each in runs if each.state not in ended)
        for each in runs:
            studies, scanned = counts.get(each.run_id, (None, None))
            yield replace(each, studies=studies, studies_scanned=scanned)

    def _study_counts(self, run_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        scanned = sa.func.sum(sa.case((study.c.scanned, 1), else_=0))
        query = (
            sa.select(study.c.run_id, sa.func.count(), scanned)
            .where(study.c.run_id.in_(list(run_ids)))
            .group_by(study.c.run_id)
        )
        return {run_id: (int(count), int(walked)) for run_id, count, walked in self._db.execute(query)}


def _require_this_version(number: str | None) -> None:
    if number != HEAD:
        raise UsageError(NEWER_LEDGER if (number or "") > HEAD else _EARLIER_LEDGER)


def _whole(run_id: str) -> str:
    """The run that this one is a shard of, by its name, if there is one of that name."""
    whole, _, number = run_id.rpartition("-")
    return whole if number.isdecimal() else ""
