"""The way of one STOW-RS request: instances of one study, asked for by QIDO-RS before they are sent again.

| what is known of an instance                              | it is                                          |
| --------------------------------------------------------- | ---------------------------------------------- |
| the server stored it, and did not have it before          | registered                                     |
| it is there, and the same data set and pixels are         | registered by this run, if it sent it;         |
|                                                           | else already_registered                        |
| it is there, and differs                                  | conflict                                       |
| the server refuses it                                     | rejected                                       |
| the server puts it off, or does not say what became of it | asked for, then sent again, so often           |

What a server does silently with another instance under a UID that it has, its profile says: then it is asked
before the first request, too.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from typing import BinaryIO, Final

from tasks.comparison.instance_comparison import difference
from tasks.concurrency.daemon_threads import in_thread
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.errors import Fault, FaultKind, InterruptedRunError, TooLargeFault
from tasks.core.object_outcomes import ObjectReason, ObjectStatus, reason_of
from tasks.core.pipeline_faults import SideFaults, down_for_too_long
from tasks.core.platform_state import Step
from tasks.core.retry import Action, backoff_s
from tasks.core.store_batches import halves
from tasks.core.stow_answers import InstanceAnswer
from tasks.core.stow_profiles import Said
from tasks.ledger.awaited_ledger import AwaitedAnswers
from tasks.ledger.registered_instances import ObjectRequest, SendingObjects
from tasks.pipeline.object_reader import UnfitError
from tasks.pipeline.uid_locks import UidLocks
from tasks.pipeline.under_registration import Pace, UnderRegistration
from tasks.remote.bucket_faults import AlteredError, GoneError
from tasks.remote.dicomweb import DicomwebClient, Part

log = logging.getLogger("dicom_ingest")

_MOST_STUDIES: Final = 16  # of which it is remembered what the registry has
_LARGE_STUDY: Final = 2000  # instances, from which on a few are asked for one by one


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one instance."""

    status: ObjectStatus
    reason: ObjectReason = ObjectReason.NONE
    detail: str = ""


@dataclass(eq=False, slots=True)
class Member:
    """An object that waits for its verdict."""

    under: UnderRegistration
    verdict: "asyncio.Future[Verdict]"

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        assert self.under.read is not None
        return self.under.read.header.sop_instance_uid

    def settle(
        self, status: ObjectStatus, reason: ObjectReason = ObjectReason.NONE, detail: str = ""
    ) -> None:
        """Whoever waits goes on."""
        if not self.verdict.done():
            self.verdict.set_result(Verdict(status, reason, detail))


@dataclass(eq=False, slots=True)
class StoreRequest:
    """One request: those who have no verdict yet."""

    study: str
    members: list[Member]
    is_repeated: bool = False  # something of it may have been carried out
    faults: dict[FaultKind, int] = field(default_factory=dict)
    detail: str = ""
    is_to_be_halved: bool = False  # it was refused as a whole

    @property
    def number(self) -> int:
        """Its only name: that of its first object."""
        return self.members[0].under.todo.object_id

    def forget_settled(self) -> None:
        """Those who have their verdict, or wait no more, are not sent again."""
        self.members = [each for each in self.members if not each.verdict.done()]


