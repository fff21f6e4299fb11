"""The use case `ingest`: new objects of a bucket, registered over DICOMweb, and the report of it. Two shells
use it: Prefect's flow, and `register`, which is the documented call.

    from tasks.ingest_settings import load_ingest
    from tasks.run.registration import register

    summary = register(load_ingest(bucket="s3://uploads", dicomweb_url="https://pacs.example.org/dicom-web"))

`register` returns the RegistrationSummary that is also in registration.json. It raises UsageError when
nothing was attempted, CredentialsRefusedError when it was because of credentials, StoppedError when no report
could be written.
"""

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from tasks.core.audit_chain import Event
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.errors import Fault, IngestError
from tasks.core.models import RunFacts
from tasks.core.pipeline_faults import Side, down_for_too_long, ending_at
from tasks.core.progress import OBJECTS, Found, Progress
from tasks.core.registration_rows import RegistrationSummary
from tasks.core.retry import backoff_s
from tasks.core.words import counted
from tasks.ingest_settings import STDIN, IngestSettings
from tasks.ledger.registered_studies import RegisteredStudies
from tasks.pipeline.afterwards import without_moved
from tasks.pipeline.dciodvfy import dciodvfy_path
from tasks.pipeline.object_sources import events_in, keys_in
from tasks.remote.bucket import Bucket, BucketObject
from tasks.run import edges as all_edges
from tasks.run.early_end import early_end
from tasks.run.edges import Edges
from tasks.run.preflight import open_trail
from tasks.run.registration_parts import Parts, open_parts
from tasks.run.registration_records import RegistrationRecords, open_registration_records
from tasks.run.windows import BATCHES_IN_FLIGHT, HasEnded, send_windows

if TYPE_CHECKING:
    from tasks.core.object_outcomes import ObjectTodo

log = logging.getLogger("dicom_ingest")

Watch: TypeAlias = Callable[[Progress], AbstractContextManager[object]]
_LARGEST_BATCH: Final = 5000  # two runs at once share the work by batches
_OTHERS_LOOK_UP_S: Final = 1.0
_BEING_CLAIMED_S: Final = 0.05  # a commit


