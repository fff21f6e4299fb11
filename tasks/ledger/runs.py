"""Runs and shards: who is at work, with which studies, and how each ended.

What takes a connection writes by it, and may be executed again when its commit got lost on the way.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.errors import InterruptedRunError, StoppedError, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import RunFacts, StudyEntry
from tasks.ledger.database import connect, has_ledger, reading, retry_while_busy
from tasks.ledger.schema import file, instance, issued_key, listing, run, study
from tasks.ledger.statements import NO_FILE, Scope

AT_WORK: Final = "A run into this report directory is at work, or was killed less than a minute ago."
_AT_ONCE: Final = 1000  # rows read or written
_NONE_DECIDED: Final[Mapping[int, bytes]] = MappingProxyType({})


class Begins(StrEnum):
    """What a run makes anew, so that it knows nothing of what earlier runs stored."""

    NOTHING = ""
    CAMPAIGN = "campaign"
    LEDGER = "ledger"

    def sentence(self, campaign: str, where: str = "") -> str:
        """What that means; empty for nothing. `where` the ledger is may be said on a terminal alone."""
        if self is Begins.LEDGER:
            in_it = f" in {where}" if where else ""
            return (
                f"A new ledger begins{in_it}: what earlier runs stored with another ledger is not known to "
                "it, and is sent again."
            )
        if self is Begins.CAMPAIGN:
            return (
                f"Campaign {campaign} is new in this ledger: what other campaigns stored is not known to it, "
                "and is sent again."
            )
        return ""


def begins(url: str | Path, campaign: str) -> Begins:
    """What a run of this campaign would make anew. It makes nothing itself."""
    if not has_ledger(url):
        return Begins.LEDGER
    engine = connect(url)
    try:
        return retry_while_busy(lambda: _begins(engine, campaign))
    finally:
        engine.dispose()


def _begins(engine: sa.Engine, campaign: str) -> Begins:
    with engine.connect() as db:
        is_known = db.scalar(sa.select(sa.exists().where(run.c.campaign == campaign)))
        return Begins.NOTHING if is_known else Begins.CAMPAIGN


def shard_run_id(run_id: str, shard_no: int) -> str:
    """The run_id of a run's shard."""
    return f"{run_id}-{shard_no:04}"


@dataclass(frozen=True, slots=True)
class ShardStanding:
    """Where a shard of a run stands. `facts` once a process has ended it, in order or stopped early."""

    run_id: str
    is_alive: bool
    facts: RunFacts | None
    progress: Mapping[str, int]  # the counters of its last sign of life


