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
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from tasks.core.audit_chain import Event
from tasks.core.errors import IngestError, UsageError
from tasks.core.models import Listed, RunFacts, StudyEntry, Summary, Unwalked
from tasks.core.plan import Rules
from tasks.core.study_entries import in_order
from tasks.core.words import counted
from tasks.ledger.runs import Begins
from tasks.run import edges as all_edges
from tasks.run.early_end import early_end
from tasks.run.edges import Edges
from tasks.run.preflight import NOT_ASKED, FirstAnswer, first_answer
from tasks.run.records import keep_unused, open_records
from tasks.run.windows import BATCHES_IN_FLIGHT, HasEnded, send_windows
from tasks.settings import Settings
from tasks.source.scan import Ownership, survey, walk_study
from tasks.upload.assembly import connect, file_transfer
from tasks.upload.slots import Slots
from tasks.upload.uploader import Progress, Uploader

log = logging.getLogger("dicom_ingest")

Scan: TypeAlias = Callable[[StudyEntry, Ownership], Iterator[Listed | Unwalked]]
Watch: TypeAlias = Callable[[Progress], AbstractContextManager[object]]
Chunk: TypeAlias = tuple[list[Listed | Unwalked], list[int]]  # rows, and the study_nos that end among them
_MAX_PROBLEMS: Final = 20


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
        edges: Edges | None = None,
    ) -> None:
        """Asks the API for one URL, then opens the ledger: what is wrong is raised before anything is made.

        A shard does not ask, for its migration has: what is wrong since then is its report's, and a platform
        that is down is waited for.
        `shard`: the study_nos that are this run's, of all entries; the ledger has it (`tasks/run/shards.py`).
        """
        self.run_id = run_id or uuid.uuid4().hex
        self.settings = settings
        self.progress = Progress()
        self._scan = scan
        ours = entries if shard is None else [entry for entry in entries if entry.study_no in shard]
        self._entries = in_order(ours)
        self._edges = edges or all_edges.REAL
        self._started_ns = self._edges.clock_ns()
        self._began_s = self._edges.clock()
        self._stopping = threading.Event()
        self._ownership = survey(entries, settings.root or None)
        with ExitStack() as undo:
            self._client = connect(settings)
            undo.callback(self._client.close)
            ask = self._not_asked if shard is not None else self._first_answer
            self._records = open_records(undo, settings, self.run_id, len(ours), ask, self.progress.counters)
            self._ledger = self._records.ledger
            self._begin(entries, is_shard=shard is not None)
            refusal = keep_unused(self._ledger, self._records.first)
            undo.pop_all()
        self._uploader = self._new_uploader()
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

    def plan(self, chunks: Iterator[Chunk]) -> Iterator[int]:
        """Decides what is to do; yields the number of each batch with files to send, once it is full."""
        rules = _rules(self.settings, self._started_ns)
        batch_no, todo = 1, 0
        for rows, scanned in chunks:
            to_do = self._ledger.enrol(batch_no, rows, scanned, rules)
            self._uploader.count_listed(len(rows), to_do)
            todo += to_do
            self._uploader.raise_if_stopped()
            if todo >= self._edges.batch_target(batch_no):
                yield batch_no
                batch_no, todo = batch_no + 1, 0
        self.progress.scanning = False
        if todo:
            yield batch_no

    def upload(self, batch_no: int) -> None:
        """Sends what is not settled of a batch; raises IngestError when the run stops."""
        self._records.trail.record(Event.BATCH_STARTED, batch_no=batch_no)
        self._uploader.upload(self._ledger.todo(batch_no))

    def stop(self, why: IngestError) -> None:
        """Starts no file any more. Safe from any thread, and from a signal handler's."""
        self._uploader.stop(why)

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        self._uploader.raise_if_stopped()

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Wraps all that sends: once the block has ended, however it ends, no PUT is under way."""
        with early_end(self) as end:
            yield
        self._drain()
        if end.why:
            raise end.why

    def reconcile(self, why: IngestError | None = None) -> RunFacts:
        """From here on the ledger has one outcome for every file. `why`: what ended the run early."""
        self._drain()
        if why is not None:
            self._ledger.enrol_unscanned()
        facts = RunFacts(
            self.run_id,
            self.settings.campaign,
            self._started_ns,
            self._edges.clock_ns(),
            peak_parallel=self._uploader.peak,
            parallel_course=self._uploader.course,
            problems=([str(why)] if why else []) + problems_of(self._ownership),
            stopped_exit_code=why.exit_code if why else None,
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
            self._records.close()
        finally:
            self._client.close()

    def _drain(self) -> None:
        if not self._is_drained:
            self._uploader.drain(self._edges.grace_s)
            self._is_drained = True

    def _begin(self, entries: Sequence[StudyEntry], *, is_shard: bool) -> None:
        """The ledger knows from here on that the run is at work."""
        at = self._started_ns, self.settings.report_dir
        if not is_shard:
            self._ledger.begin(*at, entries, self._ownership.overlaps)
        elif not self._ledger.take_up(*at):
            raise UsageError(
                f"This shard is at work, or was killed less than {self.settings.dead_after:.0f} s ago. "
                "Nothing was sent."
            )

    def _rows(self) -> Iterator[tuple[Listed | Unwalked | None, int]]:
        """The scan's rows, each with its study_no; after a study's last row comes None."""
        for entry in self._entries:
            for row in self._scan(entry, self._ownership):
                yield row, entry.study_no
            yield None, entry.study_no

    def _first_answer(self) -> FirstAnswer:
        return first_answer(self.settings, self._client, self._edges)

    def _not_asked(self) -> FirstAnswer:
        return NOT_ASKED

    def _new_uploader(self) -> Uploader:
        slots = Slots(self.settings.parallel, self._edges.clock, began=self._began_s)
        transfer = file_transfer(
            self.settings, self._client, self._ledger, slots, self._stopping, jitter=self._edges.jitter
        )
        transfer.any_granted = bool(self._records.first.key)
        return Uploader(transfer, self._ledger, slots, self._stopping, self.progress, self.settings)


def ingest(
    entries: Sequence[StudyEntry],
    settings: Settings,
    watch: Watch = nullcontext,
    scan: Scan = walk_study,
    announce: Callable[[Begins], None] | None = None,
    edges: Edges | None = None,
) -> Summary:
    """A whole run without Prefect; `watch` may show its progress meanwhile, `announce` what begins anew."""
    engine = Engine(entries, settings, scan=scan, edges=edges)
    if announce:
        announce(engine.begins)
    elif sentence := engine.begins.sentence(settings.campaign):
        log.warning(sentence)
    with watch(engine.progress):
        pool = ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="batch")
        with early_end(engine) as end, pool, engine.draining():
            send_windows(engine.plan(engine.scan()), partial(_submit, engine, pool))
        return engine.finish(end.why)


def _submit(engine: Engine, pool: ThreadPoolExecutor, window: list[int]) -> list[HasEnded]:
    return [partial(_has_ended, pool.submit(engine.upload, batch_no)) for batch_no in window]


def _has_ended(future: Future[None], timeout_s: float) -> bool:
    wait([future], timeout_s)
    return future.done() and future.result() is None


def problems_of(ownership: Ownership) -> list[str]:
    """What is odd about a manifest's directories, for the summary."""
    overlaps = ownership.overlaps
    problems = [
        f"study {study_no} lies in or around study {earlier}: each file is reported once"
        for study_no, earlier in list(overlaps.items())[:_MAX_PROBLEMS]
    ]
    if len(overlaps) > _MAX_PROBLEMS:
        problems.append(f"and {counted(len(overlaps) - _MAX_PROBLEMS, 'more overlap')}: see studies.csv")
    return problems


def _rules(settings: Settings, now_ns: int) -> Rules:
    if not settings.min_age:
        return Rules(settings.rehash)
    return Rules(settings.rehash, now_ns - int(settings.min_age * 1e9))
