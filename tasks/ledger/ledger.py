"""The ledger: one durable row per file and campaign, and one per key issued. The database of truth.

    runs.py             a run's life, its studies and shards
    files.py            what is to be done, claims, keys, outcomes
    report_query.py     the rows of its report
    pruning.py          listings that no report needs any more
    group_commit.py     the thread through which all of them write

Whoever writes waits until his row is durable. `schema.py` says what each table is.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa

from tasks.core.duplicates import Claim
from tasks.core.errors import IngestError, RowRefusedError, StoppedError, UsageError
from tasks.core.models import Listed, Outcome, Reason, RunFacts, Status, StudyEntry, Target, Todo, Unwalked
from tasks.core.plan import Enrolled, Rules
from tasks.core.report_columns import ReportRow
from tasks.ledger.claims import Claims
from tasks.ledger.database import connect, has_ledger, patience_s, prepare, wait_for_locks
from tasks.ledger.due_files import DueFiles
from tasks.ledger.file_requests import Claiming, FileAnswer, FileRequest, Issuing, Reaching, Settling
from tasks.ledger.files import Files
from tasks.ledger.group_commit import Request, Writer, answer_to
from tasks.ledger.kept_entries import KeptEntries
from tasks.ledger.left_files import LeftFiles
from tasks.ledger.liveness import OtherRuns, awake_or_asleep, heartbeat_s, kept_lock
from tasks.ledger.pruning import is_pruned, prune
from tasks.ledger.report_query import report_rows, with_unscanned
from tasks.ledger.runs import AT_WORK, SILENT, Runs
from tasks.ledger.shard_runs import ShardStanding
from tasks.ledger.statements import Scope
from tasks.ledger.trail_events import AuditTrail, TrailEvents
from tasks.settings import RunSettings

_NO_RULES: Final = Rules()
_NO_TARGET: Final = Target()
_NO_RUN: Final = (
    "There is no run in this report directory, for there is no ledger of it: name the report directory of a "
    "run, or its --ledger."
)
_KEPT_CHARS: Final = 200  # of the path of a row that the database can't hold
_PRUNED: Final = (
    "The ledger has rows of this run no more: a later run, maybe on another machine, has written its report "
    "into a directory of this name. Run the same command again, with a --report-dir of another name."
)
_UNSCANNED: Final = -1  # the batch of what was not walked

_T = TypeVar("_T")


def _nothing() -> None:
    """For a ledger without a trail."""


class Ledger:
    """One campaign's part of the database, as one run sees it. Thread-safe."""

    def __init__(
        self,
        url: str | Path,
        campaign: str,
        run_id: str,
        dead_after_s: float = RunSettings.dead_after,
        trail: AuditTrail | None = None,
        counters: Callable[[], dict[str, int]] = dict,
        clock: Callable[[], float] = awake_or_asleep,
    ) -> None:
        """Opens or creates the database: a file path for SQLite, else a SQLAlchemy URL.

        What another run has claimed is free again when that run gave no sign of life for `dead_after_s`.
        What becomes of a key is on the `trail` before it is committed here. Each sign of life of this run has
        its `counters` with it, and is due by the `clock`.
        """
        self.campaign = campaign
        self.run_id = run_id
        self._engine = connect(url)
        wait_for_locks(self._engine, heartbeat_s(dead_after_s))
        try:
            prepare(self._engine)
        except IngestError:
            self._engine.dispose()
            raise
        self._scope = scope = Scope(self._engine.dialect.name, campaign, run_id, dead_after_s)
        locked = kept_lock(trail.path) if trail else ""
        self._not_issued: list[Issuing] = []
        events = TrailEvents(trail, campaign) if trail else None
        self._runs = Runs(self._engine, scope, counters, events, locked)
        self._claims = Claims(scope, OtherRuns(scope, clock, locked))
        self._files = Files(self._engine, scope, events, self._claims)
        self._left = LeftFiles(self._engine, scope)
        self.due = DueFiles(self._engine, scope)
        self._writer = Writer(
            self._engine,
            self._runs.beat,
            heartbeat_s(dead_after_s),
            at_begin=events.begin if events else _nothing,
            before_commit=events.flush if events else _nothing,
            clock=clock,
            patience_s=patience_s(dead_after_s),
        )

    @classmethod
    def of_last_run(cls, url: str | Path, campaign: str, report_dir: Path) -> Self:
        """The ledger as the newest run into this report directory sees it. UsageError when none is over.

        A database that is not there, or holds no ledger, is not made.
        """
        if not has_ledger(url):
            raise UsageError(_NO_RUN)
        any_run = cls(url, campaign, run_id="")
        try:
            run_id = any_run._runs.newest_into(report_dir)
        finally:
            any_run.close()
        ledger = cls(url, campaign, run_id)
        try:
            if any(shard.is_alive for shard in ledger.shards()):
                raise UsageError(AT_WORK)
            ledger._runs.require_what_it_found()
        except IngestError:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Commits what waits, and lets the database go."""
        self._writer.close()
        self._engine.dispose()

    # -- a run's life ------------------------------------------------------------------------------------

    def begin(
        self,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        target: Target = _NO_TARGET,
    ) -> None:
        """The run and its manifest are known from here on; `overlaps`: study_no to earlier study_no.

        UsageError when the campaign belongs to another platform than the target's.
        """
        self._writer.write(lambda db: self._runs.begin(db, started_ns, report_dir, entries, overlaps, target))
        self._runs.at_work_since_ns = started_ns

    def begin_divided(
        self,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        real_dirs: Mapping[int, bytes],
        shards: Sequence[Sequence[StudyEntry]],
        target: Target = _NO_TARGET,
    ) -> bool:
        """As `begin`, and so are the shards that the run is cut into: each a run, for `take_up`.

        `real_dirs` is for them. All in one commit. False while another process is at work on this run.
        """
        divided = started_ns, report_dir, entries, overlaps, real_dirs, shards, target
        is_ours = self._writer.write(lambda db: self._runs.begin_divided(db, *divided))
        if is_ours:
            self._runs.at_work_since_ns = started_ns
        return is_ours

    def take_up(self, started_ns: int, report_dir: Path, target: Target = _NO_TARGET) -> bool:
        """Begins a run that is known already, from its start. False while another process is at work on it.

        What an earlier process stored in it counts as this one's, and what that one claimed is free again.
        """
        is_ours = self._writer.write(lambda db: self._runs.take_up(db, started_ns, report_dir, target))
        if is_ours:
            self._runs.at_work_since_ns = started_ns
        return is_ours

    def end(self, facts: RunFacts) -> None:
        """The run is over: what it still claims is free again.

        A key that could not be made durable when it came, as the disk was full or the database away, is among
        the unused ones: nothing was sent to it.
        """
        self._writer.submit_all([(self._add_unused, request) for request in self._not_issued])
        self._writer.write(lambda db: self._runs.end(db, facts))
        self._runs.at_work_since_ns = None
        self._engine.dispose()  # and what its connections hold of the database: a report needs the room

    def _add_unused(self, db: sa.Connection, requests: list[Issuing]) -> list[bool]:
        return [self._files.issue_unused(db, request.key, request.now_ns) for request in requests]

    # -- plan --------------------------------------------------------------------------------------------

    def enrol(
        self,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules = _NO_RULES,
    ) -> Enrolled:
        """Adds rows of the scan to the report; returns how many of them are to be done.

        What is stored and unchanged is settled here, without being opened. `scanned` names the studies whose
        last row this is. A row that the database can't hold is `unreadable`, under a path that it can.
        """
        try:
            return self._write_alive(lambda db: self._files.enrol(db, batch_no, rows, scanned, rules))
        except RowRefusedError:
            if not rows:
                raise
        if len(rows) == 1:
            return self._enrol_stand_in(batch_no, rows[0], scanned)
        half = len(rows) // 2
        first = self.enrol(batch_no, rows[:half], [], rules)
        rest = self.enrol(batch_no, rows[half:], scanned, rules)
        return first.beside(rest)

    def _enrol_stand_in(self, batch_no: int, row: Listed | Unwalked, scanned: Sequence[int]) -> Enrolled:
        """Adds a row in place of one that the database can't hold: its path's beginning and SHA-256."""
        digest = hashlib.sha256(os.fsencode(row.path)).hexdigest()
        path = f"{row.path[:_KEPT_CHARS]} {digest}"
        known = Unwalked(row.study_no, row.file_no, path, Status.UNREADABLE, Reason.IO_ERROR)
        return self._writer.write(lambda db: self._files.enrol(db, batch_no, [known], scanned, _NO_RULES))

    def enrol_unscanned(self) -> None:
        """One row for each study directory that this run has not walked to its end."""
        for rows in self._files.unscanned():
            self._enrol_unscanned(rows)

    @property
    def left(self) -> LeftFiles:
        """What earlier runs left without storing it."""
        return self._left

    def drop_stored(self) -> None:
        """Once all is sent: what is gone and was stored from elsewhere meanwhile has no row."""
        self._writer.write(self._left.drop_stored)

    def todo(self, batch_no: int, study_nos: Sequence[int] = ()) -> Iterator[Todo]:
        """A batch's files that are not settled yet, in the report's order; read as they are asked for."""
        return self._files.todo(batch_no, study_nos)

    # -- upload ------------------------------------------------------------------------------------------

    def claim(self, todo: Todo, sop_instance_uid: str, sha256: str = "", is_to_be_sent: bool = True) -> Claim:
        """Claims a SOP Instance UID for a file, or says whose it is. The first claim wins.

        With `sha256` it is about these bytes beside others that are stored under the UID; a file that is not
        to be sent claims nothing.
        """
        claim: Claim = self._ask(Claiming(todo, sop_instance_uid, sha256, is_to_be_sent))
        return claim

    def issue(self, todo: Todo, sop_instance_uid: str, key: str, now_ns: int) -> bool:
        """Makes the intent to send durable. False when the key was issued before: it must not be used."""
        return bool(self._ask(Issuing(todo, sop_instance_uid, key, now_ns)))

    def issue_unused(self, key: str, now_ns: int) -> bool:
        """Makes a key durable to which nothing is sent. False when it was issued before."""
        return self._write_alive(lambda db: self._files.issue_unused(db, key, now_ns))

    def issue_lost(self, keys: Sequence[tuple[str, int]]) -> None:
        """Makes those durable, each with when it came, that only the trail has: their commit had failed."""
        self._writer.write(lambda db: self._files.issue_lost(db, keys))

    def settle(self, todo: Todo, outcome: Outcome | None, claimed: Collection[str] = ()) -> None:
        """Makes an outcome durable; only then does the file count as done. Without one it waits for another.

        Of the SOP Instance UIDs that it has `claimed`, those under which it stored nothing are free again.
        """
        self._ask(Settling(todo, outcome, claimed))

    def reach(self, storage_host: str) -> None:
        """Makes durable that files of this run go to a host, host:port, before the first does."""
        self._ask(Reaching(storage_host))

    def post(self, request: FileRequest, reply: Callable[[FileAnswer | Exception], None]) -> None:
        """Returns at once; the writer's thread calls `reply`, once it is durable, or with an exception."""

        def answered(answer: FileAnswer | Exception) -> None:
            if isinstance(request, Issuing) and isinstance(answer, Exception):
                self._not_issued.append(request)
            reply(answer)

        self._writer.post(self._handled(request), answered)

    def _ask(self, request: FileRequest) -> Any:
        return answer_to(partial(self.post, request))

    def _handled(self, request: FileRequest) -> Request:
        match request:
            case Claiming():
                return self._claim, request
            case Issuing():
                return self._issue, request
            case Settling():
                return self._settle, request
            case Reaching():
                return self._runs.reach, request

    # What a run that counts as dead is answered: it may neither claim nor settle anything any more.

    def _claim(self, db: sa.Connection, requests: list[Claiming]) -> list[Any]:
        return self._refusals(len(requests)) or self._claims.claim(db, requests)

    def _issue(self, db: sa.Connection, requests: list[Issuing]) -> list[Any]:
        return self._refusals(len(requests)) or self._files.issue(db, requests)

    def _settle(self, db: sa.Connection, requests: list[Settling]) -> list[Any]:
        if refusals := self._refusals(len(requests)):
            self._files.settle_as_dead(db, requests)
            return refusals
        return self._files.settle(db, requests)

    def _write_alive(self, work: Callable[[sa.Connection], _T]) -> _T:
        def works(db: sa.Connection, items: list[None]) -> list[Any]:
            return self._refusals(len(items)) or [work(db) for _ in items]

        answer: _T = self._writer.submit(works, None)
        return answer

    def _refusals(self, count: int) -> list[StoppedError]:
        """One for each request of a run that counts as dead; else none."""
        return [StoppedError(SILENT) for _ in range(count)] if self._runs.counts_as_dead else []

    def _enrol_unscanned(self, rows: list[Unwalked]) -> None:
        """Also of a run that counts as dead: these are rows of its report alone."""
        scanned = [row.study_no for row in rows]
        self._writer.write(lambda db: self._files.enrol(db, _UNSCANNED, rows, scanned, _NO_RULES))

    # -- report ------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the run came to its end, neither interrupted nor killed."""
        return self._runs.is_over()

    @property
    def report_dir(self) -> Path | None:
        """Where the run's report is; None of one that nobody has begun."""
        return self._runs.report_dir()

    def facts(self) -> RunFacts:
        """What the run said at its end; when it was killed, what can be known of it."""
        return self._runs.facts()

    def manifest_sha256(self) -> str:
        """The digest of the run's manifest; empty when there was none, or an earlier version did the run."""
        return self._runs.manifest_sha256()

    def with_target(self, facts: RunFacts) -> RunFacts:
        """The facts with where the run, and each of its shards, sent its files, and which those were."""
        return self._runs.with_target(facts)

    def shards(self) -> list[ShardStanding]:
        """The shards that this run was cut into, in their order; none of a run that is whole."""
        return self._runs.shards()

    def studies(self) -> KeptEntries:
        """The run's manifest rows in the manifest's order; as often as one likes."""
        return self._runs.studies()

    def overlaps(self) -> dict[int, int]:
        """study_no to the earlier study_no that it shares files with."""
        return self._runs.overlaps()

    def real_dirs(self) -> dict[int, bytes]:
        """study_no to the real directory that was decided for all shards of this run."""
        return self._runs.real_dirs()

    def unused_keys(self) -> list[str]:
        """Those that this run, and each of its shards, was given at its start; oldest first."""
        return self._runs.unused_keys()

    def report_rows(self) -> Iterator[ReportRow]:
        """The run's report, of all its shards, sorted by study_no and file_no.

        A study directory that a shard has not walked to its end has a row for that here, and none in the
        ledger: whoever is at work on the shard, or takes it up a moment later, must not find one. Raises
        StoppedError at its end when a later run into a directory of this name pruned it meanwhile.
        """
        shards = [shard.run_id for shard in self.shards()]
        run_ids = shards or [self.run_id]
        rows = report_rows(self._engine, run_ids)
        yield from with_unscanned(rows, self._runs.unscanned_by(shards)) if shards else rows
        if is_pruned(self._engine, run_ids):
            raise StoppedError(_PRUNED)

    def prune(self) -> None:
        """Deletes listings of earlier runs into this report directory, once its newer report is complete."""
        prune(self._engine, self._scope, self._writer.write)
