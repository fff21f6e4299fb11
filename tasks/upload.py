"""One uploader per process: workers that carry the files of every batch in flight.

The slots are theirs together, so they never drain at a batch's edge, and there are never more PUTs at once
than the platform asks for, however studies are cut into batches.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tasks.core.errors import IngestError, InternalError, InterruptedRunError
from tasks.core.models import Outcome, Status, Todo
from tasks.ledger import Ledger
from tasks.slots import Slots
from tasks.transfer import Carrier, Trip

log = logging.getLogger("dicom_ingest")

GRACE_S: Final = 10.0  # how long PUTs in flight may take after a stop
_TWIN_PAUSE_S: Final = (0.02, 2.0)  # first and longest pause before a twin's claim is asked for again


@dataclass(slots=True)
class Progress:
    """Counters for whoever shows them; written under one lock, read by anyone."""

    files_listed: int = 0
    files_done: int = 0
    files_stored: int = 0
    files_failed: int = 0
    bytes_stored: int = 0
    scanning: bool = True


class Uploader:
    """The workers and their queue. Call `drain` when no batch follows."""

    def __init__(
        self,
        carrier: Carrier,
        ledger: Ledger,
        slots: Slots,
        stopping: threading.Event,
        progress: Progress,
        parallel: int,
    ) -> None:
        self._carrier = carrier
        self._ledger = ledger
        self._slots = slots
        self._stopping = stopping
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped_by: IngestError | None = None
        self._under_way: dict[int, Trip] = {}  # by file_id
        self._files: queue.SimpleQueue[tuple[Todo, _Batch] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(2 * parallel)  # how many files may wait for a worker
        # As many as there are slots send, as many again may wait for a slot; the rest read, hash and commit.
        count = 3 * parallel
        self._workers = [
            threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(count)
        ]
        for worker in self._workers:
            worker.start()

    def upload(self, todos: Iterable[Todo]) -> None:
        """Sends a batch; returns when each of its files is settled, raises when the run stops before."""
        batch = _Batch()
        for todo in todos:
            self._hand_over(todo, batch)
        pause_s, longest_s = _TWIN_PAUSE_S
        while waiting := self._settled_but(batch):
            self._stopping.wait(pause_s)
            pause_s = min(longest_s, 2 * pause_s)
            for todo in waiting:
                self._hand_over(todo, batch)

    def count_listed(self, rows: int, to_do: int) -> None:
        """What the scan found, and how much of it is to be sent or looked at."""
        with self._lock:
            self._progress.files_listed += rows
            self._progress.files_done += rows - to_do

    def stop(self, why: IngestError) -> None:
        """Starts no file any more; what is in flight goes on until it is done or `drain` gives up on it."""
        with self._lock:
            self._stopped_by = self._stopped_by or why
        self._stopping.set()
        self._slots.close()

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Ends the workers; a PUT that outlasts the grace is cut off and settled as `interrupted`."""
        self._stopping.set()
        for _ in self._workers:
            self._files.put(None)
        until = time.monotonic() + grace_s
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        for trip in list(self._under_way.values()):
            self._settle_cut_off(trip)

    def _hand_over(self, todo: Todo, batch: "_Batch") -> None:
        while not self._room.acquire(timeout=0.5):
            self.raise_if_stopped()
        self.raise_if_stopped()
        batch.begin()
        self._files.put((todo, batch))

    def _settled_but(self, batch: "_Batch") -> list[Todo]:
        """Waits until each file of the batch is settled or waits for a twin; returns those that wait."""
        while not batch.is_idle(timeout_s=0.5):
            self.raise_if_stopped()
        self.raise_if_stopped()
        return batch.take_waiting()

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        if self._stopping.is_set():
            raise self._stopped_by or InterruptedRunError("The run was stopped.")

    def _work(self) -> None:
        while (file := self._files.get()) is not None:
            self._room.release()
            todo, batch = file
            try:
                if not self._stopping.is_set() and not self._carry(todo):
                    batch.waits(todo)
            except IngestError as error:
                self.stop(error)
            except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
                self.stop(InternalError.hiding(error))
            finally:
                batch.end()

    def _carry(self, todo: Todo) -> bool:
        """One file to its durable outcome; False when it has to wait for a twin."""
        trip = self._carrier.start(todo)
        self._under_way[todo.file_id] = trip
        try:
            outcome = self._carrier.carry(trip)
            if outcome is None:
                return False
            self._ledger.settle(todo, outcome, trip.claimed)
        except IngestError:
            self._settle_cut_off(trip)
            raise
        finally:
            del self._under_way[todo.file_id]
        self._count(todo, outcome)
        return True

    def _settle_cut_off(self, trip: Trip) -> None:
        """A file that was tried when the run stopped has failed; one that was not is not attempted."""
        if trip.attempts:
            outcome = trip.ends(time.time_ns(), Status.FAILED, trip.reason)
            self._ledger.settle(trip.todo, outcome, trip.claimed)

    def _count(self, todo: Todo, outcome: Outcome) -> None:
        stored = outcome.status is Status.UPLOADED
        failed = outcome.status is Status.FAILED
        with self._lock:
            self._progress.files_done += 1
            self._progress.files_stored += stored
            self._progress.files_failed += failed
            self._progress.bytes_stored += (outcome.size_bytes or 0) if stored else 0
        if failed:
            log.warning("%s failed: %s, HTTP %s", todo, outcome.reason, outcome.http_status or "-")


class _Batch:
    """Counts a batch's files that are under way, and keeps those that wait for a twin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._waiting: list[Todo] = []

    def begin(self) -> None:
        with self._changed:
            self._open += 1

    def end(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def waits(self, todo: Todo) -> None:
        with self._changed:
            self._waiting.append(todo)

    def is_idle(self, timeout_s: float) -> bool:
        """Whether no file is under way, at the latest when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def take_waiting(self) -> list[Todo]:
        """Those that wait, and forgets them."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
            return waiting
