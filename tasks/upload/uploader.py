"""One uploader per run: it deals the files of every batch in flight to those who carry them.

At first these are threads of this process. When it is short of CPU, and the machine has more cores, hands
take over (`hand.py`): processes that share the slots, while this one keeps the ledger. The slots never
drain at a batch's edge, and there are never more PUTs at once than the platform asks for.
"""

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Protocol

from tasks.core.api_answers import WRONG_SHAPES, what_is_wrong
from tasks.core.errors import FaultKind, IngestError, InternalError, InterruptedRunError
from tasks.core.models import EXIT_ONE, Reason, Status, Todo
from tasks.core.platform_state import PlatformState, joint_state
from tasks.core.problems import why_held_back
from tasks.core.store_answers import advice
from tasks.core.words import counted
from tasks.ledger.ledger import Ledger
from tasks.settings import Settings
from tasks.upload.slots import Slots, summed
from tasks.upload.transfer import Carrier
from tasks.upload.workers import Ended, Workers

if TYPE_CHECKING:
    from tasks.upload.hand import Crew, Hand

log = logging.getLogger("dicom_ingest")

GRACE_S: Final = 10.0  # how long PUTs in flight may take after a stop
_TWIN_PAUSE_S: Final = (0.02, 2.0)  # first and longest pause before a twin's claim is asked for again
_MOST_PROCESSES: Final = 4  # more than these the ledger's one thread can't serve
_SHORT_OF_CPU: Final = 0.8  # of a core: one interpreter has no more
_MOST_NAMED: Final = 100  # of files that are held back, in the log: the report has them all
_SEEN_OVER_S: Final = 1.0
_ADVISED: Final = frozenset(
    {Reason.REFUSED, Reason.INTEGRITY, Reason.EXPIRED, Reason.THROTTLED, Reason.NETWORK, Reason.SERVER}
)


def _unknown() -> PlatformState | None:
    return None


@dataclass(slots=True)
class Progress:
    """Counters for whoever shows them; written under one lock, read by anyone."""

    files_listed: int = 0
    files_done: int = 0  # known when they were listed, or settled
    files_settled: int = 0  # by who sends: what the pace is taken from
    files_stored: int = 0
    files_failed: int = 0
    files_held_back: int = 0  # settled, not stored, and a reason for exit code 1, without those that failed
    bytes_stored: int = 0
    scanning: bool = True
    waiting_for: str = ""  # what keeps the run from sending, in words, such as "upload slots"
    platform: Callable[[], PlatformState | None] = field(default=_unknown, repr=False, compare=False)

    def counters(self) -> dict[str, int]:
        """The numbers alone, by name."""
        return {name: getattr(self, name) for name in COUNTERS}


# What shards tell with each sign of life: what can be added up.
COUNTERS: Final = tuple(each.name for each in fields(Progress) if each.type is int)


class Sender(Protocol):
    """Who carries files: this process's workers, or a hand."""

    @property
    def capacity(self) -> int:
        """How many files it may have at once."""
        ...

    def put(self, todo: Todo) -> None:
        """Takes a file; `Uploader.ended` is called when it is done with."""
        ...


