"""One uploader per run: batches pass their files to the event loop, and wait until each has its outcome.

So many files are under way at once that no slot waits for one, and no commit of the ledger for company. They
are taken up batch by batch, in the plan's order; the slots never drain at a batch's edge.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

from tasks.core.errors import IngestError, InternalError, InterruptedRunError, RowRefusedError
from tasks.core.models import Outcome, Reason, Status, Todo
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.upload.event_loop import LOOK_UP_S, EventLoop
from tasks.upload.readers import Readers
from tasks.upload.slots import Slots
from tasks.upload.transfer import Transfer, UnderWay
from tasks.upload.waiters import Waiters

log = logging.getLogger("dicom_ingest")

GRACE_S: Final = 10.0  # how long PUTs in flight may take after a stop
_UNDER_WAY_PER_SLOT: Final = 13  # files; where a PUT takes no time nearly all of them wait for a commit
_AT_ONCE: Final = 16  # files that are passed on
_BATCH_IS_LATE_S: Final = 5.0  # then the next one does not wait for it any more

_Files: TypeAlias = set[asyncio.Task[None]]


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
    ) -> None:
        self._loop = loop
        self._transfer = transfer
        self._ledger = ledger
        self._slots = slots
        self._readers = readers
        self._stopping = stopping
        self._progress = progress
        self._progress_lock = threading.Lock()
        self._stopped_by: IngestError | None = None
        self._under_way: _Files = set()
        self._room = asyncio.Semaphore(max(_AT_ONCE, _UNDER_WAY_PER_SLOT * slots.most))
        self._next_batch = 1
        self._later_batches = Waiters()
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
        batch: _Files = set()
        try:
            self._loop.run(self._await_earlier(batch_no))
            files = iter(todos)
            while chunk := list(islice(files, _AT_ONCE)):
                self._loop.run(self._begin(chunk, batch))
        finally:
            self._loop.call(self._let_next_begin, batch_no)
        while not self._loop.run(self._has_ended(batch)):
            self._say_what_is_waited_for()
        self._progress.waiting_for = ""

    def count_listed(self, rows: int, to_do: int) -> None:
        """What the scan found, and how much of it is to be sent or looked at."""
        with self._progress_lock:
            self._progress.files_listed += rows
            self._progress.files_done += rows - to_do

    def stop(self, why: IngestError) -> None:
        """Starts no file any more; what is in flight goes on until it is done or `drain` gives up on it.

        From any thread, the loop's and a signal handler's, too.
        """
        self._stopped_by = self._stopped_by or why
        self._loop.call(self._close)

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on."""
        self._loop.call(self._slots.permit_puts, may_begin)

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Ends all that is under way; a PUT that outlasts the grace is cut off, as `interrupted`."""
        self._loop.run(self._drain(grace_s))

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._stopped_by:
            raise self._stopped_by
        if self._stopping.is_set():
            raise InterruptedRunError("The run was stopped.")

    def _say_what_is_waited_for(self) -> None:
        """When nothing else is left: a killed run keeps its claims until it is dead."""
        waiting = self._transfer.same_uid.waiting_for_others
        is_all = waiting and waiting == len(self._under_way)
        what = f"{counted(waiting, 'file')} with a SOP Instance UID that is claimed" if is_all else ""
        self._progress.waiting_for = what

    # -- in the loop's thread ----------------------------------------------------------------------------

    def _look_now_and_then(self) -> None:
        """So that a read which takes too long is overtaken."""
        if not self._stopping.is_set():
            self._transfer.order.advance()
            self._loop.loop.call_later(LOOK_UP_S, self._look_now_and_then)

    async def _await_earlier(self, batch_no: int) -> None:
        """Until the batches before this one have passed their files on."""
        until = time.monotonic() + _BATCH_IS_LATE_S
        while batch_no > self._next_batch and (left_s := until - time.monotonic()) > 0:
            self.raise_if_stopped()
            await self._later_batches.wait(left_s)

    def _let_next_begin(self, batch_no: int) -> None:
        self._next_batch = max(self._next_batch, batch_no + 1)
        self._later_batches.wake_all()

    async def _begin(self, todos: list[Todo], batch: _Files) -> None:
        for todo in todos:
            await self._room.acquire()
            self.raise_if_stopped()
            file = self._transfer.start(todo)
            task = asyncio.create_task(self._send(file))
            self._under_way.add(task)
            batch.add(task)
            task.add_done_callback(partial(self._end, file, batch))

    def _end(self, file: UnderWay, batch: _Files, task: asyncio.Task[None]) -> None:
        """However it ended, also before it began."""
        self._under_way.discard(task)
        batch.discard(task)
        self._transfer.end(file)
        self._room.release()

    async def _has_ended(self, batch: _Files) -> bool:
        """Whether no file of it is under way; waits for that for a while."""
        if batch:
            await asyncio.wait(batch, timeout=LOOK_UP_S)
        self.raise_if_stopped()
        return not batch

    async def _send(self, file: UnderWay) -> None:
        """One file to its durable outcome."""
        try:
            self._count(file.todo, await self._settled(file))
        except asyncio.CancelledError:  # a PUT that outlasted the grace
            await self._settle_cut_off(file)
        except IngestError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self.stop(InternalError.hiding(error))

    async def _settled(self, file: UnderWay) -> Outcome:
        try:
            outcome = await self._transfer.outcome(file)
            file.is_settled = True  # as soon as the ledger comes to it, whoever waits for that
            await self._ledger.settle(file.todo, outcome, file.claimed)
        except RowRefusedError:
            outcome = _refused(file)
            await self._ledger.settle(file.todo, outcome, file.claimed)
        except Exception:
            await self._settle_cut_off(file)
            raise
        return outcome

    async def _settle_cut_off(self, file: UnderWay) -> None:
        """A file that was tried when the run stopped has failed; one that was not is not attempted."""
        if file.attempts and not file.is_settled:
            file.is_settled = True
            outcome = file.ends(time.time_ns(), Status.FAILED, file.reason)
            await self._ledger.settle(file.todo, outcome, file.claimed)

    def _close(self) -> None:
        self._stopping.set()
        self._slots.close()
        self._later_batches.wake_all()

    async def _drain(self, grace_s: float) -> None:
        self._close()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._readers.close()

    def _count(self, todo: Todo, outcome: Outcome) -> None:
        with self._progress_lock:
            self._progress.files_done += 1
        self._progress.count_sent(outcome)
        if outcome.status is Status.FAILED:
            answer = f"{outcome.http_status or '-'} {outcome.detail}".rstrip()
            log.warning("%s failed: %s, HTTP %s", todo, outcome.reason, answer)


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