class Registration:
    """One run in one process: `list_objects`, `plan`, `register`, `reconcile`, `report`, then `close`.

    Each may be called from another thread; what one leaves to the next is in the ledger.
    """

    def __init__(
        self,
        settings: IngestSettings,
        run_id: str = "",
        edges: Edges | None = None,
        bucket: Bucket | None = None,
    ) -> None:
        """Asks bucket and registry, then opens the ledger: nothing is made before they have answered.

        `bucket`: in place of the one that boto3's environment leads to.
        """
        self.run_id = run_id or uuid.uuid4().hex
        self.settings = settings
        self.progress = Progress(nouns=OBJECTS)
        self._edges = edges or all_edges.REAL
        self._started_ns = self._edges.clock_ns()
        self._claimed: dict[int, list[ObjectTodo]] = {}
        self._seen = self._scope = 0
        self._failing_since = 0.0
        _require_sources(settings)
        with ExitStack() as undo:
            self._parts: Parts = open_parts(undo, settings, bucket)
            self._parts.require_answers(settings.done_after, self._edges)
            self._records: RegistrationRecords = open_registration_records(
                undo, settings, self.run_id, self.progress.counters
            )
            self._ledger = self._records.ledger
            self._batches = self._parts.begin(settings, self._ledger, self.progress, self._edges)
            undo.callback(self._batches.drain, 0.0)
            self._records.begin(self.run_id, settings, self._started_ns)
            undo.pop_all()
        self._is_drained = False

    @property
    def studies(self) -> RegisteredStudies:
        """Which studies of the registry have arrived, by what the ledger has of it."""
        return self._ledger.studies(self.settings.quiet_after, self._edges.clock_ns)

    def list_objects(self) -> None:
        """Adds to the ledger what is to be looked at: a whole listing, or what was named."""
        settings, after = self.settings, self.settings.done_after
        if settings.keys or settings.events:
            self._seen = self._scope = self._ledger.serial()
            for page in _named(settings):
                self._count(self._ledger.enrol_named(page, after, is_afresh=bool(settings.keys)))
            return
        state = self._ledger.begin_listing()
        self._scope = state.serial
        pages = self._parts.bucket.listing(state.after_key, self._after_fault)
        for page in without_moved(pages, settings.address.prefix):
            self._count(self._ledger.enrol(page, state.serial, after))
        self._ledger.end_listing()

    def plan(self) -> Iterator[int]:
        """Claims batch after batch, until nobody has anything left; yields the number of each."""
        self.list_objects()
        self.progress.scanning = False
        batch_no = 1
        while True:
            self._batches.raise_if_stopped()
            most = min(_LARGEST_BATCH, self._edges.batch_target(batch_no))
            if claimed := self._ledger.claim(batch_no, most, self._seen):
                self._claimed[batch_no] = claimed
                yield batch_no
                batch_no += 1
            elif not self._may_be_freed():
                return

    def register(self, batch_no: int) -> None:
        """Registers what is not settled of a batch; raises IngestError when the run stops."""
        self._records.trail.record(Event.BATCH_STARTED, batch_no=batch_no)
        claimed = self._claimed.pop(batch_no, None)
        self._batches.register(self._ledger.left(batch_no) if claimed is None else claimed)

    def stop(self, why: IngestError) -> None:
        """Begins no object any more. Safe from any thread, and from a signal handler's."""
        self._batches.stop(why)

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        self._batches.raise_if_stopped()

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Wraps all that registers: once the block has ended, however it ends, nothing is under way."""
        with early_end(self) as end:
            yield
            self.raise_if_stopped()
        self._drain()
        if end.why:
            raise end.why

    def reconcile(self, why: IngestError | None = None) -> RunFacts:
        """From here on the ledger has one outcome for every object. `why`: what ended the run early."""
        self._drain()
        facts = RunFacts(
            self.run_id,
            self.settings.campaign,
            self._started_ns,
            self._edges.clock_ns(),
            peak_parallel=self._parts.peak,
            problems=([str(why)] if why else []) + [*self._records.problems, *self._parts.problems()],
            stopped_exit_code=why.exit_code if why else None,
        )
        self._ledger.end(facts)
        return facts

    def report(self, facts: RunFacts) -> RegistrationSummary:
        """Writes the report of what `reconcile` found."""
        return self._records.write(self.settings, facts, self._scope)

    def finish(self, why: IngestError | None = None) -> RegistrationSummary:
        """All that follows the work: `reconcile`, `report` and `close`."""
        with closing(self):
            return self.report(self.reconcile(why))

    def close(self) -> None:
        """Lets records and connections go. Nothing follows."""
        try:
            self._records.close()
        finally:
            self._parts.close()

    def _drain(self) -> None:
        if not self._is_drained:
            self._batches.drain(self._edges.grace_s)
            self._is_drained = True

    def _count(self, found: Found) -> None:
        self._parts.loop.call(self.progress.count_listed, found)
        self._batches.raise_if_stopped()

    def _after_fault(self, fault: Fault, seen: int) -> None:
        """What follows a fault of the listing: it goes on after a pause, or the run ends."""
        self._batches.raise_if_stopped()
        if fault.kind not in TRANSIENT:
            raise ending_at(Side.BUCKET, fault)
        if seen == 1:
            self._failing_since = self._edges.clock()
        outage_s = self._edges.clock() - self._failing_since
        if outage_s > self.settings.max_outage:
            raise down_for_too_long(Side.BUCKET, outage_s)
        self._edges.sleep(backoff_s(fault, seen, self._edges.jitter()))

    def _may_be_freed(self) -> bool:
        """Whether another run has claimed objects of this one: it settles them, or is dead in a while."""
        others = self._ledger.count_others(self._seen)
        living = self._ledger.free_claims_of_dead(self._seen) if others else 0
        what = f"{counted(living, 'object')} that another run has claimed" if living else ""
        self.progress.waiting_for = what
        if others:
            self._edges.sleep(_OTHERS_LOOK_UP_S if living else _BEING_CLAIMED_S)
        return others > 0


def _named(settings: IngestSettings) -> Iterator[list[BucketObject]]:
    """The objects that are named; none where a listing finds them."""
    if settings.keys:
        return keys_in(Path(settings.keys))
    return events_in(settings.events, settings.address) if settings.events else iter(())


def _require_sources(settings: IngestSettings) -> None:
    """UsageError when what names or checks objects can't be used; standard input is read only once."""
    if settings.dciodvfy:
        dciodvfy_path()
    if settings.events != STDIN:
        deque(_named(settings), maxlen=0)


def check(settings: IngestSettings, edges: Edges | None = None) -> None:
    """Everything that can be known before a run begins. No file and no directory of it stays.

    Raises UsageError, and CredentialsRefusedError when that is what is wrong.
    """
    _require_sources(settings)
    with ExitStack() as undo:
        open_trail(undo, settings)
        parts = open_parts(undo, settings)
        parts.require_answers(settings.done_after, edges or all_edges.REAL)


def register(
    settings: IngestSettings,
    watch: Watch = nullcontext,
    edges: Edges | None = None,
    bucket: Bucket | None = None,
) -> RegistrationSummary:
    """A whole run without Prefect; `watch` may show its progress meanwhile."""
    run = Registration(settings, edges=edges, bucket=bucket)
    with watch(run.progress):
        pool = ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="batch")
        with early_end(run) as end, pool, run.draining():
            send_windows(run.plan(), partial(_submit, run, pool))
        return run.finish(end.why)


def _submit(run: Registration, pool: ThreadPoolExecutor, window: list[int]) -> list[HasEnded]:
    return [partial(_has_ended, pool.submit(run.register, batch_no)) for batch_no in window]


def _has_ended(future: Future[None], timeout_s: float) -> bool:
    wait([future], timeout_s)
    return future.done() and future.result() is None
