"""The way of one file: read, claimed, a URL minted for it, sent. It goes forward only, to an Outcome.

A transient fault starts the way anew after a pause: the file is read again, so nothing is held meanwhile, and
what it is sent to is the same URL and key while that URL lives: an uncertain PUT is overwritten by itself.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

from tasks.core.brake import Brake, refused_in_a_row
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.duplicates import Claim, Verdict, judge, judge_beside
from tasks.core.errors import Fault, FaultKind, IngestError, InterruptedRunError, StoppedError, ending
from tasks.core.models import (
    ACCEPTABLE,
    OnConflict,
    Outcome,
    Proof,
    Reason,
    Rejected,
    Status,
    StoredContent,
    Todo,
)
from tasks.core.retry import BUDGETS, Action, backoff_s, decide
from tasks.core.stored_content import is_altered, is_cut_copy, judge_rejected
from tasks.remote.upload_api import Stored, Ticket, UploadClient
from tasks.source.file_content import Budget, Content, open_content
from tasks.source.neighbours import Neighbours
from tasks.turn import waiting
from tasks.upload.integrity import Integrity
from tasks.upload.slots import Slots

log = logging.getLogger("dicom_ingest")

HELD_BYTES_IN_ALL: Final = 256 * 1024 * 1024
_NOT_SENT: Final = {
    Verdict.KEEP: (Status.ALREADY_UPLOADED, Reason.NONE),
    Verdict.DUPLICATE: (Status.DUPLICATE, Reason.NONE),
    Verdict.CONFLICT: (Status.CONFLICT, Reason.NONE),
    Verdict.ALTERED: (Status.CHANGED, Reason.ALTERED),
}
_EMPTY_IMAGE: Final = Rejected(Status.INVALID, Reason.TRUNCATED, size_bytes=0, detail=Reason.EMPTY)


class FileLedger(Protocol):
    """What a file asks of the ledger on its way; `tasks.ledger.ledger.Ledger` says more."""

    def claim(self, todo: Todo, sop_instance_uid: str, sha256: str = "", is_to_be_sent: bool = True) -> Claim:
        """Claims a SOP Instance UID for a file, or these bytes beside others of it, or tells whose it is."""
        ...

    def issue(self, todo: Todo, sop_instance_uid: str, key: str, now_ns: int) -> bool:
        """Makes the intent to send durable. False when the key was handed out before."""
        ...

    def settle(self, todo: Todo, outcome: Outcome | None, claimed: Collection[str] = ()) -> None:
        """Makes an outcome durable; None: it waits, and keeps nothing claimed."""
        ...

    def reach(self, storage_host: str) -> None:
        """Makes durable that files go to a host, before the first does."""
        ...


@dataclass(slots=True)
class Trip:
    """One file under way: what has happened to it so far."""

    todo: Todo
    started_ns: int
    content: Content | None = None
    read_ns: int | None = None  # when that was begun to be read
    ticket: Ticket | None = None
    attempts: int = 0  # PUTs
    http_status: int | None = None
    reason: Reason = Reason.INTERRUPTED  # why it ends, if it has to end now
    detail: str = ""  # of the last fault
    last_reason: Reason = Reason.INTERRUPTED  # that fault's
    claimed: set[str] = field(default_factory=set)  # SOP Instance UIDs
    faults: Counter[FaultKind] = field(default_factory=Counter)

    def ends(self, now_ns: int, status: Status, reason: Reason = Reason.NONE) -> Outcome:
        """The outcome of a trip that stored nothing."""
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


class Carrier:
    """Carries files, each in the thread that asks; shared by all workers of a process."""

    def __init__(
        self,
        client: UploadClient,
        ledger: FileLedger,
        slots: Slots,
        stopping: threading.Event,
        on_conflict: OnConflict = OnConflict.REPORT,
        accept: Collection[str] = (),
        budgets: Mapping[FaultKind, int] = BUDGETS,
        max_outage_s: float = 3600.0,
        clock_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
        held_bytes: int = HELD_BYTES_IN_ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._slots = slots
        self._stopping = stopping
        self._on_conflict = on_conflict
        self._accept = accept
        self._budgets = budgets
        self._max_outage_s = max_outage_s
        self._clock_ns = clock_ns
        self._jitter = jitter
        self._clock = clock
        self._brake = Brake()
        self._over: IngestError | None = None  # what the brake stopped the run with: no PUT begins any more
        self._held = Budget(held_bytes)
        self._integrity = Integrity(stopping)
        self._neighbours = Neighbours()
        self._lock = threading.Lock()
        self._forbidden_in_a_row = 0
        self.any_granted = False  # a key was handed out in this run: the credentials are good

    def start(self, todo: Todo) -> Trip:
        """The trip that `carry` is to make."""
        return Trip(todo, self._clock_ns())

    def carry(self, trip: Trip) -> Outcome | None:
        """The file's outcome; None when a twin of it is under way elsewhere and has to settle first.

        Raises what `ending` says when no file can do better, InterruptedRunError when the run stops before
        a PUT.
        """
        with self._integrity.under_way():
            return self._carry(trip)

    def _carry(self, trip: Trip) -> Outcome | None:
        while True:
            try:
                return self._try(trip)
            except Fault as fault:
                outcome = self._after(trip, fault)
                if outcome is not None:
                    return outcome
            except IngestError:
                trip.reason = self._reason_at_the_end(trip)
                raise
            except OSError:  # of the file: those of the network are Faults
                return trip.ends(self._clock_ns(), Status.UNREADABLE, Reason.IO_ERROR)

    def _try(self, trip: Trip) -> Outcome | None:
        read_ns = self._clock_ns()
        with open_content(trip.todo.path, self._held, self._accepts(trip.todo)) as opened:
            content = self._held_back(opened, trip.todo.stored)
            if isinstance(content, Rejected):
                content = judge_rejected(content, trip.todo.stored)
                if trip.content and content.status is Status.NOT_DICOM:  # that would end in exit code 0
                    raise Fault(FaultKind.CHANGED, "what was an image is none any more")
                return self._rejected(trip, content)
            trip.content, trip.read_ns = content, read_ns
            claim = self._ledger.claim(trip.todo, content.header.sop_instance_uid)
            if claim.mine and not claim.stored_sha256:
                trip.claimed.add(content.header.sop_instance_uid)
            verdict = self._verdict(trip, claim, content)
            if verdict is Verdict.WAIT:
                return None
            if verdict in _NOT_SENT:
                return trip.ends(self._clock_ns(), *_NOT_SENT[verdict])
            (stored, proof), earlier = self._store(trip, content), trip.todo.stored
            replaced = verdict is Verdict.REPLACE or (earlier and earlier.has_own_object)
            accepted = content.rejected.reason if content.rejected else Reason.NONE
            return self._uploaded(trip, content, stored, proof, Reason.REPLACED if replaced else accepted)

    def _accepts(self, todo: Todo) -> Callable[[Rejected], bool]:
        """Of files that would be held back those that may be sent, or may be what is stored of them."""
        return lambda found: found.is_sent(ACCEPTABLE if todo.stored else self._accept)

    def _held_back(self, content: Content | Rejected, stored: StoredContent | None) -> Content | Rejected:
        """A file that would be held back goes on when it is what is stored, or its reason is accepted."""
        if isinstance(content, Rejected) or (rejected := content.rejected) is None:
            return content
        if stored and stored.sha256 == content.compute_digests().sha256:
            return content
        rejected = replace(rejected, size_bytes=content.size_bytes, mtime_ns=content.mtime_ns)
        return content if rejected.is_sent(self._accept) and not is_cut_copy(rejected, stored) else rejected

    def _verdict(self, trip: Trip, claim: Claim, content: Content) -> Verdict:
        """Hashes a file that is too large to hold only when there is something to compare it with."""
        if not claim.stored_sha256:
            return judge(claim, "", self._on_conflict)
        md5_too = content.digests is None and self._integrity.wants_md5()  # by one look at the file
        sha256, earlier = content.compute_digests(with_md5=md5_too).sha256, trip.todo.stored
        if earlier and earlier.has_own_object and earlier.sha256 == sha256:
            return Verdict.KEEP  # also when it was stored beside another file of its UID, as was asked for
        uid, size_bytes, mtime_ns = content.header.sop_instance_uid, content.size_bytes, content.mtime_ns
        altered = is_altered(earlier, uid, size_bytes, mtime_ns, sha256)
        verdict = judge(claim, sha256, self._on_conflict, is_altered=altered)
        if verdict not in (Verdict.CONFLICT, Verdict.SEND_ANYWAY):
            return verdict
        beside = self._ledger.claim(trip.todo, uid, sha256, verdict is Verdict.SEND_ANYWAY)
        if beside.mine and not beside.stored_sha256:
            trip.claimed.add(uid)
        return judge_beside(beside, verdict)

    def _store(self, trip: Trip, content: Content) -> tuple[Stored, Proof]:
        if trip.faults[FaultKind.INTEGRITY] and self._integrity.wants_md5():
            content.compute_digests(with_md5=True)  # S3 is to check it now, also of what is streamed
        with self._slots.place():
            if trip.ticket is None or not trip.ticket.lives(self._clock_ns() / 1e9):
                trip.ticket = self._mint(trip.todo, content.header.sop_instance_uid)
            host = trip.ticket.host
            with_md5 = self._integrity.wants_md5(host)
            known_md5 = content.known_md5() if with_md5 else ""
            body = partial(content.body, with_md5=with_md5)
            with self._slots.slot(trip.todo.file_id):
                if self._over:
                    raise self._over
                trip.attempts += 1
                stored = self._client.put(trip.ticket, body, content.size_bytes, known_md5)
        digests = content.compute_digests(with_md5=stored.evidence.needs_md5)
        proof = self._integrity.judge(trip.todo.file_id, host, stored, digests)
        with self._lock:
            self._brake.record_stored()
        return stored, proof

    def _mint(self, todo: Todo, sop_instance_uid: str) -> Ticket:
        """A URL for this file; the intent to send to its key is durable before the first byte leaves."""
        with self._slots.minting(todo.file_id):
            ticket = self._client.presign()
            is_new = self._ledger.issue(todo, sop_instance_uid, ticket.key, self._clock_ns())
        with self._lock:
            self.any_granted = True
            self._forbidden_in_a_row = 0
            self._brake.record_granted()
        if not is_new:
            raise Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before")
        return ticket

    def _after(self, trip: Trip, fault: Fault) -> Outcome | None:
        """What follows a fault: the outcome, or None after the pause when the way is to be tried again."""
        trip.http_status, trip.detail, trip.last_reason = fault.http_status, fault.detail, fault.reason
        self._stop_when_all_fail(trip, fault)
        if fault.kind in TRANSIENT and self._far_side_is_down():
            return None  # no file's budget pays for that: the next place opens when a probe gets through
        trip.faults[fault.kind] += 1
        seen = trip.faults[fault.kind]
        with self._lock:
            self._forbidden_in_a_row += fault.kind is FaultKind.FORBIDDEN
            action = decide(
                fault.kind,
                seen,
                any_granted=self.any_granted,
                forbidden_in_a_row=self._forbidden_in_a_row,
                budgets=self._budgets,
            )
        log.info("%s: %s; %s", trip.todo, fault, action)
        if action is Action.STOP:
            trip.reason = fault.reason
            raise ending(fault)
        if action is Action.FAIL:
            status = Status.CHANGED if fault.kind is FaultKind.CHANGED else Status.FAILED
            return trip.ends(self._clock_ns(), status, fault.reason)
        if action is Action.NEW_URL:
            trip.ticket = None
        return self._pause(trip, backoff_s(fault, seen, self._jitter()))

    def _stop_when_all_fail(self, trip: Trip, fault: Fault) -> None:
        """Raises what ends the run when neither waiting nor another file would do better."""
        if not fault.is_certain:
            return
        with self._lock:
            must_stop = self._brake.record_fault(fault.kind, self._clock())
            if must_stop and not self._over:
                is_api = fault.kind is FaultKind.PRESIGN
                self._over = ending(fault) if is_api else refused_in_a_row(fault, str(trip.todo))
        if must_stop and self._over:
            trip.reason = fault.reason
            raise self._over

    def _far_side_is_down(self) -> bool:
        """Whether the breaker is open. Raises StoppedError when it has been for too long."""
        outage_s = self._slots.outage_s
        if outage_s > self._max_outage_s:
            raise StoppedError(
                f"Stopped: the platform has been down for {outage_s:,.0f} s. When it is up again, run the "
                "same command: it goes on from here. (--max-outage says how long to wait.)"
            )
        return outage_s > 0

    def _pause(self, trip: Trip, seconds: float) -> Outcome | None:
        with waiting(), self._slots.pausing(trip.todo.file_id, seconds):
            stopping = self._stopping.wait(seconds)
        if not stopping:
            return None
        if not trip.attempts:
            raise InterruptedRunError("The run is stopping.")
        return trip.ends(self._clock_ns(), Status.FAILED, self._reason_at_the_end(trip))

    def _reason_at_the_end(self, trip: Trip) -> Reason:
        """Of a file between two tries: what all files were refused for, or that the run ended."""
        return trip.last_reason if self._over else Reason.INTERRUPTED

    def _rejected(self, trip: Trip, rejected: Rejected) -> Outcome:
        if rejected.reason is Reason.EMPTY and self._neighbours.have_image_like(trip.todo.path):
            rejected = _EMPTY_IMAGE
        return Outcome(
            rejected.status,
            rejected.reason,
            header=rejected.header,
            size_bytes=rejected.size_bytes,
            started_ns=trip.started_ns,
            finished_ns=self._clock_ns(),
            detail=rejected.detail,
        )

    def _uploaded(
        self, trip: Trip, content: Content, stored: Stored, proof: Proof, reason: Reason
    ) -> Outcome:
        assert trip.ticket is not None
        return Outcome(
            Status.UPLOADED,
            reason,
            header=content.header,
            digests=content.compute_digests(),
            size_bytes=content.size_bytes,
            mtime_ns=content.mtime_ns,
            ctime_ns=content.ctime_ns,
            read_ns=trip.read_ns,
            key=trip.ticket.key,
            etag=stored.etag,
            proof=proof,
            attempts=trip.attempts,
            http_status=stored.http_status,
            started_ns=trip.started_ns,
            finished_ns=self._clock_ns(),
            detail=content.rejected.detail if content.rejected else "",
        )
