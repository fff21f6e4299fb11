"""The threads that carry files, of one process."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tasks.core.errors import IngestError, InternalError, RowRefusedError
from tasks.core.models import Outcome, Reason, Status, Todo
from tasks.turn import computing
from tasks.upload.transfer import Carrier, FileLedger, Trip

# As many as there are slots send, the others read, hash, and wait for a URL, a slot or a commit. Where a PUT
# takes no time these waits are nearly all of it, so it takes many files at once to keep a core busy.
_WORKERS_PER_SLOT: Final = 14
_MOST_WORKERS: Final = 140
_QUEUED_PER_SLOT: Final = 2


class Ended(NamedTuple):
    """What a worker says when it is done with a file."""

    file_id: int
    waits: bool = False  # for a twin that is under way elsewhere: it has to be carried again
    status: Status | None = None  # None: not settled
    reason: Reason = Reason.NONE
    http_status: int | None = None
    size_bytes: int = 0
    detail: str = ""


class Workers:
    """Carries what it is given. Both callbacks are called from its threads.

    `ended` is told of each file, once; `failed` when the run can't go on.
    """

    def __init__(
        self,
        carrier: Carrier,
        ledger: FileLedger,
        stopping: threading.Event,
        parallel: int,
        ended: Callable[[Ended], None],
        failed: Callable[[IngestError], None],
    ) -> None:
        self.capacity = self.capacity_of(parallel)
        self._carrier = carrier
        self._ledger = ledger
        self._stopping = stopping
        self._ended = ended
        self._failed = failed
        self._under_way: dict[int, Trip] = {}  # by file_id
        self._files: queue.SimpleQueue[Todo | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._has = 0  # files that were put and have not ended
        self._most = _workers(parallel)
        self._threads: list[threading.Thread] = []

    @staticmethod
    def capacity_of(parallel: int) -> int:
        """How many files they may have at once, so that no slot waits for one."""
        return _workers(parallel) + _QUEUED_PER_SLOT * parallel

    def put(self, todo: Todo) -> None:
        """One file more; never blocks. A thread is started when all are busy."""
        with self._lock:
            self._has += 1
            if len(self._threads) < min(self._has, self._most):
                name = f"worker-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        self._files.put(todo)

    def dismiss(self) -> None:
        """No file follows: each thread ends when it finds nothing more to do."""
        for _ in self._threads:
            self._files.put(None)

    def join(self, timeout_s: float) -> bool:
        """Waits for the end of all threads; whether they have ended in time."""
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def cut_off(self) -> None:
        """Settles what is still under way: a PUT that outlasts the grace is `interrupted`."""
        for trip in list(self._under_way.values()):
            self._settle_cut_off(trip)

    def _work(self) -> None:
        while (todo := self._files.get()) is not None:
            ended = Ended(todo.file_id)
            try:
                if not self._stopping.is_set():
                    with computing():
                        ended = self._carry(todo)
            except IngestError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
                self._failed(InternalError.hiding(error))
            finally:
                with self._lock:
                    self._has -= 1
                self._ended(ended)

    def _carry(self, todo: Todo) -> Ended:
        """One file to its durable outcome."""
        trip = self._carrier.start(todo)
        self._under_way[todo.file_id] = trip
        try:
            outcome = self._carrier.carry(trip)
            if outcome is None:
                if trip.claimed:  # under a UID that it had before it changed
                    self._ledger.settle(todo, None, trip.claimed)
                return Ended(todo.file_id, waits=True)
            self._ledger.settle(todo, outcome, trip.claimed)
        except RowRefusedError:
            outcome = self._settle_refused(trip)
        except IngestError:
            self._settle_cut_off(trip)
            raise
        finally:
            del self._under_way[todo.file_id]
        return _ended(todo, outcome)

    def _settle_refused(self, trip: Trip) -> Outcome:
        """A file that the ledger can't hold: it alone has failed, and what may be the cause is left out."""
        outcome = Outcome(
            Status.FAILED,
            Reason.REFUSED,
            attempts=trip.attempts,
            started_ns=trip.started_ns,
            finished_ns=time.time_ns(),
            detail="ledger",
        )
        self._ledger.settle(trip.todo, outcome, trip.claimed)
        return outcome

    def _settle_cut_off(self, trip: Trip) -> None:
        """A file that was tried when the run stopped has failed; one that was not is not attempted."""
        if trip.attempts:
            outcome = trip.ends(time.time_ns(), Status.FAILED, trip.reason)
            self._ledger.settle(trip.todo, outcome, trip.claimed)


def _workers(parallel: int) -> int:
    return min(_WORKERS_PER_SLOT * parallel, _MOST_WORKERS)


def _ended(todo: Todo, outcome: Outcome) -> Ended:
    return Ended(
        todo.file_id,
        status=outcome.status,
        reason=outcome.reason,
        http_status=outcome.http_status,
        size_bytes=outcome.size_bytes or 0,
        detail=outcome.detail,
    )
