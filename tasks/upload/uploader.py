"""One uploader per run: batches pass their files to the event loop, and wait until each has its outcome.

So many files are under way at once that no slot waits for one, and no commit of the ledger for company. They
are taken up batch by batch, in the plan's order; the slots never drain at a batch's edge.
"""

import asyncio
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

from tasks.concurrency.event_loop import LOOK_UP_S, EventLoop
from tasks.core.errors import IngestError, InternalError, InterruptedRunError, PlannedEndError
from tasks.core.models import Outcome, Status, Todo
from tasks.core.problems import why_failed, why_held_back
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.upload.transfer import Transfer
from tasks.upload.under_way import UnderWay

log = logging.getLogger("dicom_ingest")

GRACE_S: Final = 10.0  # how long PUTs in flight may take after a stop
_UNDER_WAY_PER_SLOT: Final = 13  # files; where a PUT takes no time nearly all of them wait for a commit
_AT_ONCE: Final = 16  # files that are passed on
_BATCH_IS_LATE_S: Final = 5.0  # that has not come: then the next one does not wait for it any more
_MOST_NAMED: Final = 100  # of files that are held back, in the log: the report has them all

_LOOK_AT_WINDOW_S: Final = 0.5  # by the clock on the wall: never one long sleep

_Files: TypeAlias = set[asyncio.Task[None]]


