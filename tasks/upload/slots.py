"""The slots: at most `parallel` PUTs at once over the whole run, and URLs minted just in time.

A file is admitted when it is read, hashed and claimed; then it asks for a URL, and waits for a *slot* to PUT.
How many are admitted, and how many slots may be used, `core/pacing.py` decides. All of it belongs to the
event loop's thread, but for what says that any thread may call it.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Final

from tasks.core.errors import Fault, InterruptedRunError
from tasks.core.pacing import Pacing
from tasks.core.platform_state import PlatformState, Step
from tasks.upload.waiters import Waiters

_LONGEST_COURSE: Final = 200  # changes of the limit that are kept for the summary


class Slots:
    """Shared by all files of a run. Times by `clock`, in seconds."""

    def __init__(
        self, parallel: int, clock: Callable[[], float] = time.monotonic, began: float | None = None
    ) -> None:
        """`began`: when the run did, by the clock; now when not given."""
        self._clock = clock
        self._began = clock() if began is None else began
        self._pacing = Pacing(parallel)
        self._for_admission = Waiters()
        self._for_slot = Waiters()
        self._admitted = 0
        self._busy = 0
        self._is_closed = False
        self._may_put = True
        self._resumes_at: dict[int, float] = {}  # files that pause, by file_id
        self.peak = 0  # most PUTs that were under way at once
        self.course = [(self._since(), parallel)]  # (seconds since the start, slots in use), at every change

    @property
    def most(self) -> int:
        """How many there are, throttled or not."""
        return self._pacing.most

    @property
    def outage_s(self) -> float:
        """For how long the platform has been down; 0 when it is not."""
        return self._pacing.outage_s(self._clock())

    @asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """From asking for a URL to the end of its PUT. Waits while the platform is down."""
        while not (self._is_closed or self._may_enter()):
            wait_s = self._pacing.wait_s(self._clock())
            await self._for_admission.wait(wait_s if 0 < wait_s < math.inf else None)
        self._refuse_when_closed()
        self._admitted += 1
        is_probe = self._pacing.begin()
        if self._may_enter():
            self._for_admission.wake()
        try:
            yield
        finally:
            self._admitted -= 1
            if is_probe:
                self._pacing.end_probe(self._clock())
                self._for_admission.wake_all()
            self._for_admission.wake()

    @asynccontextmanager
    async def slot(self, file_id: int) -> AsyncIterator[None]:
        """Around a PUT: one of `parallel`. Learns how long it takes, and whether the object store is up."""
        if self._is_full() or self._for_slot:  # whose URLs are older
            await self._for_slot.wait()
            while self._is_full() and not self._is_closed:
                await self._for_slot.wait(first=True)
        self._refuse_when_closed()
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        if not self._is_full():
            self._for_slot.wake()
        try:
            with self._watched(Step.PUT, file_id):
                yield
        finally:
            self._busy -= 1
            self._for_slot.wake()

    def minting(self, file_id: int) -> AbstractContextManager[None]:
        """Around asking for a URL: learns how long that takes, and whether the API is up."""
        return self._watched(Step.PRESIGN, file_id)

    @contextmanager
    def pausing(self, file_id: int, seconds: float) -> Iterator[None]:
        """Around a file's pause before it is tried again: `state` says when the next one ends."""
        self._resumes_at[file_id] = self._clock() + seconds
        try:
            yield
        finally:
            del self._resumes_at[file_id]

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on; those under way go on."""
        self._may_put = may_begin
        self._for_slot.wake()
        self._for_admission.wake()

    def close(self) -> None:
        """Let nobody in any more: whoever waits, or comes, gets InterruptedRunError."""
        self._is_closed = True
        self._for_admission.wake_all()
        self._for_slot.wake_all()

    def state(self) -> PlatformState:
        """What a person is to know: slots in use, whether the platform fails or throttles, since when.

        From any thread.
        """
        if self._is_closed:  # nothing is tried any more
            return self._pacing.usage(self._busy)
        resumes_at = min([*self._resumes_at.values()], default=None)
        is_awaited = bool(self._for_admission)
        return self._pacing.state(self._busy, self._admitted, resumes_at, is_awaited=is_awaited)

    def _may_enter(self) -> bool:
        return self._may_put and self._pacing.admits(self._admitted, self._clock())

    def _is_full(self) -> bool:
        return not self._may_put or self._busy >= self._pacing.limit

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise InterruptedRunError("The run is stopping.")

    @contextmanager
    def _watched(self, step: Step, file_id: int) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except Fault as fault:
            self._learn(step, file_id, began, fault)
            raise
        self._learn(step, file_id, began)

    def _learn(self, step: Step, file_id: int, began: float, fault: Fault | None = None) -> None:
        pacing, now = self._pacing, self._clock()
        was_down, limit = pacing.is_down, pacing.limit
        if fault is None:
            pacing.record_success(step, now - began)
        else:
            pacing.record_fault(step, fault, file_id, now)
        if was_down and not pacing.is_down:
            self._for_admission.wake_all()
        if pacing.limit != limit:
            self._note_limit()

    def _note_limit(self) -> None:
        if len(self.course) < _LONGEST_COURSE:
            self.course.append((self._since(), self._pacing.limit))
        self._for_slot.wake()
        self._for_admission.wake()

    def _since(self) -> float:
        return round(self._clock() - self._began, 1)
