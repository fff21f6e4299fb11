"""What other threads may ask of the pipeline: a batch of objects, each by a coroutine, to their end."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final, TypeAlias

from tasks.concurrency.event_loop import LOOK_UP_S, EventLoop
from tasks.core.errors import IngestError, InternalError, InterruptedRunError
from tasks.core.object_outcomes import ObjectOutcome, ObjectStatus, ObjectTodo
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.pipeline.registrar import Registrar

log = logging.getLogger("dicom_ingest")

_MOST_NAMED: Final = 100  # objects that are held back, in the log: registration.csv has them all
_Tasks: TypeAlias = set[asyncio.Task[None]]


class ObjectBatches:
    """Call `drain` when no batch follows."""

    def __init__(self, loop: EventLoop, registrar: Registrar, progress: Progress, under_way: int) -> None:
        """`under_way`: how many objects at once; those that wait for others of their study among them."""
        self._loop = loop
        self._registrar = registrar
        self._progress = progress
        self._stopped_by: IngestError | None = None
        self._under_way: _Tasks = set()
        self._room = asyncio.Semaphore(under_way)
        self._waits_for = ""
        loop.call(self._look_now_and_then)

    def register(self, todos: Sequence[ObjectTodo]) -> None:
        """Returns when each object of a batch is settled, raises when the run stops before."""
        batch: _Tasks = set()
        self._loop.run(self._begin(todos, batch))
        self._loop.run(self._all_ended(batch))

    def stop(self, why: IngestError) -> None:
        """Begins no object any more. From any thread, the loop's and a signal handler's, too."""
        self._stopped_by = self._stopped_by or why
        self._loop.call(self._close)

    def fail(self, why: BaseException) -> None:
        """Something that is no object's own ends the run."""
        self.stop(why if isinstance(why, IngestError) else InternalError.hiding(why))

    def drain(self, grace_s: float) -> None:
        """Ends all that is under way; a request that outlasts the grace is cut off, as `interrupted`."""
        self._loop.run(self._drain(grace_s))

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._stopped_by:
            raise self._stopped_by
        if self._registrar.stopping.is_set():
            raise InterruptedRunError("The run was stopped.")

    # -- in the loop's thread ------------------------------------------------------------------------------

    async def _begin(self, todos: Sequence[ObjectTodo], batch: _Tasks) -> None:
        for todo in todos:
            await self._room.acquire()
            self.raise_if_stopped()
            task = asyncio.create_task(self._register(todo))
            self._under_way.add(task)
            batch.add(task)
            task.add_done_callback(partial(self._end, batch))

    async def _register(self, todo: ObjectTodo) -> None:
        try:
            self._count(todo, await self._registrar.register(todo))
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self.fail(error)

    def _end(self, batch: _Tasks, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        batch.discard(task)
        self._room.release()

    async def _all_ended(self, batch: _Tasks) -> None:
        while batch:
            await asyncio.wait(batch, timeout=LOOK_UP_S)
            self.raise_if_stopped()
        self.raise_if_stopped()

    def _close(self) -> None:
        self._registrar.stopping.set()
        self._registrar.stop_waiting()
        self._room.release()  # for who waits to begin an object: it learns that the run stops

    async def _drain(self, grace_s: float) -> None:
        self._close()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace_s)
            for task in late:
                task.cancel()
            await self._registrar.drain()
            await asyncio.gather(*late, return_exceptions=True)
        self._registrar.threads.close()

    def _look_now_and_then(self) -> None:
        """So that a person knows what is waited for, when nothing else is left."""
        waiting = self._registrar.waiting_for_others
        is_all = waiting and waiting == len(self._under_way)
        what = f"{counted(waiting, 'object')} with a SOP Instance UID that is claimed" if is_all else ""
        if what != self._waits_for:
            self._progress.waiting_for = self._waits_for = what
        if not self._registrar.stopping.is_set():
            self._loop.loop.call_later(LOOK_UP_S, self._look_now_and_then)

    def _count(self, todo: ObjectTodo, outcome: ObjectOutcome | None) -> None:
        if outcome is None:
            self._progress.count_done()
            return
        self._progress.count_object(outcome, todo.object_id)
        if outcome.status is ObjectStatus.FAILED:
            log.warning("%s failed: %s", todo, f"{outcome.reason} {outcome.detail}".rstrip())
        elif outcome.status is ObjectStatus.QUARANTINED and self._progress.files_held_back <= _MOST_NAMED:
            log.warning("%s is held back: %s", todo, f"{outcome.reason} {outcome.detail}".rstrip())