@dataclass(eq=False, kw_only=True)
class StoreRequests:
    """Sends them, each by a coroutine; one for all of a run. For the event loop's thread alone."""

    client: DicomwebClient
    ledger: AwaitedAnswers[ObjectRequest]
    pace: Pace
    faults: SideFaults
    stopping: asyncio.Event
    max_outage_s: float
    jitter: Callable[[], float]
    known: "OrderedDict[str, set[str]]" = field(default_factory=OrderedDict)  # by study: what is there
    studies: UidLocks = field(default_factory=UidLocks)

    async def send(self, study: str, members: Sequence[Member]) -> None:
        """Until each member has its verdict. Raises what ends the run."""
        await self._send(StoreRequest(study, [*members], any(each.under.asks_first for each in members)))

    async def _send(self, request: StoreRequest) -> None:
        while request.members:
            try:
                await self._try(request)
            except TooLargeFault as fault:
                request.forget_settled()
                if len(request.members) > 1:
                    await self._send_halves(request)
                    return
                if request.members:
                    await self._after(request, fault)
            except Fault as fault:
                request.forget_settled()
                if request.members:
                    await self._after(request, fault)
            except (UnfitError, GoneError, AlteredError) as why:
                self._settle_streamed(request.members[0], why)
            request.forget_settled()

    async def _send_halves(self, request: StoreRequest) -> None:
        for half in halves(request.members):
            await self._send(StoreRequest(request.study, half, is_repeated=True))

    async def _try(self, request: StoreRequest) -> None:
        async with self._alone(request.study), self.pace.admission():
            if self._has_to_ask(request):
                async with self.pace.slot(request.number, Step.ASK):
                    await self._settle_known(request)
            if not request.members:
                return
            # Durable while it waits for a slot: the registry does not wait for the ledger.
            await self.ledger.asked(SendingObjects([each.under.todo for each in request.members]))
            for each in request.members:
                each.under.attempts += 1
            async with self.pace.slot(request.number):
                await self._store(request)
        request.forget_settled()
        if request.is_to_be_halved and len(request.members) > 1:
            await self._send_halves(request)
        elif request.members:
            what = "the DICOMweb server put instances off, or did not say what became of them"
            await self._after(request, Fault(FaultKind.SERVER, what, detail=request.detail))

    async def _store(self, request: StoreRequest) -> None:
        is_repeated, request.is_repeated = request.is_repeated, True
        sent = [each.uid for each in request.members]
        answers = await self.client.store(request.study, [_part(each) for each in request.members], sent)
        self.faults.record_success()
        if self.client.profile.lists_refused:
            answers = await self._believed(request.study, answers)
        for member, answer in zip(request.members, answers, strict=True):
            await self._account(request, member, answer)
        request.is_repeated = is_repeated or any(not each.verdict.done() for each in request.members)

    def _alone(self, study: str) -> AbstractAsyncContextManager[None]:
        """Where a study's count shows whether a server has what it says, one request of it at a time."""
        return self.studies.alone(study) if self.client.profile.lists_refused else nullcontext()

    async def _believed(self, study: str, answers: Sequence[InstanceAnswer]) -> list[InstanceAnswer]:
        """What is said to be stored, and is not there, is refused. A study's count shows that all are."""
        stored = {each.sop_instance_uid for each in answers if each.said is Said.STORED}
        known = self.known.get(study, set())
        if not stored or await self.client.related(study) == len(known | stored):
            return [*answers]
        if len(known) <= _LARGE_STUDY:
            known = {*(await self.client.instances(study)).uids}
            self._remember(study, known)
        absent = {uid for uid in stored - known if not await self.client.has_instance(study, uid)}
        return [each.refused() if each.sop_instance_uid in absent else each for each in answers]

    # -- what is there -------------------------------------------------------------------------------------

    def _has_to_ask(self, request: StoreRequest) -> bool:
        """Whether the registry may have any of it, and that is not known yet."""
        if request.is_repeated or any(each.under.is_contested for each in request.members):
            return True
        known = self.known.get(request.study)
        is_new = known is not None and not any(each.uid in known for each in request.members)
        return self.client.profile.keeps_old_silently and not is_new

    async def _settle_known(self, request: StoreRequest) -> None:
        """Gives those a verdict that the registry has."""
        for member in request.members:
            if member.under.is_contested:
                await self._compare(request, member, sent_before=member.under.attempts)
        request.forget_settled()
        if not request.members:
            return
        if not (self.client.profile.keeps_old_silently or request.is_repeated):
            return
        there = await self._there(request)
        for member in request.members:
            if member.uid in there:
                await self._compare(request, member, sent_before=member.under.attempts)
        request.forget_settled()

    async def _there(self, request: StoreRequest) -> set[str]:
        """Which of a request's instances are there: as it is remembered, or by asking."""
        known = self.known.get(request.study)
        if known is not None and not request.is_repeated:
            return known
        uids = [each.uid for each in request.members]
        if known is not None and len(known) > _LARGE_STUDY:
            found = {uid for uid in uids if await self.client.has_instance(request.study, uid)}
            known |= found
            return found
        result = await self.client.instances(request.study)
        there = set(result.uids)
        if not result.is_whole:
            missing = [uid for uid in uids if uid not in there]
            there |= {uid for uid in missing if await self.client.has_instance(request.study, uid)}
        self._remember(request.study, there)
        return there

    def _remember(self, study: str, there: set[str]) -> None:
        self.known[study] = there
        self.known.move_to_end(study)
        while len(self.known) > _MOST_STUDIES:
            self.known.popitem(last=False)

    async def _compare(self, request: StoreRequest, member: Member, *, sent_before: int) -> bool:
        """Gives a verdict by what is there under its UID; whether anything is.

        `sent_before`: how often this run had sent it before the registry said that it is there.
        """
        seen = await self.client.find_instance(member.uid, request.study)
        if seen is None:
            self.known.pop(request.study, None)
            return False
        if seen.study_uid and seen.study_uid != request.study:
            member.settle(ObjectStatus.CONFLICT, detail="another study")
            return True
        with TemporaryFile() as theirs, TemporaryFile() as ours:
            try:
                where = seen.study_uid or request.study, seen.series_uid, member.uid
                await self.client.retrieve(*where, theirs)
            except Fault as fault:
                if fault.kind is not FaultKind.REJECTED:
                    raise
                detail = f"retrieve http_{fault.http_status}"
                member.settle(ObjectStatus.FAILED, ObjectReason.UNKNOWN, detail)
                return True
            differs = await in_thread(partial(_difference, member, ours, theirs), "comparison")
        if differs:
            member.settle(ObjectStatus.CONFLICT, detail=differs)
        else:
            member.settle(ObjectStatus.REGISTERED if sent_before else ObjectStatus.ALREADY_REGISTERED)
        return True

    async def _account(self, request: StoreRequest, member: Member, answer: InstanceAnswer) -> None:
        """What an answer says of one instance."""
        said = answer.said
        if said is Said.UNKNOWN:
            is_there = await self.client.has_instance(request.study, member.uid)
            said = answer.settled(is_there=is_there)
            if said is Said.REJECTED and len(request.members) > 1:  # who of them is to blame is not said
                request.is_to_be_halved = True
                return
        if said is Said.STORED:
            self.known.setdefault(request.study, set()).add(member.uid)
            member.settle(ObjectStatus.REGISTERED, detail=answer.detail)
        elif said is Said.SAME:
            member.settle(ObjectStatus.ALREADY_REGISTERED)
        elif said is Said.REJECTED:
            member.settle(ObjectStatus.REJECTED, detail=answer.detail)
        elif said is Said.LATER:
            request.detail = answer.detail
        elif not await self._compare(request, member, sent_before=_sent_before(member, answer)):
            request.detail = answer.detail
            if said is Said.CONFLICT:
                member.settle(ObjectStatus.CONFLICT, detail=answer.detail)

    # -- what goes wrong -----------------------------------------------------------------------------------

    async def _after(self, request: StoreRequest, fault: Fault) -> None:
        """What follows a fault: a pause, then the request is tried again; or it is given up."""
        if fault.kind in TRANSIENT and self._is_down():
            return
        seen = request.faults[fault.kind] = request.faults.get(fault.kind, 0) + 1
        action = self.faults.action(fault, seen)
        log.info("the request with object %d: %s; %s", request.number, fault, action)
        detail = fault.detail or (f"http_{fault.http_status}" if fault.http_status else "")
        for each in request.members:
            each.under.reason, each.under.detail = reason_of(fault.reason), detail
        if action is Action.STOP:
            raise self.faults.ending(fault)
        if action is Action.FAIL:
            self._give_up(request, fault, detail)
            return
        with self.pace.pausing(request.number, pause_s := backoff_s(fault, seen, self.jitter())):
            try:
                async with asyncio.timeout(pause_s):
                    await self.stopping.wait()
            except TimeoutError:
                return
        raise InterruptedRunError("The run is stopping.")

    def _is_down(self) -> bool:
        """Whether the server is. Raises StoppedError when it has been for too long."""
        outage_s = self.pace.outage_s
        if outage_s > self.max_outage_s:
            raise down_for_too_long(self.faults.side, outage_s)
        return outage_s > 0

    def _give_up(self, request: StoreRequest, fault: Fault, detail: str) -> None:
        for each in request.members:
            if isinstance(fault, TooLargeFault) and fault.kind is FaultKind.REJECTED:
                each.settle(ObjectStatus.REJECTED, detail=detail)
            elif fault.kind is FaultKind.CHANGED:
                each.settle(ObjectStatus.FAILED, ObjectReason.ALTERED)
            else:
                each.settle(ObjectStatus.FAILED, reason_of(fault.reason), detail)

    def _settle_streamed(self, member: Member, why: Exception) -> None:
        """A large object is alone in its request, and was read while it was sent."""
        if isinstance(why, UnfitError):
            assert member.under.read is not None
            member.under.read.sha256 = why.sha256
            member.settle(ObjectStatus.QUARANTINED, why.unfit.reason, why.unfit.detail)
        elif isinstance(why, GoneError):
            member.settle(ObjectStatus.MISSING)
        else:
            member.settle(ObjectStatus.FAILED, ObjectReason.ALTERED)


def _sent_before(member: Member, answer: InstanceAnswer) -> int:
    """How often this run had sent what the registry has: of UNKNOWN it may be what was sent just now."""
    return member.under.attempts - (answer.said is not Said.UNKNOWN)


def _part(member: Member) -> Part:
    read = member.under.read
    assert read is not None
    return Part(read.size_bytes, read.pieces)


def _difference(member: Member, ours: BinaryIO, theirs: BinaryIO) -> str:
    """Of a held object, and of one that is read once more for it."""
    read = member.under.read
    assert read is not None
    pieces = read.pieces()
    if isinstance(pieces, list):
        return difference(BytesIO(b"".join(pieces)), theirs)
    for piece in pieces:
        ours.write(piece)
    return difference(ours, theirs)
