"""A bandwidth that somebody set for the runs of a campaign that are at work: kept until they end.

Each of those runs reads it now and then. A run that begins later goes by its own setting, and so does a run
that is begun again; the shards of a migration count as begun when that was.
"""

import re
import time
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa

from tasks.ledger.database import connect, fetch, retry_while_busy
from tasks.ledger.liveness import is_unlocked
from tasks.ledger.schema import run, set_bandwidth
from tasks.ledger.statements import Scope
from tasks.settings import RunSettings

_SHARD: Final = re.compile(r"-\d{4}\Z", re.ASCII)  # of shard_run_id


class SetTo(NamedTuple):
    """What was set, and by whom."""

    text: str
    user_id: str


class SetBandwidths:
    """Of one campaign, in a database of its own connections. Thread-safe."""

    def __init__(
        self,
        url: str | Path,
        campaign: str,
        run_id: str = "",
        dead_after_s: float = RunSettings.dead_after,
    ) -> None:
        """`run_id`: of who reads it; who sets it has to know after how long a run counts as killed."""
        self._engine = connect(url)
        self._scope = Scope(self._engine.dialect.name, campaign, run_id, dead_after_s)

    def for_run(self) -> SetTo | None:
        """What was set since this run began, or the migration that it is a shard of; None: nothing."""
        run_id = self._scope.run_id
        serials = [
            sa.select(run.c.serial).where(run.c.run_id == begun_as).scalar_subquery()
            for begun_as in (_SHARD.sub("", run_id), run_id)
        ]
        query = sa.select(set_bandwidth.c.bandwidth, set_bandwidth.c.user_id).where(
            set_bandwidth.c.campaign == self._scope.campaign,
            set_bandwidth.c.serial >= sa.func.coalesce(*serials),
        )
        found = fetch(self._engine, query)
        return SetTo(found[0].bandwidth, found[0].user_id) if found else None

    def set(self, text: str, user_id: str) -> int:
        """For the runs that are at work: how many those are. An empty text takes back what was set."""
        return retry_while_busy(lambda: self._set(text, user_id))

    def close(self) -> None:
        """Lets the database go."""
        self._engine.dispose()

    def _set(self, text: str, user_id: str) -> int:
        of_campaign = set_bandwidth.c.campaign == self._scope.campaign
        with self._engine.execution_options(writes=True).begin() as db:
            alive = self._at_work(db)
            if not alive:
                return 0
            db.execute(sa.delete(set_bandwidth).where(of_campaign))
            if text:
                last = sa.select(sa.func.max(run.c.serial)).scalar_subquery()
                values = {"bandwidth": text, "user_id": user_id, "set_ns": time.time_ns()}
                db.execute(
                    self._scope.insert(set_bandwidth).values(
                        campaign=self._scope.campaign, serial=last, **values
                    )
                )
            return alive

    def _at_work(self, db: sa.Connection) -> int:
        """Runs and shards that are alive, without migrations, which send nothing themselves."""
        query = sa.select(run.c.run_id, run.c.locked).where(
            run.c.campaign == self._scope.campaign, self._scope.is_alive
        )
        alive = {row.run_id for row in db.execute(query) if not is_unlocked(row.locked)}
        return len(alive - {_SHARD.sub("", run_id) for run_id in alive if _SHARD.search(run_id)})