class Runs:
    """One run in the ledger, and its shards."""

    def __init__(self, engine: sa.Engine, scope: Scope, counters: Callable[[], dict[str, int]]) -> None:
        """Each sign of life has its `counters` with it."""
        self._engine = engine
        self._scope = scope
        self._counters = counters
        # Set once that is durable: whoever only looks at a run gives no sign of life for it.
        self.at_work_since_ns: int | None = None

    # -- reads -------------------------------------------------------------------------------------------

    def newest_into(self, report_dir: Path) -> str:
        """The run_id of the newest run into this report directory. UsageError when none is over."""
        query = (
            sa.select(run.c.run_id, self._scope.is_alive.label("alive"))
            .where(run.c.campaign == self._scope.campaign, run.c.report_dir == _kept_path(report_dir))
            .order_by(run.c.started_ns.desc())
            .limit(1)
        )
        with reading(self._engine) as db:
            newest = db.execute(query).one_or_none()
        if newest is None:
            raise UsageError(
                "The ledger knows no run into this report directory: name its --ledger and --campaign."
            )
        if newest.alive:
            raise UsageError(AT_WORK)
        run_id: str = newest.run_id
        return run_id

    def shards(self) -> list[ShardStanding]:
        """The shards that this run was cut into, in their order; none of a run that is whole."""
        query = (
            sa.select(run.c.run_id, run.c.end, run.c.progress, self._scope.is_alive.label("alive"))
            .where(self._is_our_shard)
            .order_by(run.c.run_id)
        )
        with reading(self._engine) as db:
            return [
                ShardStanding(
                    row.run_id, bool(row.alive), RunFacts(**row.end) if row.end else None, row.progress or {}
                )
                for row in db.execute(query)
            ]

    def is_over(self) -> bool:
        """Whether the run came to its end, neither interrupted nor killed."""
        with reading(self._engine) as db:
            end = db.scalar(sa.select(run.c.end).where(run.c.run_id == self._scope.run_id))
        return end is not None and end["stopped_exit_code"] != InterruptedRunError.exit_code

    def facts(self) -> RunFacts:
        """What the run said at its end; when it was killed, what can be known of it."""
        run_id = self._scope.run_id
        last_ns = sa.select(sa.func.max(file.c.finished_ns)).where(file.c.run_id == run_id)
        with reading(self._engine) as db:
            row = db.execute(sa.select(run).where(run.c.run_id == run_id)).one()
            if row.end is not None:
                return RunFacts(**row.end)
            finished_ns = db.scalar(last_ns) or row.started_ns
        return RunFacts(
            run_id,
            self._scope.campaign,
            row.started_ns,
            finished_ns,
            peak_parallel=0,
            problems=["The run was killed: this is what its ledger had. Run the same command to go on."],
            stopped_exit_code=StoppedError.exit_code,
        )

    def studies(self) -> Iterator[StudyEntry]:
        """The run's manifest rows in the manifest's order."""
        query = sa.select(study).where(study.c.run_id == self._scope.run_id).order_by(study.c.study_no)
        with reading(self._engine) as db:
            for row in db.execution_options(yield_per=_AT_ONCE).execute(query):
                yield StudyEntry(
                    row.study_no,
                    unescape(row.study_dir),
                    row.study_instance_uid,
                    row.expected_instances,
                    row.priority,
                    row.label,
                    tuple((name, text) for name, text in row.extra),
                    row.expected_bytes,
                )

    def overlaps(self) -> dict[int, int]:
        """study_no to the earlier study_no that it shares files with."""
        query = sa.select(study.c.study_no, study.c.overlaps).where(
            study.c.run_id == self._scope.run_id, study.c.overlaps.is_not(None)
        )
        with reading(self._engine) as db:
            return {row.study_no: row.overlaps for row in db.execute(query)}

    def real_dirs(self) -> dict[int, bytes]:
        """study_no to the real directory that was decided for all shards of this run."""
        query = sa.select(study.c.study_no, study.c.real_dir).where(
            study.c.run_id == self._scope.run_id, study.c.real_dir.is_not(None)
        )
        with reading(self._engine) as db:
            return {row.study_no: os.fsencode(unescape(row.real_dir)) for row in db.execute(query)}

    def unused_keys(self) -> list[str]:
        """Those that this run, and each of its shards, was given at its start; oldest first."""
        run_ids = [self._scope.run_id, *(shard.run_id for shard in self.shards())]
        query = (
            sa.select(issued_key.c.key)
            .where(issued_key.c.file_id == NO_FILE, issued_key.c.run_id.in_(run_ids))
            .where(issued_key.c.campaign == self._scope.campaign)
            .order_by(issued_key.c.issued_ns)
        )
        with reading(self._engine) as db:
            return list(db.scalars(query))

    def unscanned_by(self, run_ids: Sequence[str]) -> list[tuple[int, str]]:
        """study_no and escaped study_dir of what these runs have not walked to its end, by study_no."""
        query = (
            sa.select(study.c.study_no, study.c.study_dir)
            .where(study.c.run_id.in_(run_ids), ~study.c.scanned)
            .order_by(study.c.study_no)
        )
        with reading(self._engine) as db:
            return [(row.study_no, row.study_dir) for row in db.execute(query)]

    @property
    def _is_our_shard(self) -> "sa.ColumnElement[bool]":
        """Whether a row of `run` is that of a shard of this run."""
        of_this_run = run.c.run_id.startswith(f"{self._scope.run_id}-", autoescape=True)
        return (run.c.campaign == self._scope.campaign) & of_this_run

    # -- writes ------------------------------------------------------------------------------------------

    def begin(
        self,
        db: sa.Connection,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        real_dirs: Mapping[int, bytes] = _NONE_DECIDED,
    ) -> None:
        """Adds the run and its studies."""
        begun = {"started_ns": started_ns, "report_dir": _kept_path(report_dir)}
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
    ) -> bool:
        """Adds the run, its studies, and a run that nobody has begun for each shard: all of it, or nothing.

        False while another process is at work on the run. One that is known, yet was never divided, is begun
        anew: an earlier version was killed between the two.
        """
        self.begin(db, started_ns, report_dir, (), overlaps)
        if not self.take_up(db, started_ns, report_dir):
            return False
        if db.scalar(sa.select(sa.exists().where(self._is_our_shard))):
            return True  # by a process that was quicker, and is dead by now
        db.execute(sa.delete(study).where(study.c.run_id == self._scope.run_id))
        self.begin(db, started_ns, report_dir, entries, overlaps, real_dirs)
        for number, part in enumerate(shards, 1):
            run_id = shard_run_id(self._scope.run_id, number)
            self._add(db, run_id, {"started_ns": 0, "report_dir": ""}, 0, part, overlaps)
        return True

    def take_up(self, db: sa.Connection, started_ns: int, report_dir: Path) -> bool:
        """Begins a run that is known, from its start. False while another process is at work on it."""
        of_this_run = run.c.run_id == self._scope.run_id
        begun = db.execute(
            sa.update(run)
            .where(of_this_run, ~self._scope.is_alive | (run.c.started_ns == started_ns))
            .values(
                started_ns=started_ns,
                report_dir=_kept_path(report_dir),
                heartbeat_s=self._scope.now_s,
                end=sa.null(),
                progress=sa.null(),
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

    def beat(self, db: sa.Connection) -> None:
        """Gives a sign of life, of a run that is at work here."""
        if self.at_work_since_ns is not None:
            self._update_ours(db, run.c.heartbeat_s > 0, heartbeat_s=self._scope.now_s)

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
                _study_values(run_id, entry, overlaps.get(entry.study_no), real_dirs.get(entry.study_no))
                for entry in page
            ]
            db.execute(self._scope.insert(study), rows)

    def _free_claims(self, db: sa.Connection) -> None:
        of_this_run = instance.c.run_id == self._scope.run_id
        db.execute(sa.delete(instance).where(of_this_run, instance.c.key == ""))

    def _update_ours(self, db: sa.Connection, *where: Any, **values: Any) -> None:
        """Updates the run's row, unless another process took it up: then nothing more may be written for it.

        A process that was silent for too long (a machine that slept, a network that was cut) finds this out
        in its first commit, for a sign of life is due with it.
        """
        ours = (run.c.run_id == self._scope.run_id, run.c.started_ns == self.at_work_since_ns)
        done = db.execute(sa.update(run).where(*ours, *where).values(**values, progress=self._counters()))
        if not done.rowcount:
            raise StoppedError("Stopped: this process was silent for so long that another took its run up.")


def _kept_path(directory: Path) -> str:
    return escape(str(directory.absolute()))


def _study_values(
    run_id: str, entry: StudyEntry, overlaps: int | None, real_dir: bytes | None
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "study_no": entry.study_no,
        "study_dir": escape(entry.study_dir),
        "study_instance_uid": entry.study_instance_uid,
        "expected_instances": entry.expected_instances,
        "expected_bytes": entry.expected_bytes,
        "priority": entry.priority,
        "label": entry.label,
        "extra": [list(pair) for pair in entry.extra],
        "overlaps": overlaps,
        "real_dir": None if real_dir is None else escape(os.fsdecode(real_dir)),
        "scanned": False,
    }
