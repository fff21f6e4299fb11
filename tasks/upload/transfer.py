"""The way of one file, from top to bottom: read, claimed, a URL minted for it, sent, its outcome durable.

A transient fault starts the way anew after a pause: the file is read again, so nothing is held meanwhile, and
what it is sent to is the same URL and key while that URL lives: an uncertain PUT is overwritten by itself.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.claim_order import ClaimOrder, Position
from tasks.core.duplicates import Claim, Verdict, judge, judge_beside
from tasks.core.errors import Fault, FaultKind, InterruptedRunError, StoppedError, ending
from tasks.core.models import OnConflict, Outcome, Reason, Rejected, Status, Todo
from tasks.core.retry import BUDGETS, Action, backoff_s, decide
from tasks.core.stored_content import is_altered, judge_rejected
from tasks.daemon_threads import in_thread
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.remote.upload_api import PresignedUrl, Stored, UploadClient
from tasks.source.file_content import Content
from tasks.source.neighbours import Neighbours
from tasks.upload.readers import Readers
from tasks.upload.same_uid import SameUid
from tasks.upload.slots import Slots

log = logging.getLogger("dicom_ingest")

_NOT_SENT: Final = {
    Verdict.KEEP: (Status.ALREADY_UPLOADED, Reason.NONE),
    Verdict.DUPLICATE: (Status.DUPLICATE, Reason.NONE),
    Verdict.CONFLICT: (Status.CONFLICT, Reason.NONE),
    Verdict.ALTERED: (Status.CHANGED, Reason.ALTERED),
}
_EMPTY_IMAGE: Final = Rejected(Status.INVALID, Reason.TRUNCATED, size_bytes=0, detail=Reason.EMPTY)


@dataclass(slots=True)
class UnderWay:
    """One file under way: what has happened to it so far."""

    todo: Todo
    position: Position  # in the order of claims
    started_ns: int
    content: Content | None = None
    read_ns: int | None = None  # when that was begun to be read
    url: PresignedUrl | None = None
    attempts: int = 0  # PUTs
    http_status: int | None = None
    reason: Reason = Reason.INTERRUPTED  # why it ends, if it has to end now
    detail: str = ""  # of the last fault
    claimed: set[str] = field(default_factory=set)  # SOP Instance UIDs
    faults: Counter[FaultKind] = field(default_factory=Counter)
    is_settled: bool = False

    def ends(self, now_ns: int, status: Status, reason: Reason = Reason.NONE) -> Outcome:
        """Its outcome, as far as this is known; of a stored one there is more to say."""
        content = self.content
        return Outcome(
            status=status,
            reason=reason,
            header=content.header if content else None,
            digests=content.digests if content else None,
            size_bytes=content.size_bytes if content else None,
            mtime_ns=content.mtime_ns if content else None,
            ctime_ns=content.ctime_ns if content else None,
            read_ns=self.read_ns,
            attempts=self.attempts,
            http_status=self.http_status,
            started_ns=self.started_ns,
            finished_ns=now_ns,
            detail=self.detail if status is Status.FAILED else "",
        )


class Transfer:
    """Takes files their way, each in a coroutine; one for all of a run."""

    def __init__(
        self,
        client: UploadClient,
        ledger: AwaitedLedger,
        slots: Slots,
        readers: Readers,
        stopping: asyncio.Event,
        on_conflict: OnConflict = OnConflict.REPORT,
        budgets: Mapping[FaultKind, int] = BUDGETS,
        max_outage_s: float = 3600.0,
        clock_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._slots = slots
        self._readers = readers
        self._stopping = stopping
        self._on_conflict = on_conflict
        self._budgets = budgets
        self._max_outage_s = max_outage_s
        self._clock_ns = clock_ns
        self._jitter = jitter
        self._neighbours = Neighbours()
        self._forbidden_in_a_row = 0
        self.order = ClaimOrder(time.monotonic)
        self.same_uid = SameUid()
        self.any_granted = False  # a key was handed out in this run: the credentials are good

    def start(self, todo: Todo) -> UnderWay:
        """The next file in the plan's order."""
        return UnderWay(todo, self.order.enter(), self._clock_ns())

    async def outcome(self, file: UnderWay) -> Outcome:
        """What becomes of it; not durable yet.

        Raises what `ending` says when no file can do better, InterruptedRunError when the run stops before
        a PUT.
        """
        while True:
            try:
                outcome = await self._attempt(file)
            except Fault as fault:
                outcome = await self._after(file, fault)
            except OSError:  # of the file: those of the network are Faults
                return file.ends(self._clock_ns(), Status.UNREADABLE, Reason.IO_ERROR)
            if outcome is not None:
                return outcome

    def end(self, file: UnderWay) -> None:
        """It is done with: those who waited for it go on."""
        self.order.leave(file.position)
        self.same_uid.settled(file.claimed)
        self.same_uid.forget(file.todo.file_id)

    async def _attempt(self, file: UnderWay) -> Outcome | None:
        """None: to be read again, for it has waited for another of its UID and let its bytes go."""
        read_ns = self._clock_ns()
        content = await self._readers.read(file.todo.path, partial(self._begin_to_read, file))
        if isinstance(content, Rejected):
            return await self._rejected(file, content)
        try:
            file.content, file.read_ns = content, read_ns
            verdict = await self._verdict(file, content)
            if verdict is None or verdict is Verdict.WAIT:
                return await self._after_another(file, content)
            return await self._carried_out(file, content, verdict)
        finally:
            self._readers.release(content)

    def _begin_to_read(self, file: UnderWay) -> None:
        """By the reader's thread."""
        self._refuse_when_stopping()
        self.order.note_read(file.position)

    async def _after_another(self, file: UnderWay, content: Content) -> Outcome | None:
        """Neither read nor hashed again while it waits: its bytes are let go, its digests stay if known."""
        self._readers.release(content)
        if file.claimed:  # under a UID that it had before it changed
            await self._ledger.settle(file.todo, None, file.claimed)
            self.same_uid.settled(file.claimed)
            file.claimed.clear()
        verdict: Verdict | None = Verdict.WAIT
        while verdict is Verdict.WAIT:
            await self.same_uid.settlement(content.header.sop_instance_uid, file.todo.file_id)
            self._refuse_when_stopping()
            verdict = await self._verdict(file, content)
        return self._not_sent(file, verdict) if verdict else None

    async def _carried_out(self, file: UnderWay, content: Content, verdict: Verdict) -> Outcome:
        if outcome := self._not_sent(file, verdict):
            return outcome
        stored, earlier = await self._store(file, content), file.todo.stored
        assert file.url is not None
        replaced = verdict is Verdict.REPLACE or (earlier and earlier.has_own_object)
        file.http_status = stored.http_status
        outcome = file.ends(self._clock_ns(), Status.UPLOADED, Reason.REPLACED if replaced else Reason.NONE)
        return replace(outcome, key=file.url.key, etag=stored.etag, digests=content.compute_digests())

    def _not_sent(self, file: UnderWay, verdict: Verdict) -> Outcome | None:
        return file.ends(self._clock_ns(), *_NOT_SENT[verdict]) if verdict in _NOT_SENT else None

    async def _verdict(self, file: UnderWay, content: Content) -> Verdict | None:
        """Hashes a file that is too large to hold only when there is something to compare it with.

        None: that has to be done, and it was let go.
        """
        uid = content.header.sop_instance_uid
        claim = await self._claim(file, uid)
        if not claim.stored_sha256:
            return judge(claim, "", self._on_conflict)
        if content.digests is None:
            if not content.held_bytes:
                return None
            await in_thread(content.compute_digests, "hashing")
        digests, earlier = content.compute_digests(), file.todo.stored
        if earlier and earlier.has_own_object and earlier.sha256 == digests.sha256:
            return Verdict.KEEP  # also when it was stored beside another file of its UID, as was asked for
        altered = is_altered(earlier, uid, content.size_bytes, content.mtime_ns, digests.sha256)
        verdict = judge(claim, digests.sha256, self._on_conflict, is_altered=altered)
        if verdict not in (Verdict.CONFLICT, Verdict.SEND_ANYWAY):
            return verdict
        beside = await self._ledger.claim(
            file.todo, uid, digests.sha256, is_to_be_sent=verdict is Verdict.SEND_ANYWAY
        )
        self._note_claim(file, uid, beside)
        return judge_beside(beside, verdict)

    async def _claim(self, file: UnderWay, uid: str) -> Claim:
        """In the plan's order, the first time."""
        came: asyncio.Future[asyncio.Future[Claim]] = asyncio.get_running_loop().create_future()

        def claim_now() -> None:
            if not came.done():
                came.set_result(self._ledger.claim(file.todo, uid))

        self.order.claim(file.position, claim_now)
        claim = await (await came)
        self._note_claim(file, uid, claim)
        return claim

    def _note_claim(self, file: UnderWay, uid: str, claim: Claim) -> None:
        if claim.mine and not claim.stored_sha256:
            file.claimed.add(uid)
            self.same_uid.claimed(uid)

    async def _store(self, file: UnderWay, content: Content) -> Stored:
        async with self._slots.admission():
            if file.url is None or not file.url.lives(self._clock_ns() / 1e9):
                file.url = await self._mint(file.todo, content.header.sop_instance_uid)
            async with self._slots.slot(file.todo.file_id):
                file.attempts += 1
                stored = await self._client.put(file.url, content)
        if stored.etag_is_md5 and stored.etag.lower() != content.compute_digests().md5:
            raise Fault(FaultKind.INTEGRITY, "the ETag is not the MD5 of what was sent", stored.http_status)
        return stored

    async def _mint(self, todo: Todo, sop_instance_uid: str) -> PresignedUrl:
        """A URL for this file; the intent to send to its key is durable before the first byte leaves."""
        with self._slots.minting(todo.file_id):
            url = await self._client.presign()
            is_new = await self._ledger.issue(todo, sop_instance_uid, url.key, self._clock_ns())
        self.any_granted = True
        self._forbidden_in_a_row = 0
        if not is_new:
            raise Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before")
        return url

    async def _after(self, file: UnderWay, fault: Fault) -> Outcome | None:
        """What follows a fault: the outcome, or None after the pause when the way is to be tried again."""
        file.http_status, file.detail = fault.http_status, fault.detail
        if fault.kind in TRANSIENT and self._far_side_is_down():
            return None  # no file's budget pays for that: the next place opens when a probe gets through
        file.faults[fault.kind] += 1
        seen = file.faults[fault.kind]
        self._forbidden_in_a_row += fault.kind is FaultKind.FORBIDDEN
        action = decide(
            fault.kind,
            seen,
            any_granted=self.any_granted,
            forbidden_in_a_row=self._forbidden_in_a_row,
            budgets=self._budgets,
        )
        log.info("%s: %s; %s", file.todo, fault, action)
        if action is Action.STOP:
            file.reason = fault.reason
            raise ending(fault)
        if action is Action.FAIL:
            status = Status.CHANGED if fault.kind is FaultKind.CHANGED else Status.FAILED
            return file.ends(self._clock_ns(), status, fault.reason)
        if action is Action.NEW_URL:
            file.url = None
        return await self._pause(file, backoff_s(fault, seen, self._jitter()))

    def _far_side_is_down(self) -> bool:
        """Whether the breaker is open. Raises StoppedError when it has been for too long."""
        outage_s = self._slots.outage_s
        if outage_s > self._max_outage_s:
            raise StoppedError(
                f"Stopped: the platform has been down for {outage_s:,.0f} s. When it is up again, run the "
                "same command: it goes on from here. (--max-outage says how long to wait.)"
            )
        return outage_s > 0

    async def _pause(self, file: UnderWay, seconds: float) -> Outcome | None:
        with self._slots.pausing(file.todo.file_id, seconds):
            try:
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
            except TimeoutError:
                return None
        if not file.attempts:
            self._refuse_when_stopping()
        return file.ends(self._clock_ns(), Status.FAILED, Reason.INTERRUPTED)

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise InterruptedRunError("The run is stopping.")

    async def _rejected(self, file: UnderWay, rejected: Rejected) -> Outcome:
        self.order.leave(file.position)
        rejected = judge_rejected(rejected, file.todo.stored)
        if file.content and rejected.status is Status.NOT_DICOM:  # that would end in exit code 0
            raise Fault(FaultKind.CHANGED, "what was an image is none any more")
        if rejected.reason is Reason.EMPTY and await self._readers.run(
            partial(self._neighbours.have_image_like, file.todo.path)
        ):
            rejected = _EMPTY_IMAGE
        return Outcome(
            rejected.status,
            rejected.reason,
            header=rejected.header,
            size_bytes=rejected.size_bytes,
            started_ns=file.started_ns,
            finished_ns=self._clock_ns(),
            detail=rejected.detail,
        )
