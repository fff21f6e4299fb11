"""Runs and shards: who is at work, with which studies, and how each ended.

What takes a connection writes by it, and may be executed again when its commit got lost on the way.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.errors import StoppedError, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import RunFacts, StudyEntry, Target
from tasks.ledger.database import fetch, patience_s
from tasks.ledger.file_requests import Reaching
from tasks.ledger.kept_entries import KeptEntries, entry_values
from tasks.ledger.later_runs import is_overwritten
from tasks.ledger.liveness import heartbeat_s, is_unlocked
from tasks.ledger.platforms import bind
from tasks.ledger.schema import (
    UNSTORED,
    file,
    instance,
    issued_key,
    listing,
    other_content,
    run,
    storage_host,
    study,
)
from tasks.ledger.shard_runs import ShardStanding, is_over, shard_run_id, shard_run_ids
from tasks.ledger.statements import NO_FILE, Scope
from tasks.ledger.trail_events import TrailEvents

AT_WORK: Final = (
    "A run into this report directory is at work, or was killed a moment ago: on another host it counts as "
    "alive until --dead-after is over."
)
SILENT: Final = (
    "Stopped: this process was silent for so long that it counts as dead (--dead-after). Another run may "
    "have taken over what it had claimed. Run the same command again to go on: nothing stored is sent twice."
)
_TAKEN_UP: Final = "Stopped: this process was silent for so long that another took its run up."
_AT_ONCE: Final = 1000  # rows read or written
_NONE_DECIDED: Final[Mapping[int, bytes]] = MappingProxyType({})


class Runs:
    """One run in the ledger, and its shards."""

    def __init__(
        self,
        engine: sa.Engine,
        scope: Scope,
        counters: Callable[[], dict[str, int]],
        events: TrailEvents | None = None,
        locked: str = "",
    ) -> None:
        """Each sign of life has its `counters` with it. `locked`: what this process has, as it is kept."""
        self._events = events
        self._engine = engine
        self._scope = scope
        self._counters = counters
        self._locked = locked
        # Set once that is durable: whoever only looks at a run gives no sign of life for it.
        self.at_work_since_ns: int | None = None
        self._composed: tuple[int, sa.Select[Any]] | None = None  # since when it is for, and `_own_row`
        # Silent for too long, or declared dead by another: it may claim and settle nothing, but end.
        self.counts_as_dead = False

    # -- reads -------------------------------------------------------------------------------------------

    def newest_into(self, report_dir: Path) -> str:
        """The run_id of the newest run into this report directory. UsageError when none is over."""
        query = (
            sa.select(run.c.run_id, run.c.locked, self._scope.is_alive.label("alive"))
            .where(run.c.campaign == self._scope.campaign, run.c.report_dir == _kept_path(report_dir))
            .order_by(run.c.serial.desc())
            .limit(1)
        )
        newest = next(iter(fetch(self._engine, query)), None)
        if newest is None:
            raise UsageError(
                "The ledger knows no run into this report directory: name its --ledger and --campaign."
            )
        if newest.alive and not is_unlocked(newest.locked):
            raise UsageError(AT_WORK)
        run_id: str = newest.run_id
        return run_id

    def require_what_it_found(self) -> None:
        """UsageError when the ledger has what a later run found in place of it."""
        run_ids = [shard.run_id for shard in self.shards()] or [self._scope.run_id]
        if is_overwritten(self._engine, run_ids):
            raise UsageError(
                "A later run, into another report directory, has looked at files of this run since, and "
                "found them otherwise: the report of this run can't be written again. Nothing was "
                "changed. What is stored now is in the report of the later run."
            )

    def shards(self) -> list[ShardStanding]:
        """The shards that this run was cut into, in their order; none of a run that is whole."""
        query = (
            sa.select(run, self._scope.is_alive.label("alive"))
            .where(self._is_our_shard)
            .order_by(run.c.run_id)
        )
        return [
            ShardStanding(
                row.run_id,
                bool(row.alive) and not is_unlocked(row.locked),
                RunFacts(**row.end) if row.end else None,
                row.progress or {},
                row.started_ns,
            )
            for row in fetch(self._engine, query)
        ]

    def is_over(self) -> bool:
        """Whether the run came to its end, neither interrupted nor killed."""
        found = fetch(self._engine, sa.select(run.c.end).where(run.c.run_id == self._scope.run_id))
        return is_over(found[0].end if found else None)

    def report_dir(self) -> Path | None:
        """The run's report directory; None while nobody has begun it."""
        query = sa.select(run.c.report_dir).where(run.c.run_id == self._scope.run_id)
        kept = [row.report_dir for row in fetch(self._engine, query)]
        return Path(unescape(kept[0])) if any(kept) else None

    def facts(self) -> RunFacts:
        """What the run said at its end; when it was killed, what can be known of it."""
        run_id = self._scope.run_id
        last_ns = sa.select(sa.func.max(file.c.finished_ns)).where(file.c.run_id == run_id)
        (row,) = fetch(self._engine, sa.select(run).where(run.c.run_id == run_id))
        if row.end is not None:
            return RunFacts(**row.end)
        ((last,),) = fetch(self._engine, last_ns)
        finished_ns = last or row.started_ns
        return RunFacts(
            run_id,
            self._scope.campaign,
            row.started_ns,
            finished_ns,
            peak_parallel=0,
            problems=["The run was killed: this is what its ledger had. Run the same command to go on."],
            stopped_exit_code=StoppedError.exit_code,
        )

    def manifest_sha256(self) -> str:
        """The digest of the run's manifest; empty when there was none, or an earlier version did the run."""
        query = sa.select(run.c.manifest_sha256).where(run.c.run_id == self._scope.run_id)
        return "".join(row.manifest_sha256 for row in fetch(self._engine, query))

    def with_target(self, facts: RunFacts) -> RunFacts:
        """The facts with where the run, and each of its shards, sent its files, and which those were."""
        run_ids = [self._scope.run_id, *(shard.run_id for shard in self.shards())]
        (row,) = fetch(self._engine, sa.select(run).where(run.c.run_id == self._scope.run_id))
        reached = fetch(
            self._engine, sa.select(storage_host.c.host).where(storage_host.c.run_id.in_(run_ids))
        )
        return replace(
            facts,
            api_host=row.api_host,
            storage_hosts=sorted({each.host for each in reached}),
            manifest_sha256=row.manifest_sha256,
            root=row.root,
        )

    def studies(self) -> KeptEntries:
        """The run's manifest rows in the manifest's order."""
        return KeptEntries(self._engine, self._scope.run_id)

    def overlaps(self) -> dict[int, int]:
        """study_no to the earlier study_no that it shares files with."""
        query = sa.select(study.c.study_no, study.c.overlaps).where(
            study.c.run_id == self._scope.run_id, study.c.overlaps.is_not(None)
        )
        return {row.study_no: row.overlaps for row in fetch(self._engine, query)}

    def real_dirs(self) -> dict[int, bytes]:
        """study_no to the real directory that was decided for all shards of this run."""
        query = sa.select(study.c.study_no, study.c.real_dir).where(
            study.c.run_id == self._scope.run_id, study.c.real_dir.is_not(None)
        )
        found = fetch(self._engine, query)
        return {row.study_no: os.fsencode(unescape(row.real_dir)) for row in found}

    def unused_keys(self) -> list[str]:
        """Those that this run, and each of its shards, was given at its start; oldest first."""
        run_ids = [self._scope.run_id, *(shard.run_id for shard in self.shards())]
        query = (
            sa.select(issued_key.c.key)
            .where(issued_key.c.file_id == NO_FILE, issued_key.c.run_id.in_(run_ids))
            .where(issued_key.c.campaign == self._scope.campaign)
            .order_by(issued_key.c.issued_ns)
        )
        return [row.key for row in fetch(self._engine, query)]

    def unscanned_by(self, run_ids: Sequence[str]) -> list[tuple[int, str]]:
        """study_no and escaped study_dir of what these runs have not walked to its end, by study_no."""
        query = (
            sa.select(study.c.study_no, study.c.study_dir)
            .where(study.c.run_id.in_(run_ids), ~study.c.scanned)
            .order_by(study.c.study_no)
        )
        return [(row.study_no, row.study_dir) for row in fetch(self._engine, query)]

    @property
    def _is_our_shard(self) -> "sa.ColumnElement[bool]":
        """Whether a row of `run` is that of a shard of this run."""
        # By their names, and not by how these begin: an index of names finds those on every database.
        of_this_run = run.c.run_id.in_(shard_run_ids(self._scope.run_id))
        return (run.c.campaign == self._scope.campaign) & of_this_run

    # -- writes ------------------------------------------------------------------------------------------

    def begin(
        self,
        db: sa.Connection,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        target: Target,
        real_dirs: Mapping[int, bytes] = _NONE_DECIDED,
    ) -> None:
        """Adds the run and its studies. UsageError when the campaign belongs to another platform."""
        bind(db, self._scope, target)
        begun = self._begun(started_ns, report_dir) | _kept_target(target)
        self._add(db, self._scope.run_id, begun, self._scope.now_s, entries, overlaps, real_dirs)

    def begin_divided(
        self,
        db: sa.Connection,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        real_dirs: Mapping[int, bytes],
        shards: Sequence[Sequence[StudyEntry]],
        target: Target,
    ) -> bool:
        """Adds the run, its studies, and a run that nobody has begun for each shard: all of it, or nothing.

        False while another process is at work on the run. One that is known, yet was never divided, is begun
        anew: an earlier version was killed between the two.
        """
        self.begin(db, started_ns, report_dir, (), overlaps, target)
        if not self.take_up(db, started_ns, report_dir, target):
            return False
        if db.scalar(sa.select(sa.exists().where(self._is_our_shard))):
            return True  # by a process that was quicker, and is dead by now
        db.execute(sa.delete(study).where(study.c.run_id == self._scope.run_id))
        self.begin(db, started_ns, report_dir, entries, overlaps, target, real_dirs)
        for number, part in enumerate(shards, 1):
            run_id = shard_run_id(self._scope.run_id, number)
            self._add(db, run_id, {"started_ns": 0, "report_dir": ""}, 0, part, overlaps)
        return True

    def take_up(self, db: sa.Connection, started_ns: int, report_dir: Path, target: Target) -> bool:
        """Begins a run that is known, from its start. False while another process is at work on it.

        UsageError when the campaign belongs to another platform.
        """
        bind(db, self._scope, target)
        of_this_run = run.c.run_id == self._scope.run_id
        before = db.execute(sa.select(run.c.started_ns, run.c.locked).where(of_this_run)).one_or_none()
        its_process_is_gone = run.c.started_ns == (
            before.started_ns if before and is_unlocked(before.locked, self._locked) else started_ns
        )
        begun = db.execute(
            sa.update(run)
            .where(of_this_run, ~self._scope.is_alive | its_process_is_gone)
            .values(
                **self._begun(started_ns, report_dir),
                heartbeat_s=self._scope.now_s,
                end=sa.null(),
                progress=sa.null(),
                **_kept_target(target),
            )
        )
        if not begun.rowcount:
            return False
        self._free_claims(db)
        db.execute(sa.delete(listing).where(listing.c.run_id == self._scope.run_id))
        db.execute(sa.update(study).where(study.c.run_id == self._scope.run_id).values(scanned=False))
        return True

    def end(self, db: sa.Connection, facts: RunFacts) -> None:
        """Keeps the facts, and frees what the run still claims."""
        self._free_claims(db)
        self._update_ours(db, heartbeat_s=0, end=asdict(facts))

    def beat(self, db: sa.Connection, silent_s: float) -> bool:
        """Whether it gave a sign of life, `silent_s` after the last, of a run that is at work here.

        Begins each commit: what this run writes in it, it writes as a living one, for nobody declares dead
        what has its row locked. Raises StoppedError when nothing more may be written at all.
        """
        if self.at_work_since_ns is None:
            return True
        its = db.execute(self._own_row(self.at_work_since_ns)).one_or_none()
        if its is None:
            raise StoppedError(_TAKEN_UP)
        if self.counts_as_dead or its.heartbeat_s <= 0 or silent_s > self._scope.dead_after_s:
            self.counts_as_dead = True
            return False
        if silent_s < heartbeat_s(self._scope.dead_after_s):
            return False
        self._update_ours(db, heartbeat_s=self._scope.now_s)
        return True

    def _own_row(self, since_ns: int) -> "sa.Select[Any]":
        """Locked until the commit: by PostgreSQL no longer than this process may be silent."""
        if self._composed and self._composed[0] == since_ns:
            return self._composed[1]
        columns: list[Any] = [run.c.heartbeat_s]
        if self._scope.dialect == "postgresql":
            most_ms = str(int(1000 * patience_s(self._scope.dead_after_s)))
            columns.append(sa.func.set_config("idle_in_transaction_session_timeout", most_ms, sa.true()))
        self._composed = (since_ns, sa.select(*columns).where(*self._ours).with_for_update())
        return self._composed[1]

    @property
    def _ours(self) -> "tuple[sa.ColumnElement[bool], ...]":
        """The run's row, as long as no other process took it up."""
        return run.c.run_id == self._scope.run_id, run.c.started_ns == self.at_work_since_ns

    def _begun(self, started_ns: int, report_dir: Path) -> dict[str, Any]:
        """What a run's row says of its beginning."""
        last = run.alias("last_run")
        return {
            "started_ns": started_ns,
            "report_dir": _kept_path(report_dir),
            "serial": sa.select(sa.func.coalesce(sa.func.max(last.c.serial), 0) + 1).scalar_subquery(),
            "locked": self._locked,
        }

    def reach(self, db: sa.Connection, reached: Sequence[Reaching]) -> list[None]:
        """Adds hosts that files of this run go to from here on."""
        for host in sorted({each.storage_host for each in reached}):
            values = {"run_id": self._scope.run_id, "host": host}
            is_new = db.execute(self._scope.insert(storage_host).values(**values)).rowcount == 1
            if is_new and self._events:
                self._events.record_storage_host(host)
        return [None] * len(reached)

    def _add(
        self,
        db: sa.Connection,
        run_id: str,
        begun: dict[str, Any],
        heartbeat_s: Any,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        real_dirs: Mapping[int, bytes] = _NONE_DECIDED,
    ) -> None:
        values = {"run_id": run_id, "campaign": self._scope.campaign, **begun}
        db.execute(self._scope.insert(run).values(**values, heartbeat_s=heartbeat_s))
        for start in range(0, len(entries), _AT_ONCE):
            page = entries[start : start + _AT_ONCE]
            rows = [
                entry_values(run_id, entry, overlaps.get(entry.study_no), real_dirs.get(entry.study_no))
                for entry in page
            ]
            db.execute(self._scope.insert(study), rows)

    def _free_claims(self, db: sa.Connection) -> None:
        for table in (instance, other_content):
            db.execute(sa.delete(table).where(table.c.run_id == self._scope.run_id, UNSTORED))

    def _update_ours(self, db: sa.Connection, **values: Any) -> None:
        """Updates the run's row, unless another process took it up: then nothing more may be written."""
        done = db.execute(sa.update(run).where(*self._ours).values(**values, progress=self._counters()))
        if not done.rowcount:
            raise StoppedError(_TAKEN_UP)


def _kept_target(target: Target) -> dict[str, str]:
    return {name: getattr(target, name) for name in ("api_host", "manifest_sha256", "root")}


def _kept_path(directory: Path) -> str:
    return escape(str(directory.absolute()))
