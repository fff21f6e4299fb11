"""The way of one object, from top to bottom: read, judged, its UID claimed, stored, its outcome durable.

Many are under way at once. Those of one study wait for each other, to share a request (`store_requests.py`);
an object whose SOP Instance UID another has in work waits for that one's outcome.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tasks.concurrency.daemon_threads import DaemonThreads, in_thread
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.errors import Fault, InterruptedRunError, RowRefusedError
from tasks.core.object_outcomes import (
    DONE,
    InstanceClaim,
    ObjectOutcome,
    ObjectReason,
    ObjectStatus,
    ObjectTodo,
    reason_of,
)
from tasks.core.pipeline_faults import SideFaults, down_for_too_long
from tasks.core.retry import Action, backoff_s
from tasks.core.store_batches import StoreBatch, StoreBatches
from tasks.ledger.awaited_ledger import AwaitedAnswers
from tasks.ledger.registered_instances import ClaimingInstance, ClosingObject, ObjectRequest, SettlingObject
from tasks.pipeline.afterwards import Afterwards
from tasks.pipeline.held_room import HeldRoom
from tasks.pipeline.object_reader import HELD_BYTES, ReadObject, UnfitError
from tasks.pipeline.object_reads import ObjectReads
from tasks.pipeline.store_requests import Member, StoreRequests, Verdict
from tasks.pipeline.stream_window import HEAD_BYTES
from tasks.pipeline.uid_locks import UidLocks
from tasks.pipeline.under_registration import Pace, UnderRegistration
from tasks.remote.bucket_faults import AlteredError, GoneError

log = logging.getLogger("dicom_ingest")

_READS: Final = 3  # an object that is replaced while it is read is read again, so often
_LOOK_UP_S: Final = 1.0  # between two looks at a claim of another process


@dataclass(eq=False, kw_only=True)
class Registrar:
    """Takes objects their way, each in a coroutine; one for all of a run."""

    reads: ObjectReads
    requests: StoreRequests
    batches: StoreBatches[Member]
    ledger: AwaitedAnswers[ObjectRequest]
    threads: DaemonThreads
    reading: Pace
    faults: SideFaults  # of the bucket
    room: HeldRoom
    afterwards: Afterwards
    parallel: int  # requests to the registry
    stopping: asyncio.Event
    max_outage_s: float
    jitter: Callable[[], float]
    fail: Callable[[BaseException], None]  # a request, of which no object's coroutine is, ends the run
    clock_ns: Callable[[], int] = time.time_ns
    finds_errors: Callable[[bytes], bool] | None = None  # of dciodvfy
    not_done: dict[str, int] = field(default_factory=dict)  # what follows an outcome and failed, by why
    with_errors: int = 0  # objects in which it does
    waiting_for_others: int = 0  # objects with a UID that another process has in work

    def __post_init__(self) -> None:
        self._uids = UidLocks()
        self._on_the_way = 0  # objects that are about to be ready to be sent
        self._sending: set[asyncio.Task[None]] = set()

    async def register(self, todo: ObjectTodo) -> ObjectOutcome | None:
        """What became of it, once that is durable; None of one that was registered before, and only moved.

        Raises what ends the run. Cut off or stopped, an object that was tried has failed.
        """
        under = UnderRegistration(todo, self.clock_ns())
        if todo.status in DONE:
            await self._finish_earlier(under)
            return None
        try:
            return await self._register(under)
        except BaseException:
            if under.attempts and not under.is_settled:
                await self._settle(under, self._ends(under, ObjectStatus.FAILED, under.reason, under.detail))
            raise

    def stop_waiting(self) -> None:
        """The run is stopping: who waits for a request that has not begun does not get one."""
        for batch in self.batches.close_all():
            _give_up(batch)

    async def drain(self) -> None:
        """Cuts off the requests that are under way."""
        for task in [*self._sending]:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _register(self, under: UnderRegistration) -> ObjectOutcome:
        size_bytes = under.todo.size_bytes
        held = HELD_BYTES if size_bytes is None else size_bytes if size_bytes <= HELD_BYTES else HEAD_BYTES
        async with self.room.entered(held):
            with self._moving_on():
                outcome = await self._read(under)
                if outcome is None:
                    assert under.read is not None
                    uid = under.read.header.sop_instance_uid
                    async with self._uids.alone(uid, self._waiting):
                        return await self._settled(under, await self._stored(under))
        return await self._settled(under, outcome)

    # -- read ----------------------------------------------------------------------------------------------

    async def _read(self, under: UnderRegistration) -> ObjectOutcome | None:
        """None: it is read, and fit to be offered."""
        altered = 0
        while True:
            try:
                async with self.reading.admission(), self.reading.slot(under.todo.object_id):
                    under.read = await self.reads.read(under.todo, has_failed=bool(under.faults))
                self.faults.record_success()
            except GoneError:
                if not under.todo.moved_to:
                    return self._ends(under, ObjectStatus.MISSING)
                under.todo = replace(under.todo, moved_to="")  # a move was cut short: it is where it was
            except AlteredError:
                altered += 1
                if altered >= _READS:
                    return self._ends(under, ObjectStatus.FAILED, ObjectReason.ALTERED)
                under.todo = replace(under.todo, size_bytes=None, etag="")
            except Fault as fault:
                if outcome := await self._after(under, fault):
                    return outcome
            else:
                unfit = under.read.unfit
                if unfit is None:
                    await self._count_errors(under.read)
                    return None
                return self._ends(under, ObjectStatus.QUARANTINED, unfit.reason, unfit.detail)

    async def _count_errors(self, read: ReadObject) -> None:
        """Of what is held."""
        pieces = read.pieces() if self.finds_errors else None
        if self.finds_errors and isinstance(pieces, list):
            found = await self.threads.run(partial(self.finds_errors, b"".join(pieces)))
            self.with_errors += found

    async def _after(self, under: UnderRegistration, fault: Fault) -> ObjectOutcome | None:
        """What follows a fault of the bucket: None after a pause, when it is to be tried again."""
        if fault.kind in TRANSIENT and self._is_down():
            return None  # no object's budget pays for that
        under.faults[fault.kind] += 1
        seen = under.faults[fault.kind]
        action = self.faults.action(fault, seen)
        log.info("%s: %s; %s", under.todo, fault, action)
        if action is Action.STOP:
            raise self.faults.ending(fault)
        if action is Action.FAIL:
            return self._ends(under, ObjectStatus.FAILED, reason_of(fault.reason), fault.detail)
        with self._waiting():
            await self._pause(under, backoff_s(fault, seen, self.jitter()))
        return None

    async def _pause(self, under: UnderRegistration, seconds: float) -> None:
        """Raises InterruptedRunError when the run stops meanwhile."""
        with self.reading.pausing(under.todo.object_id, seconds), suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
                raise InterruptedRunError("The run is stopping.")

    def _is_down(self) -> bool:
        """Whether the bucket is. Raises StoppedError when it has been for too long."""
        outage_s = self.reading.outage_s
        if outage_s > self.max_outage_s:
            raise down_for_too_long(self.faults.side, outage_s)
        return outage_s > 0

    # -- stored --------------------------------------------------------------------------------------------

    async def _stored(self, under: UnderRegistration) -> ObjectOutcome:
        assert under.read is not None
        uid = under.read.header.sop_instance_uid
        claim = await self._claim(under, uid)
        if not claim.mine:
            if not under.read.sha256 and (outcome := await self._hashed(under)):
                return outcome
            if claim.registered_sha256 == under.read.sha256:
                return self._ends(under, ObjectStatus.ALREADY_REGISTERED)
            under.is_contested = True
        under.claimed = uid
        verdict = await self._verdict(under, under.read.header.study_instance_uid)
        return self._ends(under, verdict.status, verdict.reason, verdict.detail)

    async def _claim(self, under: UnderRegistration, uid: str) -> InstanceClaim:
        """Waits for another process that has its UID in work."""
        while True:
            claim: InstanceClaim = await self.ledger.asked(ClaimingInstance(under.todo, uid))
            if claim.mine or claim.registered_sha256:
                return claim
            self.waiting_for_others += 1
            try:
                with self._waiting():
                    await self._pause(under, _LOOK_UP_S)
            finally:
                self.waiting_for_others -= 1

    async def _hashed(self, under: UnderRegistration) -> ObjectOutcome | None:
        """None, once the hash of a large object is known: it is read for that."""
        read = under.read
        assert read is not None
        try:
            await in_thread(lambda: deque(read.pieces(), maxlen=0), "hashing")
        except UnfitError as why:
            return self._ends(under, ObjectStatus.QUARANTINED, why.unfit.reason, why.unfit.detail)
        except GoneError:
            return self._ends(under, ObjectStatus.MISSING)
        except AlteredError:
            return self._ends(under, ObjectStatus.FAILED, ObjectReason.ALTERED)
        except Fault as fault:
            return self._ends(under, ObjectStatus.FAILED, reason_of(fault.reason), fault.detail)
        return None

    async def _verdict(self, under: UnderRegistration, study: str) -> Verdict:
        """Waits for others of its study, and for the request's end."""
        assert under.read is not None
        member = Member(under, asyncio.get_running_loop().create_future())
        alone = under.read.size_bytes > HELD_BYTES
        size_bytes = self.batches.most_bytes if alone else under.read.size_bytes
        for whole in self.batches.add(study, member, size_bytes):
            self._send(whole)
        if len(self._sending) < self.parallel and (passed := self.batches.close_first(but_of=study)):
            self._send(passed)
        with self._waiting():
            return await member.verdict

    def _send(self, batch: StoreBatch[Member]) -> None:
        task = asyncio.create_task(self._sent(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(self, batch: StoreBatch[Member]) -> None:
        try:
            await self.requests.send(batch.study_instance_uid, batch.items)
        except Exception as why:  # noqa: BLE001 - what ends it ends the run
            self.fail(why)
        finally:
            _give_up(batch)

    # -- its outcome ---------------------------------------------------------------------------------------

    async def _settled(self, under: UnderRegistration, outcome: ObjectOutcome) -> ObjectOutcome:
        """Tagged before it is durable, moved after: what is cut short in between is done again."""
        status, todo = outcome.status, under.todo
        if tag := self.afterwards.tag_of(status):
            is_tagged = await self._try(partial(self.afterwards.tag, todo.location, status), "tagged")
            outcome = replace(outcome, tagged=tag if is_tagged else "")
        target = todo.moved_to
        moves = not target and self.afterwards.is_moved(status)
        if moves:
            target = await self._target(under, outcome)
        outcome = await self._settle(under, replace(outcome, moved_to=target))
        if moves and target:
            await self._move(todo, target, outcome)
        return outcome

    async def _settle(self, under: UnderRegistration, outcome: ObjectOutcome) -> ObjectOutcome:
        under.is_settled = True  # as soon as the ledger comes to it, whoever waits for that
        try:
            await self.ledger.asked(SettlingObject(under.todo, outcome, under.claimed))
        except RowRefusedError:
            outcome = ObjectOutcome(
                status=ObjectStatus.FAILED,
                reason=ObjectReason.LEDGER,
                started_ns=under.started_ns,
                finished_ns=self.clock_ns(),
            )
            await self.ledger.asked(SettlingObject(under.todo, outcome, under.claimed))
        return outcome

    async def _finish_earlier(self, under: UnderRegistration) -> None:
        """Moves or tags what was registered before."""
        todo, status = under.todo, ObjectStatus.REGISTERED
        known = ObjectOutcome(status=status, size_bytes=todo.size_bytes, etag=todo.etag, sha256=todo.sha256)
        tagged, target = "", todo.moved_to
        if tag := self.afterwards.tag_of(status):
            tagged = tag if await self._try(partial(self.afterwards.tag, todo.key, status), "tagged") else ""
        if not target and self.afterwards.is_moved(status):
            target = await self._target(under, known)
        if target:
            await self._move(todo, target, known, tagged)
        else:
            await self.ledger.asked(ClosingObject(todo, "", tagged))

    async def _target(self, under: UnderRegistration, outcome: ObjectOutcome) -> str:
        """Empty when that can't be known: then it stays."""
        found: list[str] = []

        def look() -> None:
            its = under.todo.key, outcome.status, outcome.size_bytes, outcome.etag
            found.append(self.afterwards.target(*its))

        await self._try(look, "moved")
        return "".join(found)

    async def _move(self, todo: ObjectTodo, target: str, outcome: ObjectOutcome, tagged: str = "") -> None:
        move = partial(self.afterwards.move, todo.key, target, outcome.etag, outcome.sha256)
        is_moved = await self._try(move, "moved")
        await self.ledger.asked(ClosingObject(todo, target if is_moved else "", tagged or outcome.tagged))

    async def _try(self, work: Callable[[], None], what: str) -> bool:
        """Whether it worked; what does not is no object's fault, and is counted."""
        try:
            await self.threads.run(work)
        except (Fault, GoneError, AlteredError) as why:
            detail = why.detail if isinstance(why, Fault) else type(why).__name__.removesuffix("Error")
            name = f"{what}: {detail}"
            self.not_done[name] = self.not_done.get(name, 0) + 1
            return False
        return True

    def _ends(
        self,
        under: UnderRegistration,
        status: ObjectStatus,
        reason: ObjectReason = ObjectReason.NONE,
        detail: str = "",
    ) -> ObjectOutcome:
        return under.ends(self.clock_ns(), status, reason, detail)

    # -- who waits for whom --------------------------------------------------------------------------------

    @contextmanager
    def _moving_on(self) -> Iterator[None]:
        """Around an object that may soon be ready to be sent with others."""
        self._on_the_way += 1
        try:
            yield
        finally:
            self._leave_the_way()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Around its wait for others: when all do that, what there is is sent."""
        self._leave_the_way()
        try:
            yield
        finally:
            self._on_the_way += 1

    def _leave_the_way(self) -> None:
        self._on_the_way -= 1
        if not self._on_the_way:
            for batch in self.batches.close_all():
                self._send(batch)


def _give_up(batch: StoreBatch[Member]) -> None:
    """Who has no verdict yet gets none."""
    for member in batch.items:
        if not member.verdict.done():
            member.verdict.set_exception(InterruptedRunError("The run is stopping."))
            member.verdict.exception()  # who waited may have gone
