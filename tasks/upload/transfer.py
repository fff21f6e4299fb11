"""The way of one file, from top to bottom: read, claimed, a URL minted for it, sent, its outcome durable.

A transient fault starts the way anew after a pause: the file is read again, so nothing is held meanwhile, and
what it is sent to is the same URL and key while that URL lives: an uncertain PUT is overwritten by itself.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tasks.concurrency.daemon_threads import in_thread
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.claim_order import ClaimOrder
from tasks.core.duplicates import Claim, Verdict, judge, judge_beside
from tasks.core.errors import (
    Fault,
    FaultKind,
    InterruptedRunError,
    PlannedEndError,
    RowRefusedError,
    StoppedError,
    ending,
)
from tasks.core.models import ACCEPTABLE, Digests, OnConflict, Outcome, Proof, Reason, Rejected, Status, Todo
from tasks.core.retry import Action, backoff_s
from tasks.core.run_bounds import Bound
from tasks.core.run_faults import RunFaults
from tasks.core.stored_content import is_altered, is_cut_copy, judge_rejected
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.remote.upload_api import PresignedUrl, Stored, UploadClient
from tasks.source.archives import Archives
from tasks.source.file_content import Content, Streamed
from tasks.source.member_content import read_source
from tasks.source.neighbours import Neighbours
from tasks.source.readers import Readers
from tasks.upload.integrity import Integrity
from tasks.upload.same_uid import SameUid
from tasks.upload.slots import Slots
from tasks.upload.starts import Starts
from tasks.upload.under_way import UnderWay

log = logging.getLogger("dicom_ingest")

_NOT_SENT: Final = {
    Verdict.KEEP: (Status.ALREADY_UPLOADED, Reason.NONE),
    Verdict.DUPLICATE: (Status.DUPLICATE, Reason.NONE),
    Verdict.CONFLICT: (Status.CONFLICT, Reason.NONE),
    Verdict.ALTERED: (Status.CHANGED, Reason.ALTERED),
}
_REFUSED: Final = Rejected(Status.FAILED, Reason.REFUSED, detail="ledger")  # by it, and without the cause
_EMPTY_IMAGE: Final = Rejected(Status.INVALID, Reason.TRUNCATED, size_bytes=0, detail=Reason.EMPTY)


@dataclass(eq=False, kw_only=True)
class Transfer:
    """Takes files their way, each in a coroutine; one for all of a run."""

    client: UploadClient
    ledger: AwaitedLedger
    slots: Slots
    readers: Readers
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    faults: RunFaults = field(default_factory=RunFaults)
    on_conflict: OnConflict = OnConflict.REPORT
    accept: Collection[str] = ()  # reasons for which a file is sent that would be held back
    archives: Archives | None = None  # None: they are not read
    max_outage_s: float = 3600.0
    clock_ns: Callable[[], int] = time.time_ns
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    order: ClaimOrder = field(default_factory=lambda: ClaimOrder(time.monotonic))
    same_uid: SameUid = field(default_factory=SameUid)
    starts: Starts = field(default_factory=Starts)
    ending: PlannedEndError | None = None  # why no file starts any more, though some are to be finished

    def __post_init__(self) -> None:
        self._integrity = Integrity(self.stopping)
        self._neighbours = Neighbours(self.archives)
        self._newest = 0  # place of the file that was started last

    def start(self, todo: Todo) -> UnderWay:
        """The next file in the plan's order."""
        self._newest += 1
        return UnderWay(todo, self.order.enter(), self.clock_ns(), self._newest)

    def goes_on(self, file: UnderWay) -> bool:
        """Whether it is finished though no file starts any more: by another try, too, where there is time."""
        if self.ending is None:
            return True
        has_time = self.ending.bound is Bound.MAX_FILES
        return file.is_settled or (file.has_begun if has_time else file.is_inside)

    async def send(self, file: UnderWay) -> Outcome:
        """What became of it, once that is durable.

        Raises what `ending` says when no file can do better, InterruptedRunError when the run stops before
        a PUT. Cut off or stopped, a file that was tried has failed; one that was not is not attempted.
        """
        try:
            with self._integrity.under_way():
                outcome = await self._outcome(file)
            try:
                return await self._settled(file, outcome)
            except RowRefusedError:
                return await self._settled(file, file.ends_rejected(self.clock_ns(), _REFUSED))
        except BaseException:
            if file.attempts and not file.is_settled:
                reason = self._reason_at_the_end(file)
                await self._settled(file, file.ends(self.clock_ns(), Status.FAILED, reason))
            raise

    def end(self, file: UnderWay) -> None:
        """It is done with: those who waited for it go on."""
        self.order.leave(file.position)
        self.same_uid.settled(file.claimed)
        self.same_uid.forget(file.todo.file_id)

    async def _settled(self, file: UnderWay, outcome: Outcome) -> Outcome:
        file.is_settled = True  # as soon as the ledger comes to it, whoever waits for that
        await self.ledger.settle(file.todo, outcome, file.claimed)
        return outcome

    async def _outcome(self, file: UnderWay) -> Outcome:
        while True:
            try:
                outcome = await self._attempt(file)
            except Fault as fault:
                outcome = await self._after(file, fault)
            except OSError:  # of the file: those of the network are Faults
                return file.ends(self.clock_ns(), Status.UNREADABLE, Reason.IO_ERROR)
            if outcome is not None:
                return outcome

    async def _attempt(self, file: UnderWay) -> Outcome | None:
        """None: to be read again, for its bytes were let go while it waited for another of its UID."""
        read_ns = self.clock_ns()
        opened = await self.readers.read(partial(self._read, file))
        if isinstance(opened, Rejected):
            return await self._rejected(file, opened)
        try:
            content = await self._held_back(file.todo, opened)
            if isinstance(content, Rejected):
                return await self._rejected(file, content)
            file.content, file.read_ns = content, read_ns
            while (verdict := await self._verdict(file, content)) is Verdict.WAIT:
                await self._wait_for_another(file, content)
            if verdict in _NOT_SENT:
                return file.ends(self.clock_ns(), *_NOT_SENT[verdict])
            return await self._stored(file, content, verdict) if verdict and content.held_bytes else None
        finally:
            self.readers.release(opened)

    def _read(self, file: UnderWay) -> Content | Rejected:
        """By a reader's thread."""
        self._refuse_when_stopping(file)
        self.order.note_read(file.position)
        wanted = ACCEPTABLE if file.todo.stored else self.accept  # it may be what is stored of it
        content = read_source(file.todo.path, lambda found: found.is_sent(wanted), self.archives)
        if not isinstance(content, Rejected | Streamed) and self._integrity.rules.wants_md5():
            content.compute_digests(with_md5=True)
        return content

    async def _held_back(self, todo: Todo, content: Content) -> Content | Rejected:
        """A file that would be held back goes on when it is what is stored, or its reason is accepted."""
        if content.rejected is None:
            return content
        if todo.stored and todo.stored.sha256 == (await self._digests(content)).sha256:
            return content
        seen = {name: getattr(content, name) for name in ("size_bytes", "mtime_ns", "ctime_ns")}
        rejected = replace(content.rejected, **seen)
        is_sent = rejected.is_sent(self.accept) and not is_cut_copy(rejected, todo.stored)
        return content if is_sent else rejected

    async def _rejected(self, file: UnderWay, rejected: Rejected) -> Outcome:
        self.order.leave(file.position)
        rejected = judge_rejected(rejected, file.todo.stored)
        if file.content and rejected.status is Status.NOT_DICOM:  # that would end in exit code 0
            raise Fault(FaultKind.CHANGED, "what was an image is none any more")
        have_image_like = partial(self._neighbours.have_image_like, file.todo.path)
        if rejected.reason is Reason.EMPTY and await self.readers.run(have_image_like):
            rejected = _EMPTY_IMAGE
        return file.ends_rejected(self.clock_ns(), rejected)

    async def _wait_for_another(self, file: UnderWay, content: Content) -> None:
        """Neither read nor hashed again while it waits: its bytes are let go, its digests stay if known."""
        self.readers.release(content)
        if file.claimed:  # under a UID that it had before it changed
            await self.ledger.settle(file.todo, None, file.claimed)
            self.same_uid.settled(file.claimed)
            file.claimed.clear()
        with self._integrity.waiting():
            await self.same_uid.settlement(content.header.sop_instance_uid, file.todo.file_id)
        self._refuse_when_stopping(file)

    async def _verdict(self, file: UnderWay, content: Content) -> Verdict | None:
        """Hashes a file that is too large to hold only when there is something to compare it with.

        None: that has to be done, and it was let go.
        """
        uid, earlier = content.header.sop_instance_uid, file.todo.stored
        claim = await self._claim(file, uid)
        if not claim.stored_sha256:
            return judge(claim, "", self.on_conflict)
        if content.digests is None and not content.held_bytes:
            return None
        md5_too = content.digests is None and self._integrity.rules.wants_md5()  # by one look at the file
        sha256 = (await self._digests(content, with_md5=md5_too)).sha256
        if earlier and earlier.has_own_object and earlier.sha256 == sha256:
            return Verdict.KEEP  # also when it was stored beside another file of its UID, as was asked for
        altered = is_altered(earlier, uid, content.size_bytes, content.mtime_ns, sha256)
        is_decided = sha256 == file.todo.upload_sha256
        on_conflict = OnConflict.UPLOAD if is_decided else self.on_conflict
        verdict = judge(claim, sha256, on_conflict, is_altered=altered)
        if verdict not in (Verdict.CONFLICT, Verdict.SEND_ANYWAY):
            return verdict
        is_to_be_sent = verdict is Verdict.SEND_ANYWAY
        beside = await self.ledger.claim(file.todo, uid, sha256, is_to_be_sent=is_to_be_sent)
        self._note_claim(file, uid, beside)
        return judge_beside(beside, verdict)

    async def _claim(self, file: UnderWay, uid: str) -> Claim:
        """In the plan's order, the first time."""
        came: asyncio.Future[asyncio.Future[Claim]] = asyncio.get_running_loop().create_future()

        def claim_now() -> None:
            if not came.done():
                came.set_result(self.ledger.claim(file.todo, uid))

        self.order.claim(file.position, claim_now)
        claim = await (await came)
        self._note_claim(file, uid, claim)
        return claim

    def _note_claim(self, file: UnderWay, uid: str, claim: Claim) -> None:
        if claim.mine and not claim.stored_sha256:
            file.claimed.add(uid)
            self.same_uid.claimed(uid)

    async def _digests(self, content: Content, *, with_md5: bool = False) -> Digests:
        """By a reader of what is held; else in a thread of its own, for the whole file is read."""
        known = content.digests
        if known and (known.md5 or not with_md5):
            return known
        compute = partial(content.compute_digests, with_md5=with_md5)
        if isinstance(content, Streamed):
            return await in_thread(compute, "hashing")
        return await self.readers.run(compute)

    async def _stored(self, file: UnderWay, content: Content, verdict: Verdict) -> Outcome:
        stored, proof = await self._store(file, content)
        digests, earlier = await self._digests(content), file.todo.stored
        assert file.url is not None
        reason = content.rejected.reason if content.rejected else Reason.NONE
        if verdict is Verdict.REPLACE or (earlier and (earlier.has_own_object or earlier.is_lost)):
            reason = Reason.REPLACED
        file.http_status = stored.http_status
        return file.ends(
            self.clock_ns(),
            Status.UPLOADED,
            reason,
            key=file.url.key,
            etag=stored.etag,
            proof=proof,
            digests=digests,
            detail=content.rejected.detail if content.rejected else "",
        )

    async def _store(self, file: UnderWay, content: Content) -> tuple[Stored, Proof]:
        if file.faults[FaultKind.INTEGRITY] and self._integrity.rules.wants_md5():
            await self._digests(content, with_md5=True)  # S3 is to check it now, also of what is streamed
        rank = self._newest if self.slots.outage_s else file.place  # then each has its turn to be the probe
        async with self.slots.admission(rank, content.size_bytes):
            self._begin(file)
            if file.url is None or not file.url.lives(self.clock_ns() / 1e9):
                file.url = await self._mint(file.todo, content.header.sop_instance_uid)
            url = file.url
            with_md5 = self._integrity.rules.wants_md5(url.host)
            if with_md5 and not isinstance(content, Streamed):
                await self._digests(content, with_md5=True)
            async with self.slots.slot(file.todo.file_id, rank=file.place):
                self.faults.raise_if_over()
                file.attempts += 1
                stored = await self.client.put(url, content, with_md5=with_md5)
        digests = await self._digests(content, with_md5=stored.evidence.needs_md5)
        proof = await self._integrity.judge(file.todo.file_id, url.host, stored, digests)
        self.faults.record_stored()
        return stored, proof

    def _begin(self, file: UnderWay) -> None:
        """It is to be sent, for the first time or again. Raises PlannedEndError when it may not."""
        if file.has_begun:
            self.starts.raise_if_over()
        else:
            self.starts.begin(file.todo.study_no)
        file.has_begun = file.is_inside = True

    async def _mint(self, todo: Todo, sop_instance_uid: str) -> PresignedUrl:
        """A URL for this file; the intent to send to its key is durable before the first byte leaves."""
        with self.slots.minting(todo.file_id):
            url = await self.client.presign()
            is_new = await self.ledger.issue(todo, sop_instance_uid, url.key, self.clock_ns())
        self.faults.record_granted()
        if not is_new:
            raise Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before")
        return url

    async def _after(self, file: UnderWay, fault: Fault) -> Outcome | None:
        """What follows a fault: the outcome, or None after the pause when the way is to be tried again."""
        file.is_inside = False
        file.http_status, file.detail, file.last_reason = fault.http_status, fault.detail, fault.reason
        self.faults.record(fault, str(file.todo), self.clock() - self.slots.held_s)
        if fault.kind in TRANSIENT and self._far_side_is_down():
            return None  # no file's budget pays for that: the next place opens when a probe gets through
        file.faults[fault.kind] += 1
        seen = file.faults[fault.kind]
        action = self.faults.action(fault.kind, seen)
        log.info("%s: %s; %s", file.todo, fault, action)
        if action is Action.STOP:
            file.reason = fault.reason
            raise ending(fault)
        if action is Action.FAIL:
            status = Status.CHANGED if fault.kind is FaultKind.CHANGED else Status.FAILED
            return file.ends(self.clock_ns(), status, fault.reason)
        if action is Action.NEW_URL:
            file.url = None
        if not self.goes_on(file):
            return self._given_up(file)
        return await self._pause(file, backoff_s(fault, seen, self.jitter()))

    def _far_side_is_down(self) -> bool:
        """Whether the breaker is open. Raises StoppedError when it has been for too long."""
        outage_s = self.slots.outage_s
        if outage_s > self.max_outage_s:
            raise StoppedError(
                f"Stopped: the platform has been down for {outage_s:,.0f} s. When it is up again, run the "
                "same command: it goes on from here. (--max-outage says how long to wait.)"
            )
        return outage_s > 0

    async def _pause(self, file: UnderWay, seconds: float) -> Outcome | None:
        with self.slots.pausing(file.todo.file_id, seconds):
            try:
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()
            except TimeoutError:
                return None
        return self._given_up(file)

    def _given_up(self, file: UnderWay) -> Outcome:
        if not file.attempts:
            self._refuse_when_stopping(file)
        return file.ends(self.clock_ns(), Status.FAILED, self._reason_at_the_end(file))

    def _reason_at_the_end(self, file: UnderWay) -> Reason:
        """What all files were refused for, or what ended the run for this one, or that it ended."""
        return file.last_reason if self.faults.over else file.reason

    def _refuse_when_stopping(self, file: UnderWay) -> None:
        if self.stopping.is_set():
            raise InterruptedRunError("The run is stopping.")
        if self.ending and not self.goes_on(file):
            raise self.ending
