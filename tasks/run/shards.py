"""Shards: a manifest cut into parts that many workers move together, and one report of all of them.

Each shard is a run of its own in one ledger, so any process can take it up, and take it up again where a
killed one left it. Whose a directory is, and which files are duplicates, is decided for the whole manifest:
the merged report is what a single run would have written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import uuid4

from tasks.core.audit_chain import Event
from tasks.core.concurrency_limit import shares, summed
from tasks.core.errors import CredentialsRefusedError, IngestError, StoppedError, UsageError
from tasks.core.models import Balance, Listed, RunFacts, StudyEntry, Summary
from tasks.core.plan import cut
from tasks.core.platform_state import PlatformState
from tasks.core.progress import COUNTERS, SLOTS, Progress
from tasks.core.run_bounds import Bound
from tasks.core.study_entries import StudyEntries
from tasks.ledger.database import has_ledger
from tasks.ledger.earlier_runs import Begins, begins
from tasks.ledger.ledger import Ledger
from tasks.ledger.shard_runs import ShardStanding, shard_run_id
from tasks.remote.platform_client import Platform
from tasks.run import edges as all_edges
from tasks.run.edges import Edges
from tasks.run.engine import Engine
from tasks.run.preflight import first_answer, target_of
from tasks.run.records import keep_unused, open_records, versions
from tasks.run.run_rules import problems_of
from tasks.settings import Settings
from tasks.source.archives import Archives
from tasks.source.own_files import own_files, require_none_in
from tasks.source.scan import Ownership, decided_ownership, survey, walk_study

log = logging.getLogger("dicom_ingest")

_NOT_ENDED: Final = "was not ended: run the same command to go on"
_IS_ALIVE: Final = (
    "was still at work when the migration ended: once it is not, dicom-ingest report has the rest"
)
_NO_SHARD: Final = "The ledger knows no such shard: shards are made and started by `migrate`."


class Migration:
    """A run that is cut into shards. It sends nothing itself; `finish` merges what the shards did."""

    def __init__(
        self,
        entries: Sequence[StudyEntry],
        settings: Settings,
        run_id: str,
        shards: int,
        balance: Balance,
        progress: Progress,
        edges: Edges | None = None,
    ) -> None:
        """Weighs the studies and cuts them, unless the ledger has the shards of this run already."""
        require_shared(settings)
        self.run_id = run_id
        self.settings = settings
        self._progress = progress
        self._clock_ns = (edges or all_edges.REAL).clock_ns
        self._elapsed = (edges or all_edges.REAL).elapsed
        most_s = settings.max_duration_s
        self._ends_at = None if most_s is None else self._elapsed() + most_s
        self._started_ns = self._clock_ns()
        ownership = survey(entries, settings.root or None)
        require_none_in(ownership.real_dirs, [settings.report_dir])
        target = target_of(settings, entries)
        self._problems = problems_of(ownership)
        with closing(Platform(settings)) as platform, ExitStack() as undo:
            ask = partial(first_answer, settings, platform, edges)
            self._records = open_records(undo, settings, run_id, target, ask)
            self._ledger, self.begins = self._records.ledger, self._records.begins
            ownership = replace(ownership, own=own_files([settings.report_dir], None))
            if settings.archives:
                ownership = replace(ownership, archives=Archives())
            self._records.begin(run_id, settings, len(entries), target)
            if refusal := keep_unused(self._ledger, self._records.first):
                raise refusal
            at = self._started_ns, settings.report_dir
            if self.standings():
                is_ours = self._ledger.take_up(*at, target)
            else:
                parts = _parts(entries, cut(weigh(entries, ownership, balance, progress), shards))
                decided = ownership.overlaps, ownership.real_dirs
                is_ours = self._ledger.begin_divided(*at, entries, *decided, parts, target)
            if not is_ours:
                raise UsageError("This migration is at work already: follow the run that is.")
            undo.pop_all()
        progress.scanning = False

    def bounds(self, shards: int) -> Callable[[int], dict[str, Any]]:
        """What gives a shard its part of --max-files, and of --max-duration what is left when it starts."""
        most, ends_at = self.settings.max_files, self._ends_at
        files = [] if most is None else shares(most, shards)

        def of_shard(number: int) -> dict[str, Any]:
            left_s = None if ends_at is None else max(0, int(ends_at - self._elapsed()))
            bounds = {"max_files": files[number - 1]} if files else {}
            return bounds | ({} if left_s is None else {"max_duration": str(left_s)})

        return of_shard

    def standings(self) -> list[ShardStanding]:
        """Where each shard stands, by their numbers from 1; the progress becomes the sum of theirs."""
        standings = self._ledger.shards()
        as_weighed = ("files_listed", "bytes_listed")
        at_least = {name: getattr(self._progress, name) for name in as_weighed}
        for counter in COUNTERS:
            total = sum(each.progress.get(counter, 0) for each in standings)
            setattr(self._progress, counter, max(total, at_least.get(counter, 0)))
        self._progress.platform = partial(_slots_of, [each.progress for each in standings if each.is_alive])
        return standings

    def finish(self, why: IngestError | None = None) -> Summary:
        """The report of all shards together; `why` is what stopped the migration before its end."""
        with closing(self._records):
            standings = self.standings()
            facts = self._facts(standings, why)
            self._ledger.end(facts)
            return self._records.write(self.settings.report_dir, facts, Event.RUN_ENDED)

    def _facts(self, standings: Sequence[ShardStanding], why: IngestError | None) -> RunFacts:
        ended = [standing.facts for standing in standings if standing.facts]
        problems = [str(why)] if why else []
        problems += [*self._records.problems, *self._problems]
        problems += [
            f"shard {number} {_IS_ALIVE if standing.is_alive else _NOT_ENDED}"
            for number, standing in enumerate(standings, 1)
            if not standing.facts
        ]
        problems += [problem for facts in ended for problem in facts.problems]
        codes = [facts.stopped_exit_code for facts in ended if facts.stopped_exit_code is not None]
        if len(ended) < len(standings):
            codes.append(StoppedError.exit_code)
        stopped_exit_code = _exit_code(why, codes)
        reached = [facts.ended_by for facts in ended if facts.ended_by]
        return RunFacts(
            self.run_id,
            self.settings.campaign,
            self._started_ns,
            self._clock_ns(),
            peak_parallel=min(self.settings.parallel, sum(facts.peak_parallel for facts in ended)),
            parallel_course=summed([self._course(facts) for facts in ended]),
            problems=list(dict.fromkeys(problems)),
            stopped_exit_code=stopped_exit_code,
            touched=sum(facts.touched for facts in ended),
            gone=sum(facts.gone for facts in ended),
            settings=self.settings.in_words,
            versions=versions(),
            ended_by=next(iter(reached), Bound.NONE) if stopped_exit_code is None else Bound.NONE,
        )

    def _course(self, facts: RunFacts) -> list[tuple[float, int]]:
        """A shard's slots by the migration's clock; none once it has ended."""
        ahead_s = (facts.started_ns - self._started_ns) / 1e9
        course = [(round(ahead_s + at, 1), limit) for at, limit in facts.parallel_course]
        return [*course, (round((facts.finished_ns - self._started_ns) / 1e9, 1), 0)]


def _parts(entries: Sequence[StudyEntry], cut_: Sequence[Sequence[int]]) -> list[list[StudyEntry]]:
    by_no = {entry.study_no: entry for entry in entries}
    return [[by_no[study_no] for study_no in part] for part in cut_]


def begin_migration(
    entries: Sequence[StudyEntry],
    settings: Settings,
    name: str,
    shards: int,
    balance: Balance,
    progress: Progress,
    edges: Edges | None = None,
) -> Migration:
    """The migration of this name: the one that was cut short, or a new one. Raises what `ingest` does."""
    return Migration(entries, settings, run_id_for(name, settings), shards, balance, progress, edges)


def run_id_for(name: str, settings: Settings) -> str:
    """The run of this name, to go on with; another, once that one has come to its end.

    A migration that was killed or interrupted goes on with its shards. One that is done, or was stopped by
    what somebody has mended since, is tried again as a whole: its shards are over.
    """
    require_shared(settings)
    if begins(settings.ledger_at, settings.campaign) is not Begins.NOTHING:
        return name
    with closing(_ledger(settings, name)) as ledger:
        return uuid4().hex if ledger.is_over else name


def shard_engine(settings: Settings, migration: str, shard_no: int, edges: Edges | None = None) -> Engine:
    """The engine of one shard. UsageError when the ledger does not know it, or another process is at it."""
    require_shared(settings)
    if not has_ledger(settings.ledger_at):
        raise UsageError(_NO_SHARD)
    run_id = shard_run_id(migration, shard_no)
    with closing(_ledger(settings, migration)) as whole, closing(_ledger(settings, run_id)) as part:
        entries = StudyEntries(whole.studies(), whole.manifest_sha256())
        whole_report_dir, real_dirs = whole.report_dir, whole.real_dirs()
        shard = {entry.study_no for entry in part.studies()}
    if not shard:
        raise UsageError(_NO_SHARD)
    # None of a migration that an earlier version began: each shard decides for itself, as it did then.
    ownership = decided_ownership(real_dirs, entries, settings.root or None) if real_dirs else None
    return Engine(
        entries,
        settings,
        run_id,
        shard=shard,
        ownership=ownership,
        edges=edges,
        whole_report_dir=whole_report_dir,
    )


def _slots_of(alive: Sequence[Mapping[str, int]]) -> PlatformState:
    """Those of all shards that are at work, as each said with its last sign of life."""
    slots, in_use = (sum(each.get(name, 0) for each in alive) for name in SLOTS)
    return PlatformState(slots=slots, slots_in_use=in_use)


def weigh(
    entries: Sequence[StudyEntry], ownership: Ownership, balance: Balance, progress: Progress
) -> dict[int, int]:
    """study_no to files or bytes. What the manifest says is believed; other studies are listed."""
    weights = {}
    for entry in entries:
        promised = entry.expected_instances if balance is Balance.FILES else entry.expected_bytes
        if promised is not None:
            weights[entry.study_no] = promised
            progress.files_listed += entry.expected_instances or 0
            progress.bytes_listed += entry.expected_bytes or 0
            continue
        weights[entry.study_no] = 0
        for row in walk_study(entry, ownership):
            size = row.size_bytes if isinstance(row, Listed) else 0
            weights[entry.study_no] += size if balance is Balance.BYTES else 1
            progress.files_listed += 1
            progress.bytes_listed += size
    return weights


def require_shared(settings: Settings) -> None:
    """Workers on other machines have to reach the ledger."""
    if "://" not in settings.ledger or settings.ledger.startswith("sqlite"):
        raise UsageError(
            "--ledger: shards need one database that all workers reach, such as postgresql://HOST/DB; its "
            "password comes from PGPASSWORD or PGPASSFILE. Nothing was sent."
        )


def _exit_code(why: IngestError | None, codes: Sequence[int]) -> int | None:
    """Of what stopped it; where that was one of its shards, the shard's."""
    if CredentialsRefusedError.exit_code in codes and (why is None or isinstance(why, StoppedError)):
        return CredentialsRefusedError.exit_code
    return why.exit_code if why else max(codes, default=None)


def _ledger(settings: Settings, run_id: str) -> Ledger:
    return Ledger(settings.ledger_at, settings.campaign, run_id, settings.dead_after)
