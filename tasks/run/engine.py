"""The engine: one run in one process, from checked study entries to a report. Two shells use it: Prefect's
flow, and `ingest`, which is the documented call.

    from tasks.run.engine import ingest
    from tasks.source.manifest_reader import load_manifest
    from tasks.settings import load

    summary = ingest(load_manifest(Path("manifest.csv")), load(api_endpoint="https://api.example.org"))

`ingest` returns the Summary that is also in summary.json; `summary.exit_code` is the command line's. It
raises UsageError when nothing was attempted, CredentialsRefusedError when it was because of credentials, and
StoppedError when no report could be written.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tasks.core.audit_chain import Event
from tasks.core.errors import IngestError, InterruptedRunError, PlannedEndError, UsageError
from tasks.core.models import Listed, RunFacts, StudyEntry, Summary, Target, Unwalked
from tasks.core.progress import Found, Progress
from tasks.core.run_bounds import Bound
from tasks.core.run_faults import RunFaults
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.ledger.database import sqlite_file
from tasks.ledger.earlier_runs import Begins
from tasks.ledger.retried_run import RetriedRun
from tasks.remote.platform_client import Platform
from tasks.run import edges as all_edges
from tasks.run.bandwidth_control import RunBandwidth
from tasks.run.early_end import early_end
from tasks.run.edges import Edges
from tasks.run.planned_end import starts_of, why_ended
from tasks.run.preflight import NOT_ASKED, FirstAnswer, first_answer, target_of
from tasks.run.records import keep_unused, open_records, versions
from tasks.run.run_rules import listed_directories, problems_of, rules_of
from tasks.run.sending_order import SendingOrder
from tasks.run.windows import BATCHES_IN_FLIGHT, HasEnded, send_windows
from tasks.settings import Settings
from tasks.source.archives import Archives
from tasks.source.gone_files import with_gone
from tasks.source.own_files import own_files, require_none_in
from tasks.source.readers import MOST_READERS, Readers
from tasks.source.scan import OneFile, Ownership, survey, walk_study
from tasks.upload.slots import Slots
from tasks.upload.transfer import Transfer
from tasks.upload.uploader import Uploader

log = logging.getLogger("dicom_ingest")

Scan: TypeAlias = Callable[[StudyEntry, Ownership], Iterator[Listed | Unwalked]]
Watch: TypeAlias = Callable[[Progress], AbstractContextManager[object]]
Chunk: TypeAlias = tuple[list[Listed | Unwalked], list[int]]  # rows, and the study_nos that end among them


class Engine:
    """One run in one process: `scan`, `plan`, `upload`, `reconcile`, `report`, then `close`.

    Each may be called from another thread; what one leaves to the next is in the ledger.
    """

    def __init__(
        self,
        entries: Sequence[StudyEntry],
        settings: Settings,
        run_id: str = "",
        scan: Scan = walk_study,
        shard: Collection[int] | None = None,
        ownership: Ownership | None = None,
        edges: Edges | None = None,
        whole_report_dir: Path | None = None,
        retried: RetriedRun | None = None,
    ) -> None:
        """Asks the API for one URL, then opens the ledger: what is wrong is raised before anything is made.

        A shard does not ask, for its migration has: what is wrong since then is its report's, and a platform
        that is down is waited for.
        `shard`: the study_nos that are this run's, of all entries; the ledger has it (`tasks/run/shards.py`),
        and whose a directory is, too, as `ownership`. `whole_report_dir`: of a shard's migration; it is left
        out of what is sent, as the run's own is. `retried`: the run of which this one sends some rows again.
        """
        self.run_id = run_id or uuid.uuid4().hex
        self.settings = settings
        self.progress = Progress()
        self._scan = scan
        self._retried = retried
        self._entries = _walked(entries, shard if retried is None else {*retried.study_nos})
        self._order = SendingOrder()
        self._edges = edges or all_edges.REAL
        self._started_ns = self._edges.clock_ns()
        self._began_s = self._edges.clock()
        self._archives = Archives() if settings.archives else None
        self._touched = 0  # files that are read for their ctime alone
        self._ownership = ownership or survey(entries, settings.root or None)
        report_dirs = list(filter(None, (settings.report_dir, whole_report_dir)))
        require_none_in(self._ownership.real_dirs, report_dirs)
        with ExitStack() as undo:
            refusal = self._open(undo, entries, report_dirs, is_shard=shard is not None)
            undo.pop_all()
        self.starts = starts_of(settings, self._ledger.due, self._edges, is_shard=shard is not None)
        self._uploader = self._new_uploader()
        self._bandwidth.start(lambda: self._slots.look())
        self._is_drained = False
        if refusal:
            self._uploader.stop(refusal)

    @property
    def begins(self) -> Begins:
        """What this run makes anew."""
        return self._records.begins

    def limit_parallel(self, parallel: int) -> None:
        """So many uploads at once and no more, of those that the settings allow. Before `plan`."""
        before = self._uploader
        self.settings = replace(self.settings, parallel=parallel)
        self._uploader = self._new_uploader()
        try:
            before.raise_if_stopped()
        except IngestError as why:  # somebody stopped the run a moment ago
            self._uploader.stop(why)
        before.drain()

    def share_bandwidth(self, slots: int, of_slots: int) -> None:
        """Of a shard: it may send its slots' part of what the migration may."""
        self._bandwidth.share(slots, of_slots)

    def scan(self) -> Iterator[Chunk]:
        """Lists the study directories, lazily: each row once, in chunks that are planned at once."""
        rows: list[Listed | Unwalked] = []
        scanned: list[int] = []
        for row, study_no in self._rows():
            if row is None:
                scanned.append(study_no)
            else:
                rows.append(row)
            if len(rows) + len(scanned) >= self._edges.rows_at_once:
                yield rows, scanned
                rows, scanned = [], []
        if rows or scanned:
            yield rows, scanned
        self._forget_entries()

    def plan(self, chunks: Iterator[Chunk]) -> Iterator[int]:
        """Decides what is to do; yields the number of each batch with files to send, once it is full."""
        rules = rules_of(self.settings, self._started_ns)
        batch_no, todo = 1, 0
        for rows, scanned in chunks:
            looked_at = self._retried.divide(self.run_id, rows) if self._retried else rows
            enrolled = self._ledger.enrol(batch_no, looked_at, scanned, rules)
            found = enrolled.found.beside(Found(len(rows) - len(looked_at)))
            self._platform.loop.call(self.progress.count_listed, found)
            todo += enrolled.to_do
            self._touched += enrolled.touched
            self._uploader.raise_if_stopped()
            if todo >= self._edges.batch_target(batch_no):
                yield batch_no
                batch_no, todo = batch_no + 1, 0
        self._uploader.raise_if_stopped()
        self.progress.scanning = False
        if todo:
            yield batch_no

    def upload(self, batch_no: int) -> None:
        """Sends what is not settled of a batch; raises IngestError when the run stops."""
        self._records.trail.record(Event.BATCH_STARTED, batch_no=batch_no)
        self._uploader.upload(batch_no, self._order.todo(self._ledger, batch_no))

    def stop(self, why: IngestError) -> None:
        """Starts no file any more. Safe from any thread, and from a signal handler's."""
        self._uploader.stop(why)

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on. From any thread."""
        self._platform.loop.call(self._slots.permit_puts, may_begin)

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        self._uploader.raise_if_stopped()

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Wraps all that sends: once the block has ended, however it ends, no PUT is under way."""
        with early_end(self) as end:
            yield
            self.raise_if_stopped()
        self._drain()
        if end.why:
            raise end.why

    def reconcile(self, why: IngestError | None = None) -> RunFacts:
        """From here on the ledger has one outcome for every file. `why`: what ended the run early."""
        self._drain()
        why = why_ended(why, self._uploader.stopped_by, self._ledger.due)
        started = self._ledger.due.unfinished(self.starts.studies) if why else []
        if why is not None:
            self._ledger.enrol_unscanned()
        self._ledger.drop_stored()
        ended_by = why.bound if isinstance(why, PlannedEndError) else Bound.NONE
        facts = RunFacts(
            self.run_id,
            self.settings.campaign,
            self._started_ns,
            self._edges.clock_ns(),
            peak_parallel=self._slots.peak,
            parallel_course=self._slots.course,
            problems=([str(why)] if why else []) + self._problems(why),
            stopped_exit_code=None if why is None or ended_by else why.exit_code,
            touched=self._touched,
            gone=0 if isinstance(self._scan, OneFile) else self._ledger.left.count_gone(),
            settings=self.settings.in_words,
            versions=versions(),
            ended_by=ended_by,
            started=started,
        )
        self._ledger.end(facts)
        return facts

    def report(self, facts: RunFacts) -> Summary:
        """Writes the report of what `reconcile` found."""
        return self._records.write(self.settings.report_dir, facts, Event.RUN_ENDED)

    def finish(self, why: IngestError | None = None) -> Summary:
        """All that follows the upload: `reconcile`, `report` and `close`."""
        with closing(self):
            return self.report(self.reconcile(why))

    def close(self) -> None:
        """Lets records and connections go. Nothing follows."""
        try:
            self._bandwidth.close()
            self._listed.close()
            self._records.close()
        finally:
            self._platform.close()

    def _problems(self, why: IngestError | None) -> list[str]:
        """Who interrupts a run does not wait for a second look at all directories."""
        changed = [] if isinstance(why, InterruptedRunError) else self._listed.problems()
        return [*self._records.problems, *problems_of(self._ownership), *changed]

    def _drain(self) -> None:
        if not self._is_drained:
            self._uploader.drain(self._edges.grace_s)
            self._bandwidth.close()
            self._is_drained = True

    def _open(
        self, undo: ExitStack, entries: Sequence[StudyEntry], report_dirs: Sequence[Path], *, is_shard: bool
    ) -> IngestError | None:
        """The platform and the records; why the run must end at once, if so."""
        self._platform = Platform(self.settings)
        undo.callback(self._platform.close)
        refusal = self._open_records(undo, entries, report_dirs, is_shard=is_shard)
        trail, clock_ns = self._records.trail, self._edges.clock_ns
        self._bandwidth = RunBandwidth(self.settings, self.run_id, self._platform, trail, clock_ns)
        return refusal

    def _open_records(
        self, undo: ExitStack, entries: Sequence[StudyEntry], report_dirs: Sequence[Path], *, is_shard: bool
    ) -> IngestError | None:
        """Opens them, and has the ledger know that the run is at work; why it must end at once, if so."""
        settings, target = self.settings, target_of(self.settings, entries)
        ask = self._not_asked if is_shard else self._first_answer
        self._records = open_records(undo, settings, self.run_id, target, ask, self.progress.counters)
        self._ledger = self._records.ledger
        own = own_files(report_dirs, sqlite_file(settings.ledger_at))  # which are there from here on
        if self._retried:
            self._retried.require_newest()
        self._begin(entries, target, is_shard=is_shard)
        if self._retried:
            self._retried.take_over(self.run_id)
        self._listed = listed_directories(settings)
        undo.callback(self._listed.close)
        self._ownership = replace(self._ownership, own=own, note=self._listed.note, archives=self._archives)
        self._records.begin(self.run_id, settings, len(self._entries), target)
        return keep_unused(self._ledger, self._records.first)

    def _begin(self, entries: Sequence[StudyEntry], target: Target, *, is_shard: bool) -> None:
        """The ledger knows from here on that the run is at work."""
        at = self._started_ns, self.settings.report_dir
        if not is_shard:
            self._ledger.begin(*at, entries, self._ownership.overlaps, target)
        elif not self._ledger.take_up(*at, target):
            raise UsageError(
                f"This shard is at work, or was killed less than {self.settings.dead_after:.0f} s ago. "
                "Nothing was sent."
            )

    def _rows(self) -> Iterator[tuple[Listed | Unwalked | None, int]]:
        """The scan's rows, each with its study_no; after a study's last row comes None."""
        how = self.settings.order, self._ownership, self._ledger, self.raise_if_stopped
        self._entries = self._order.arrange(self._entries, *how)
        looks = not isinstance(self._scan, OneFile) and self._ledger.left.are_any()
        for entry in self._entries:
            left = self._ledger.left.under(entry.study_dir) if looks else ()
            rows = self._scan(entry, self._ownership)
            for row in with_gone(rows, left, entry.study_no, self._ownership):
                yield row, entry.study_no
            yield None, entry.study_no

    def _forget_entries(self) -> None:
        """The ledger has what the report needs of them, and there may be millions."""
        self._entries = ()
        self._ownership = replace(self._ownership, real_dirs={}, owners={})

    def _first_answer(self) -> FirstAnswer:
        return first_answer(self.settings, self._platform, self._edges)

    def _not_asked(self) -> FirstAnswer:
        return NOT_ASKED

    def _new_uploader(self) -> Uploader:
        edges, may_start = self._edges, self.starts.are_open
        self._slots = Slots(
            self.settings.parallel,
            edges.clock,
            began=self._began_s,
            may_start=may_start,
            rate=lambda: self._bandwidth.rate,
        )
        awaited = AwaitedLedger(self._ledger, self._platform.loop.loop)
        self._platform.client.reach = awaited.reach
        transfer = Transfer(
            client=self._platform.client,
            ledger=awaited,
            slots=self._slots,
            readers=Readers(self._slots.most + MOST_READERS),
            faults=RunFaults(self.settings.budgets, any_granted=bool(self._records.first.key)),
            on_conflict=self.settings.on_conflict,
            accept=self.settings.accepted,
            archives=self._archives,
            max_outage_s=self.settings.max_outage,
            jitter=self._edges.jitter,
            clock=self._edges.clock,
            starts=self.starts,
        )
        return Uploader(self._platform.loop, transfer, self.progress)


