"""One uploader per run: batches hand their files to the event loop, and wait until each has its outcome.

So many files are under way at once that no slot waits for one, and no commit of the ledger for company. They
are taken up batch by batch, in the plan's order; the slots never drain at a batch's edge.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Final

from tasks.core.errors import IngestError, InternalError, InterruptedRunError, RowRefusedError
from tasks.core.models import EXIT_ONE, Outcome, Reason, Status, Todo
from tasks.core.platform_state import PlatformState
from tasks.core.words import counted
from tasks.settings import Settings
from tasks.upload.awaited_ledger import AwaitedLedger
from tasks.upload.event_loop import LOOK_UP_S, EventLoop
from tasks.upload.readers import Readers
from tasks.upload.slots import Slots
from tasks.upload.transfer import Transfer, UnderWay

log = logging.getLogger("dicom_ingest")

GRACE_S: Final = 10.0  # how long PUTs in flight may take after a stop
_UNDER_WAY_PER_SLOT: Final = 13  # files; where a PUT takes no time nearly all of them wait for a commit
_AT_ONCE: Final = 16  # files that are handed over
_BATCH_IS_LATE_S: Final = 5.0  # then the next one does not wait for it any more


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


class Uploader:
    """What other threads may ask of the event loop. Call `drain` when no batch follows."""

    def __init__(
        self,
        loop: EventLoop,
        transfer: Transfer,
        ledger: AwaitedLedger,
        slots: Slots,
        readers: Readers,
        stopping: asyncio.Event,
        progress: Progress,
        settings: Settings,
    ) -> None:
        self._loop = loop
        self._transfer = transfer
        self._ledger = ledger
        self._slots = slots
        self._readers = readers
        self._stopping = stopping
        self._progress = progress
        self._is_stopping = threading.Event()
        self._stopped_by: IngestError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = threading.Condition()
        self._room = max(_AT_ONCE, _UNDER_WAY_PER_SLOT * settings.parallel)
        self._next_batch = 1
        progress.platform = slots.state
        loop.call(self._look_now_and_then)

    @property
    def peak(self) -> int:
        """Most PUTs that were under way at once."""
        return self._slots.peak

    @property
    def course(self) -> list[tuple[float, int]]:
        """(seconds since the start, slots in use), at each change."""
        return self._slots.course

    def upload(self, batch_no: int, todos: Iterable[Todo]) -> None:
        """Sends a batch; returns when each of its files is settled, raises when the run stops before."""
        self._await_turn(batch_no)
        batch = _Batch()
        try:
            files = iter(todos)
            while chunk := list(islice(files, _AT_ONCE)):
                self._await_room(len(chunk))
                batch.begin(len(chunk))
                self._loop.call(self._begin, chunk, batch)
        finally:
            self._pass_turn(batch_no)
        while not batch.is_over(LOOK_UP_S):
            self.raise_if_stopped()
            self._say_what_is_waited_for()
        self.raise_if_stopped()

    def count_listed(self, rows: int, to_do: int) -> None:
        """What the scan found, and how much of it is to be sent or looked at."""
        with self._changed:
            self._progress.files_listed += rows
            self._progress.files_done += rows - to_do

    def stop(self, why: IngestError) -> None:
        """Starts no file any more; what is in flight goes on until it is done or `drain` gives up on it.

        From any thread, the loop's and a signal handler's, too.
        """
        self._stopped_by = self._stopped_by or why
        self._is_stopping.set()
        self._loop.call(self._close)

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on."""
        self._loop.call(self._slots.permit_puts, may_begin)

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Ends all that is under way; a PUT that outlasts the grace is cut off, as `interrupted`."""
        self._is_stopping.set()
        self._loop.run(self._drain(grace_s))

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._is_stopping.is_set():
            raise self._stopped_by or InterruptedRunError("The run was stopped.")

    # -- in the threads of the batches -------------------------------------------------------------------

    def _await_turn(self, batch_no: int) -> None:
        """Until the batches before this one have handed over their files."""
        until = time.monotonic() + _BATCH_IS_LATE_S
        with self._changed:
            while batch_no > self._next_batch and time.monotonic() < until:
                self._changed.wait(LOOK_UP_S)
                self.raise_if_stopped()

    def _pass_turn(self, batch_no: int) -> None:
        with self._changed:
            self._next_batch = max(self._next_batch, batch_no + 1)
            self._changed.notify_all()

    def _await_room(self, files: int) -> None:
        with self._changed:
            while self._room < files:
                self._changed.wait(LOOK_UP_S)
                self.raise_if_stopped()
            self.raise_if_stopped()
            self._room -= files

    def _say_what_is_waited_for(self) -> None:
        """When nothing else is left: a killed run keeps its claims until it is dead."""
        waiting = self._transfer.same_uid.waiting_for_others
        is_all = waiting and waiting == len(self._tasks)
        what = f"{counted(waiting, 'file')} with a SOP Instance UID that is claimed" if is_all else ""
        self._progress.waiting_for = what

    # -- in the loop's thread ----------------------------------------------------------------------------

    def _look_now_and_then(self) -> None:
        """So that a read which takes too long is overtaken."""
        if not self._stopping.is_set():
            self._transfer.order.advance()
            self._loop.loop.call_later(LOOK_UP_S, self._look_now_and_then)

    def _begin(self, todos: list[Todo], batch: "_Batch") -> None:
        for todo in todos:
            task = self._loop.loop.create_task(self._send(self._transfer.start(todo), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, file: UnderWay, batch: "_Batch") -> None:
        """One file to its durable outcome."""
        try:
            if not self._is_stopping.is_set():
                self._count(file.todo, await self._settled(file))
        except asyncio.CancelledError:  # a PUT that outlasted the grace
            await self._settle_cut_off(file)
        except IngestError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self.stop(InternalError.hiding(error))
        finally:
            self._transfer.end(file)
            with self._changed:
                self._room += 1
                self._changed.notify()
            batch.end()

    async def _settled(self, file: UnderWay) -> Outcome:
        try:
            outcome = await self._transfer.outcome(file)
            file.is_settled = True  # as soon as the ledger comes to it, whoever waits for that
            await self._ledger.settle(file.todo, outcome, file.claimed)
        except RowRefusedError:
            outcome = _refused(file)
            await self._ledger.settle(file.todo, outcome, file.claimed)
        except IngestError:
            await self._settle_cut_off(file)
            raise
        return outcome

    async def _settle_cut_off(self, file: UnderWay) -> None:
        """A file that was tried when the run stopped has failed; one that was not is not attempted."""
        if file.attempts and not file.is_settled:
            outcome = file.ends(time.time_ns(), Status.FAILED, file.reason)
            await self._ledger.settle(file.todo, outcome, file.claimed)

    def _close(self) -> None:
        self._stopping.set()
        self._slots.close()

    async def _drain(self, grace_s: float) -> None:
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._readers.close()

    def _count(self, todo: Todo, outcome: Outcome) -> None:
        status, progress = outcome.status, self._progress
        stored, failed = status is Status.UPLOADED, status is Status.FAILED
        with self._changed:
            progress.files_done += 1
        progress.files_settled += 1
        progress.files_stored += stored
        progress.files_failed += failed
        progress.files_held_back += status in EXIT_ONE and not failed
        progress.bytes_stored += (outcome.size_bytes or 0) if stored else 0
        if failed:
            answer = f"{outcome.http_status or '-'} {outcome.detail}".rstrip()
            log.warning("%s failed: %s, HTTP %s", todo, outcome.reason, answer)


def shares(slots: int, processes: int) -> list[int]:
    """The slots of each process: as equal as can be."""
    return [slots // processes + (number < slots % processes) for number in range(processes)]


def _refused(file: UnderWay) -> Outcome:
    """A file that the ledger can't hold: it alone has failed, and what may be the cause is left out."""
    return Outcome(
        Status.FAILED,
        Reason.REFUSED,
        attempts=file.attempts,
        started_ns=file.started_ns,
        finished_ns=time.time_ns(),
        detail="ledger",
    )


class _Batch:
    """Counts a batch's files that are under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0

    def begin(self, files: int) -> None:
        with self._changed:
            self._open += files

    def end(self) -> None:
        with self._changed:
            self._open -= 1
            if not self._open:
                self._changed.notify_all()

    def is_over(self, timeout_s: float) -> bool:
        """Whether no file is under way, at the latest when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)
