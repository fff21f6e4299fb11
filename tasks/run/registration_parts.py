"""What a run of `ingest` works with: the event loop, bucket and registry, and how each of them is paced."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from tasks.concurrency.daemon_threads import DaemonThreads
from tasks.concurrency.event_loop import EventLoop
from tasks.core.errors import UsageError
from tasks.core.object_outcomes import After
from tasks.core.object_rules import ObjectRule
from tasks.core.pipeline_faults import Side, SideFaults
from tasks.core.platform_state import PlatformState, Step
from tasks.core.progress import Progress
from tasks.core.store_batches import MOST_BYTES, MOST_INSTANCES, StoreBatches
from tasks.core.words import counted
from tasks.ingest_settings import IngestSettings
from tasks.ledger.awaited_ledger import AwaitedAnswers
from tasks.ledger.registration_ledger import RegistrationLedger
from tasks.pipeline.afterwards import Afterwards, has_tags
from tasks.pipeline.dciodvfy import dciodvfy_path, finds_errors
from tasks.pipeline.held_room import HeldRoom
from tasks.pipeline.object_batches import ObjectBatches
from tasks.pipeline.object_reads import ObjectReads
from tasks.pipeline.registrar import Registrar
from tasks.pipeline.store_requests import StoreRequests
from tasks.remote.bucket import Bucket
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb import DicomwebClient
from tasks.remote.signed_reads import SignedReads
from tasks.remote.tls import TlsPolicy
from tasks.run.edges import Edges
from tasks.run.registration_checks import bucket_of, require_answer
from tasks.upload.slots import Slots

if TYPE_CHECKING:
    from tasks.ledger.registered_instances import ObjectRequest

_READERS: Final = 8  # of the bucket: each waits most of its time
_HELD_BYTES: Final = 512_000_000  # by all objects under way; requests are made smaller to fit in
_WAITING: Final = 200  # objects that wait for room


@dataclass(eq=False, slots=True)
class Parts:
    """Opened for one run."""

    bucket: Bucket
    loop: EventLoop
    client: DicomwebClient
    signed: SignedReads
    slots: Slots | None = None
    reading: Slots | None = None
    registrar: Registrar | None = None
    _is_closed: bool = field(default=False)

    def require_answers(self, after: After, edges: Edges) -> None:
        """UsageError, or CredentialsRefusedError, unless both answer, and know tags where they are wanted."""
        require_answer(Side.BUCKET, self.bucket.check, edges)
        if after is After.TAG:
            require_answer(Side.BUCKET, self._require_tags, edges)
        require_answer(Side.REGISTRY, lambda: self.loop.run(self.client.check()), edges)

    def begin(
        self, settings: IngestSettings, ledger: RegistrationLedger, progress: Progress, edges: Edges
    ) -> ObjectBatches:
        """From here on objects may be registered."""
        parallel = settings.stow_parallel
        self.slots = Slots(parallel, edges.clock, step=Step.STORE)
        self.reading = Slots(_READERS, edges.clock, step=Step.READ)
        awaited: AwaitedAnswers[ObjectRequest] = AwaitedAnswers(ledger, self.loop.loop)
        stopping = asyncio.Event()
        requests = StoreRequests(
            client=self.client,
            ledger=awaited,
            pace=self.slots,
            faults=SideFaults(Side.REGISTRY, settings.budgets),
            stopping=stopping,
            max_outage_s=settings.max_outage,
            jitter=edges.jitter,
        )
        threads = DaemonThreads(_READERS, "reader")
        most_objects = (parallel + 2) * MOST_INSTANCES
        self.registrar = Registrar(
            reads=self._reads(settings, threads),
            requests=requests,
            batches=StoreBatches(MOST_INSTANCES, min(MOST_BYTES, _HELD_BYTES // (parallel + 2))),
            ledger=awaited,
            threads=threads,
            reading=self.reading,
            faults=SideFaults(Side.BUCKET, settings.budgets),
            room=HeldRoom(_HELD_BYTES, most_objects),
            afterwards=Afterwards(self.bucket, settings.done_after),
            parallel=parallel,
            stopping=stopping,
            max_outage_s=settings.max_outage,
            jitter=edges.jitter,
            fail=lambda why: batches.fail(why),
            clock_ns=edges.clock_ns,
            finds_errors=partial(finds_errors, dciodvfy_path()) if settings.dciodvfy else None,
        )
        batches = ObjectBatches(self.loop, self.registrar, progress, most_objects + _WAITING)
        progress.platform = self._state
        return batches

    def _reads(self, settings: IngestSettings, threads: DaemonThreads) -> ObjectReads:
        off = frozenset(map(ObjectRule, settings.skip_rule))
        return ObjectReads(bucket=self.bucket, signed=self.signed, threads=threads, off=off)

    @property
    def peak(self) -> int:
        """The most requests that were under way at once."""
        return self.slots.peak if self.slots else 0

    def problems(self) -> list[str]:
        """What did not work and is no object's own fault, in sentences."""
        if self.registrar is None:
            return []
        failed = sorted(self.registrar.not_done.items())
        problems = [f"not {what}: {counted(count, 'object')}" for what, count in failed]
        if found := self.registrar.with_errors:
            problems.append(f"dciodvfy finds errors in: {counted(found, 'object')}")
        return problems

    def close(self) -> None:
        """Gives connections and thread back."""
        if not self._is_closed:
            self._is_closed = True
            self.loop.call(self.client.close)
            self.loop.close()

    def _require_tags(self) -> None:
        if not has_tags(self.bucket):
            raise UsageError("The bucket's store has no tags of objects: choose --after leave or move.")

    def _state(self) -> PlatformState | None:
        """Of the side that fails, or else of the registry."""
        if not (self.slots and self.reading):
            return None
        store, read = self.slots.state(), self.reading.state()
        return read if read.failing and not store.failing else store


def open_parts(undo: ExitStack, settings: IngestSettings, bucket: Bucket | None = None) -> Parts:
    """UsageError for addresses and certificates that can't be used; nothing is asked yet."""
    bucket = bucket or bucket_of(settings)
    loop = EventLoop()
    try:
        client, signed = loop.run(_clients(settings, bucket))
    except BaseException:
        loop.close()
        raise
    parts = Parts(bucket, loop, client, signed)
    undo.callback(parts.close)
    return parts


async def _clients(settings: IngestSettings, bucket: Bucket) -> tuple[DicomwebClient, SignedReads]:
    """Of one engine, and by one policy."""
    from tasks.remote.engine_transport import http_client

    engine = Engine(TlsPolicy(settings.ca_bundle))
    client = DicomwebClient(engine, settings, http_client(engine), allow_http=settings.allow_http)
    return client, SignedReads(bucket, engine)