def ingest(
    entries: Sequence[StudyEntry],
    settings: Settings,
    watch: Watch = nullcontext,
    scan: Scan = walk_study,
    announce: Callable[[Begins], None] | None = None,
    edges: Edges | None = None,
    retried: RetriedRun | None = None,
) -> Summary:
    """A whole run without Prefect; `watch` may show its progress meanwhile, `announce` what begins anew."""
    engine = Engine(entries, settings, scan=scan, edges=edges, retried=retried)
    del entries  # which the engine holds for as long as they are needed
    if announce:
        announce(engine.begins)
    elif sentence := engine.begins.sentence(settings.campaign):
        log.warning(sentence)
    with watch(engine.progress):
        pool = ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="batch")
        with early_end(engine) as end, pool, engine.draining():
            send_windows(engine.plan(engine.scan()), partial(_submit, engine, pool))
        return engine.finish(end.why)


def _walked(entries: Sequence[StudyEntry], study_nos: Collection[int] | None) -> Sequence[StudyEntry]:
    """Those of these numbers; None: all."""
    return entries if study_nos is None else [entry for entry in entries if entry.study_no in study_nos]


def _submit(engine: Engine, pool: ThreadPoolExecutor, window: list[int]) -> list[HasEnded]:
    return [partial(_has_ended, pool.submit(engine.upload, batch_no)) for batch_no in window]


def _has_ended(future: Future[None], timeout_s: float) -> bool:
    wait([future], timeout_s)
    return future.done() and future.result() is None