class Uploader:
    """Deals files to senders. Call `drain` when no batch follows."""

    def __init__(
        self,
        carrier: Carrier,
        ledger: Ledger,
        slots: Slots,
        stopping: threading.Event,
        progress: Progress,
        settings: Settings,
    ) -> None:
        self._ledger = ledger
        self._slots = slots
        self._stopping = stopping
        self._progress = progress
        self._settings = settings
        self._carrier = carrier
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopped_by: IngestError | None = None
        self._under_way: dict[int, tuple[Todo, _Batch, Sender]] = {}  # by file_id
        self._workers = Workers(carrier, ledger, stopping, settings.parallel, self.ended, self.stop)
        self._senders: Sequence[Sender] = [self._workers]  # who is given files
        self._has: Counter[Sender] = Counter()  # how many files each has
        self._hands: list[Hand] = []
        self._crew: Crew | None = None
        self._load = _Load()
        self._hiring: threading.Thread | None = None
        self._permitting = threading.Lock()
        self._may_put = True
        self._processes = processes_wanted(settings)
        progress.platform = self.platform

    @property
    def peak(self) -> int:
        """Most PUTs at once; of several processes the sum of each one's most."""
        together = sum(hand.peak for hand in self._hands)
        return max(self._slots.peak, min(together, self._settings.parallel))

    @property
    def course(self) -> list[tuple[float, int]]:
        """(seconds since the start, slots in use), at each change; of several processes in sum."""
        return summed([self._slots.course, *(hand.course for hand in self._hands)])

    def platform(self) -> PlatformState:
        """How the platform is, as all who send see it together; a moment late where they are processes."""
        return joint_state([self._slots.state(), *(hand.platform for hand in self._hands)])

    def upload(self, todos: Iterable[Todo]) -> None:
        """Sends a batch; returns when each of its files is settled, raises when the run stops before."""
        batch = _Batch()
        for todo in todos:
            self._hand_over(todo, batch)
        pause_s, longest_s = _TWIN_PAUSE_S
        while waiting := self._settled_but(batch):
            self._progress.waiting_for = self._claimed(waiting) if pause_s == longest_s else ""
            self._stopping.wait(pause_s)
            pause_s = min(longest_s, 2 * pause_s)
            for todo in waiting:
                self._hand_over(todo, batch)
        self._progress.waiting_for = ""

    def _claimed(self, waiting: Sequence[Todo]) -> str:
        """What is waited for when nothing else is left: a killed run keeps its claims until it is dead."""
        if self._under_way:
            return ""
        return f"{counted(len(waiting), 'file')} with a SOP Instance UID that is claimed"

    def count_listed(self, rows: int, to_do: int) -> None:
        """What the scan found, and how much of it is to be sent or looked at."""
        with self._lock:
            self._progress.files_listed += rows
            self._progress.files_done += rows - to_do

    def ended(self, ended: Ended) -> None:
        """A sender is done with a file."""
        with self._changed:
            todo, batch, sender = self._under_way.pop(ended.file_id)
            self._has[sender] -= 1
            if ended.status:
                self._count(todo, ended)
            self._changed.notify()
        batch.end(todo if ended.waits else None)

    def stop(self, why: IngestError) -> None:
        """Starts no file any more; what is in flight goes on until it is done or `drain` gives up on it."""
        with self._lock:
            self._stopped_by = self._stopped_by or why
        self._stopping.set()
        self._slots.close()
        for hand in self._hands:
            hand.stop()

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on, in any process; those under way go on."""
        with self._permitting:
            self._may_put = may_begin
            self._slots.permit_puts(may_begin)
            for hand in self._hands:
                hand.permit_puts(may_begin)

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Ends all senders; a PUT that outlasts the grace is cut off and settled as `interrupted`."""
        self._stopping.set()
        if self._hiring:
            self._hiring.join()
        self._workers.dismiss()
        for hand in self._hands:
            hand.dismiss(grace_s)
        until = time.monotonic() + grace_s
        if not self._workers.join(grace_s):
            self._workers.cut_off()
        if self._crew:
            self._crew.join(max(0.0, until - time.monotonic()))

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._stopping.is_set():
            raise self._stopped_by or InterruptedRunError("The run was stopped.")

    def _hand_over(self, todo: Todo, batch: "_Batch") -> None:
        """To the sender with the most room, as soon as one has any."""
        self._consider_hiring()
        with self._changed:
            while not (sender := self._with_room()):
                self._changed.wait(0.5)
                self.raise_if_stopped()
            self.raise_if_stopped()
            self._has[sender] += 1
            self._under_way[todo.file_id] = todo, batch, sender
        batch.begin()
        sender.put(todo)

    def _with_room(self) -> Sender | None:
        room, sender = max(
            ((sender.capacity - self._has[sender], sender) for sender in self._senders),
            key=lambda each: each[0],
            default=(0, None),
        )
        return sender if room > 0 else None

    def _settled_but(self, batch: "_Batch") -> list[Todo]:
        """Waits until each file of the batch is settled or waits for a twin; returns those that wait."""
        while not batch.is_idle(timeout_s=0.5):
            self.raise_if_stopped()
        self.raise_if_stopped()
        return batch.take_waiting()

    def _count(self, todo: Todo, ended: Ended) -> None:
        stored = ended.status is Status.UPLOADED
        failed = ended.status is Status.FAILED
        self._progress.files_done += 1
        self._progress.files_settled += 1
        self._progress.files_stored += stored
        self._progress.files_failed += failed
        self._progress.files_held_back += ended.status in EXIT_ONE and not failed
        self._progress.bytes_stored += ended.size_bytes if stored else 0
        if failed:
            answer = f"{ended.http_status or '-'} {ended.detail}".rstrip()
            log.warning("%s failed: %s, HTTP %s%s", todo, ended.reason, answer, _what_to_do(ended))
        if ended.status is Status.INVALID and self._progress.files_held_back <= _MOST_NAMED:
            log.warning("%s %s", todo, why_held_back(ended.reason, ended.detail))

    # -- more processes ----------------------------------------------------------------------------------

    def _consider_hiring(self) -> None:
        """Once: when the operator asked for processes, or CPU is what is short here, not slots."""
        if self._processes < 2 or self._hiring:
            return
        if not self._settings.processes and (self._slots.are_full or not self._load.is_short_of_cpu()):
            return
        with self._lock:
            if self._hiring or self._stopping.is_set():
                return
            hiring = threading.Thread(target=self._hire, name="hiring", daemon=True)
            try:
                hiring.start()
            except RuntimeError:  # no thread can be started: this process goes on with those that it has
                self._processes = 1
                return
            self._hiring = hiring
            if self._settings.processes:
                self._senders = []  # nobody begins before all are there

    def _hire(self) -> None:
        try:
            hands = self._ready_hands()
            if hands:
                self._employ(hands)
                return
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self.stop(InternalError.hiding(error))
        with self._changed:
            self._senders = [self._workers]
        if not self._stopping.is_set():
            log.warning("No further process could be started: one process sends the files.")

    def _ready_hands(self) -> "Sequence[Hand]":
        """Ready to begin; none when they can't be started."""
        from tasks.upload.hand import Crew

        try:
            crew = Crew(self._processes, self._ledger, self.ended, self.stop)
        except (OSError, RuntimeError):  # no room for a process or a thread, or none permitted
            return ()
        if crew.is_ready(self._stopping):
            self._crew = crew
            return crew.hands
        crew.kill()
        return ()

    def _employ(self, hands: "Sequence[Hand]") -> None:
        for hand, share in zip(hands, shares(self._settings.parallel, len(hands)), strict=True):
            hand.begin(self._settings, share, self._slots.began, any_granted=self._carrier.any_granted)
        with self._changed:
            self._senders = self._hands = list(hands)
            self._changed.notify_all()
        with self._permitting:
            for hand in hands:
                hand.permit_puts(self._may_put)
        if self._stopping.is_set():  # `stop` may not have seen them
            for hand in hands:
                hand.stop()
        self._pass_on_slots(hands)

    def _pass_on_slots(self, hands: "Sequence[Hand]") -> None:
        """The hands get the slots as PUTs of this process leave them; it keeps some for the files it has."""
        parallel, pass_on = self._settings.parallel, 0
        room = sum(hand.capacity for hand in hands)
        while pass_on < parallel and not self._stopping.wait(0.01):
            left = self._has[self._workers]
            kept = math.ceil(parallel * left / (left + room))
            if kept < self._slots.most:
                self._slots.resize(kept)
            free = parallel - max(self._slots.busy, self._slots.most)
            if free > pass_on:
                pass_on = free
                for hand, slots in zip(hands, shares(free, len(hands)), strict=True):
                    hand.share(slots)


