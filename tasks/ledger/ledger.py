"""The ledger: one durable row per file and campaign, and one per key issued. The database of truth.

    runs.py             a run's life, its studies and shards
    files.py            what is to be done, claims, keys, outcomes
    report_query.py     the rows of its report
    group_commit.py     the thread through which all of them write

Whoever writes waits until his row is durable. `schema.py` says what each table is.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tasks.core.duplicates import Claim
from tasks.core.errors import IngestError, UsageError
from tasks.core.models import Listed, Outcome, RunFacts, StudyEntry, Todo, Unwalked
from tasks.core.plan import Rules
from tasks.core.report_columns import ReportRow
from tasks.ledger.database import connect, has_ledger, prepare
from tasks.ledger.file_requests import Claiming, FileAnswer, FileRequest, Issuing, Settling
from tasks.ledger.files import Files
from tasks.ledger.group_commit import Request, Writer
from tasks.ledger.report_query import report_rows, with_unscanned
from tasks.ledger.runs import AT_WORK, Runs, ShardStanding
from tasks.ledger.statements import Scope
from tasks.ledger.trail_events import AuditTrail, TrailEvents
from tasks.settings import RunSettings

_NO_RULES: Final = Rules()
_NO_RUN: Final = (
    "There is no run in this report directory, for there is no ledger of it: name the report directory of a "
    "run, or its --ledger."
)
_UNSCANNED: Final = -1  # the batch of what was not walked


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or creates the database: a file path for SQLite, else a SQLAlchemy URL.

        What another run has claimed is free again when that run gave no sign of life for `dead_after_s`.
        What becomes of a key is on the `trail` before it is committed here. Each sign of life of this run has
        its `counters` with it, and is due by the `clock`.
        """
        self.campaign = campaign
        self.run_id = run_id
        self._engine = connect(url)
        try:
            prepare(self._engine)
        except IngestError:
            self._engine.dispose()
            raise
        scope = Scope(self._engine.dialect.name, campaign, run_id, dead_after_s)
        self._runs = Runs(self._engine, scope, counters)
        self._files = Files(self._engine, scope, TrailEvents(trail, campaign) if trail else None)
        self._writer = Writer(
            self._engine,
            self._runs.beat,
            dead_after_s / 4,
            before_commit=trail.flush if trail else lambda: None,
            clock=clock,
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
        if any(shard.is_alive for shard in ledger.shards()):
            ledger.close()
            raise UsageError(AT_WORK)
        return ledger

    def close(self) -> None:
        """Commits what waits, and lets the database go."""
        self._writer.close()
        self._engine.dispose()

    # -- a run's life ------------------------------------------------------------------------------------

    def begin(
        self, started_ns: int, report_dir: Path, entries: Sequence[StudyEntry], overlaps: Mapping[int, int]
    ) -> None:
        """The run and its manifest are known from here on; `overlaps`: study_no to earlier study_no."""
        self._writer.write(lambda db: self._runs.begin(db, started_ns, report_dir, entries, overlaps))
        self._runs.at_work_since_ns = started_ns

    def begin_divided(
        self,
        started_ns: int,
        report_dir: Path,
        entries: Sequence[StudyEntry],
        overlaps: Mapping[int, int],
        real_dirs: Mapping[int, bytes],
        shards: Sequence[Sequence[StudyEntry]],
    ) -> bool:
        """As `begin`, and so are the shards that the run is cut into: each a run, for `take_up`.

        `real_dirs` is for them. All in one commit. False while another process is at work on this run.
        """
        divided = started_ns, report_dir, entries, overlaps, real_dirs, shards
        is_ours = self._writer.write(lambda db: self._runs.begin_divided(db, *divided))
        if is_ours:
            self._runs.at_work_since_ns = started_ns
        return is_ours

    def take_up(self, started_ns: int, report_dir: Path) -> bool:
        """Begins a run that is known already, from its start. False while another process is at work on it.

        What an earlier process stored in it counts as this one's, and what that one claimed is free again.
        """
        is_ours = self._writer.write(lambda db: self._runs.take_up(db, started_ns, report_dir))
        if is_ours:
            self._runs.at_work_since_ns = started_ns
        return is_ours

    def end(self, facts: RunFacts) -> None:
        """The run is over: what it still claims is free again."""
        self._writer.write(lambda db: self._runs.end(db, facts))
        self._runs.at_work_since_ns = None

    # -- plan --------------------------------------------------------------------------------------------

    def enrol(
        self,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules = _NO_RULES,
    ) -> int:
        """Adds rows of the scan to the report; returns how many of them are to be done.

        What is stored and unchanged is settled here, without being opened. `scanned` names the studies whose
        last row this is.
        """
        return self._writer.write(lambda db: self._files.enrol(db, batch_no, rows, scanned, rules))

    def enrol_unscanned(self) -> None:
        """One row for each study directory that this run has not walked to its end."""
        for rows in self._files.unscanned():
            self.enrol(_UNSCANNED, rows, [row.study_no for row in rows])

    def todo(self, batch_no: int) -> Iterator[Todo]:
        """A batch's files that are not settled yet, in the report's order; read as they are asked for."""
        return self._files.todo(batch_no)

    # -- upload ------------------------------------------------------------------------------------------

    def claim(self, todo: Todo, sop_instance_uid: str) -> Claim:
        """Claims a SOP Instance UID for a file, or says whose it is. The first claim wins."""
        return self._writer.submit(self._files.claim, Claiming(todo, sop_instance_uid))

    def issue(self, todo: Todo, sop_instance_uid: str, key: str, now_ns: int) -> bool:
        """Makes the intent to send durable. False when the key was issued before: it must not be used."""
        return self._writer.submit(self._files.issue, Issuing(todo, sop_instance_uid, key, now_ns))

    def issue_unused(self, key: str, now_ns: int) -> bool:
        """Makes a key durable to which nothing is sent. False when it was issued before."""
        return self._writer.write(lambda db: self._files.issue_unused(db, key, now_ns))

    def settle(self, todo: Todo, outcome: Outcome, claimed: Collection[str] = ()) -> None:
        """Makes an outcome durable; only then does the file count as done.

        `claimed` are the SOP Instance UIDs that were claimed for it: those under which it did not store
        anything are free again.
        """
        self._writer.submit(self._files.settle, Settling(todo, outcome, claimed))

    def answer(self, requests: Sequence[FileRequest]) -> list[FileAnswer | Exception]:
        """Many of claim, issue and settle in one commit: an answer, or an exception, for each."""
        return self._writer.submit_all([self._handled(request) for request in requests])

    def _handled(self, request: FileRequest) -> Request:
        match request:
            case Claiming():
                return self._files.claim, request
            case Issuing():
                return self._files.issue, request
            case Settling():
                return self._files.settle, request

    # -- report ------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the run came to its end, neither interrupted nor killed."""
        return self._runs.is_over()

    def facts(self) -> RunFacts:
        """What the run said at its end; when it was killed, what can be known of it."""
        return self._runs.facts()

    def shards(self) -> list[ShardStanding]:
        """The shards that this run was cut into, in their order; none of a run that is whole."""
        return self._runs.shards()

    def studies(self) -> Iterator[StudyEntry]:
        """The run's manifest rows in the manifest's order."""
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
        ledger: whoever is at work on the shard, or takes it up a moment later, must not find one.
        """
        shards = [shard.run_id for shard in self.shards()]
        if not shards:
            return report_rows(self._engine, [self.run_id])
        return with_unscanned(report_rows(self._engine, shards), self._runs.unscanned_by(shards))