class Uploader:
    """What other threads may ask of the event loop. Call `drain` when no batch follows."""

    def __init__(self, loop: EventLoop, transfer: Transfer, progress: Progress) -> None:
        self._loop = loop
        self._transfer = transfer
        self._progress = progress
        self._stopped_by: IngestError | None = None
        self._under_way: dict[asyncio.Task[None], UnderWay] = {}
        self._room = asyncio.Semaphore(max(_AT_ONCE, _UNDER_WAY_PER_SLOT * transfer.slots.most))
        self._next_batch = 1
        self._waiting: dict[int, asyncio.Event] = {}  # of batches that came before it was theirs
        self._passing_on: set[int] = set()  # batches that have begun, and may wait for room
        self._waits_for = ""
        progress.platform = transfer.slots.state
        loop.call(self._look_now_and_then)

    def upload(self, batch_no: int, todos: Iterable[Todo]) -> None:
        """Sends a batch; returns when each of its files is settled, raises when the run stops before."""
        batch: _Files = set()
        files = iter(todos)
        try:
            self._loop.run(self._await_earlier(batch_no))
            while chunk := list(islice(files, _AT_ONCE)):
                self._loop.run(self._begin(chunk, batch))
        finally:
            self._loop.call(self._let_begin, batch_no + 1)
        self._loop.run(self._all_ended(batch))

    def stop(self, why: IngestError) -> None:
        """Starts no file any more; what is in flight goes on until it is done or `drain` gives up on it.

        After a planned end `drain` waits for what has begun to be sent, however long that takes, unless
        something else stops the run meanwhile. From any thread, the loop's and a signal handler's, too.
        """
        if isinstance(why, PlannedEndError):
            self._stopped_by = self._stopped_by or why
            self._loop.call(self._wind_down, why)
            return
        if self._stopped_by is None or isinstance(self._stopped_by, PlannedEndError):
            self._stopped_by = why
        self._loop.call(self._close)

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Ends all that is under way; a PUT that outlasts the grace is cut off, as `interrupted`."""
        self._loop.run(self._drain(grace_s))

    @property
    def stopped_by(self) -> IngestError | None:
        """Why the run stops; None when it does not."""
        return self._stopped_by

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._stopped_by:
            raise self._stopped_by
        if self._transfer.stopping.is_set():
            raise InterruptedRunError("The run was stopped.")

    # -- in the loop's thread ----------------------------------------------------------------------------

    async def _await_earlier(self, batch_no: int) -> None:
        """Until the batches before this one have passed their files on, or are late."""
        while batch_no > self._next_batch:
            began = self._waiting.setdefault(batch_no, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout(_BATCH_IS_LATE_S):
                    await began.wait()
            if not any(each < batch_no for each in self._passing_on):
                break
        self._passing_on.add(batch_no)
        self.raise_if_stopped()

    def _let_begin(self, batch_no: int) -> None:
        self._passing_on.discard(batch_no - 1)
        self._next_batch = max(self._next_batch, batch_no)
        for each in [each for each in self._waiting if each <= self._next_batch]:
            self._waiting.pop(each).set()

    async def _begin(self, todos: list[Todo], batch: _Files) -> None:
        for todo in todos:
            await self._room.acquire()
            await self._window()
            self.raise_if_stopped()
            file = self._transfer.start(todo)
            task = asyncio.create_task(self._send(file))
            self._under_way[task] = file
            batch.add(task)
            task.add_done_callback(partial(self._end, file, batch))

    async def _window(self) -> None:
        """Until one is open, or the run stops."""
        transfer = self._transfer
        while not (transfer.starts.are_open() or self._stopped_by or transfer.stopping.is_set()):
            await asyncio.sleep(_LOOK_AT_WINDOW_S)

    async def _send(self, file: UnderWay) -> None:
        try:
            self._count(file.todo, await self._transfer.send(file))
        except IngestError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self.stop(InternalError.hiding(error))

    def _end(self, file: UnderWay, batch: _Files, task: asyncio.Task[None]) -> None:
        """However it ended, also before it began."""
        self._under_way.pop(task, None)
        batch.discard(task)
        self._transfer.end(file)
        self._room.release()

    async def _all_ended(self, batch: _Files) -> None:
        while batch:
            await asyncio.wait(batch, timeout=LOOK_UP_S)
            self.raise_if_stopped()
        self.raise_if_stopped()

    def _look_now_and_then(self) -> None:
        """So that a read which takes long holds up nobody, and that a person knows what is waited for.

        When nothing else is left: a killed run keeps its claims until it is dead.
        """
        what = self._what_is_waited_for()
        if what != self._waits_for:  # others have their say there, too
            self._progress.waiting_for = self._waits_for = what
        self._end_when_due()
        self._transfer.slots.look_at_window()
        self._transfer.order.advance()
        self._transfer.readers.look()
        if not self._transfer.stopping.is_set():
            self._loop.loop.call_later(LOOK_UP_S, self._look_now_and_then)

    def _what_is_waited_for(self) -> str:
        if opens := self._transfer.starts.opens:
            return f"the window, opens {opens}"
        waiting = self._transfer.same_uid.waiting_for_others
        return f"{counted(waiting, 'file')} with a SOP Instance UID that is claimed" if self._all_wait else ""

    @property
    def _all_wait(self) -> bool:
        """Whether all that is under way waits for what other runs have claimed."""
        waiting = self._transfer.same_uid.waiting_for_others
        return bool(waiting) and waiting == len(self._under_way)

    def _end_when_due(self) -> None:
        try:
            self._transfer.starts.raise_if_over()
        except PlannedEndError as why:
            if not self._stopped_by:
                self.stop(why)

    def _wind_down(self, why: PlannedEndError) -> None:
        """Lets go of all that is not to be finished."""
        if self._transfer.ending is None:
            self._transfer.ending = why
        for task, file in self._under_way.items():
            if not self._transfer.goes_on(file):
                task.cancel()
        self._let_begin(sys.maxsize)

    def _close(self) -> None:
        self._transfer.stopping.set()
        self._transfer.slots.close()
        self._let_begin(sys.maxsize)

    async def _drain(self, grace_s: float) -> None:
        if isinstance(self._stopped_by, PlannedEndError):
            self._wind_down(self._stopped_by)
            await self._finish()
        self._close()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._transfer.readers.close()
        self._look_now_and_then()

    async def _finish(self) -> None:
        """Until what goes on has ended, or the run is stopped."""
        while self._under_way and not self._transfer.stopping.is_set() and not self._all_wait:
            await asyncio.wait(self._under_way, timeout=LOOK_UP_S)

    def _count(self, todo: Todo, outcome: Outcome) -> None:
        self._progress.count_sent(outcome, todo.file_id)
        if outcome.status is Status.FAILED:
            log.warning("%s failed: %s", todo, why_failed(outcome))
        if outcome.status is Status.INVALID and self._progress.files_held_back <= _MOST_NAMED:
            log.warning("%s %s", todo, why_held_back(outcome.reason, outcome.detail))