def _what_to_do(ended: Ended) -> str:
    """In the words of the troubleshooting table, where the answer says enough."""
    if ended.detail in WRONG_SHAPES:
        return f"; {what_is_wrong(ended.detail)}"
    if ended.reason not in _ADVISED or ended.detail == "ledger":
        return ""
    return f". {advice(ended.detail, FaultKind(ended.reason))}"


def processes_wanted(settings: Settings) -> int:
    """How many processes may send; with one it is this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(settings.parallel, settings.processes or min(cores, _MOST_PROCESSES))


def shares(slots: int, processes: int) -> list[int]:
    """The slots of each process: as equal as can be."""
    return [slots // processes + (number < slots % processes) for number in range(processes)]


class _Load:
    """How busy this process is."""

    def __init__(self) -> None:
        self._at, self._cpu_s = time.monotonic(), time.process_time()

    def is_short_of_cpu(self) -> bool:
        """Whether it used most of a core in the last second or more."""
        took_s = time.monotonic() - self._at
        if took_s < _SEEN_OVER_S:
            return False
        busy = (time.process_time() - self._cpu_s) / took_s
        self._at, self._cpu_s = time.monotonic(), time.process_time()
        return busy > _SHORT_OF_CPU


class _Batch:
    """Counts a batch's files that are under way, and keeps those that wait for a twin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._waiting: list[Todo] = []

    def begin(self) -> None:
        with self._changed:
            self._open += 1

    def end(self, waits: Todo | None) -> None:
        with self._changed:
            self._open -= 1
            if waits:
                self._waiting.append(waits)
            if not self._open:
                self._changed.notify_all()

    def is_idle(self, timeout_s: float) -> bool:
        """Whether no file is under way, at the latest when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def take_waiting(self) -> list[Todo]:
        """Those that wait, and forgets them."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
            return waiting
