"""The slots: at most `parallel` PUTs at once over the whole run, and URLs minted just in time.

A file is admitted when it is read, hashed and claimed; then it asks for a URL, and waits for a *slot* to PUT.
How many are admitted, and how many slots may be used, `core/pacing.py` decides. All of it belongs to the
event loop's thread, but for what says that any thread may call it.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final

from tasks.concurrency.gates import Gate
from tasks.core.bandwidth import Rate
from tasks.core.errors import Fault
from tasks.core.pacing import Pacing
from tasks.core.platform_state import PlatformState, Step

_BARELY_S: Final = 1e-9
# Of sending at a limited rate. Where more are admitted, each is so slow that their URLs expire, and that
# servers take them for dead.
_ADMITTED_S: Final = 60
_LEAST_ADMITTED: Final = 2  # so that one is sent while another waits for its answer, or for its URL


class Slots:
    """Shared by all files of a run. Times by `clock`, in seconds."""

    def __init__(
        self,
        parallel: int,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        step: Step = Step.PUT,
        may_start: Callable[[], bool] = lambda: True,
        rate: Callable[[], Rate] = lambda: None,
    ) -> None:
        """`began`: when the run did, by the clock; now when not given. `step`: what a slot is for.

        `may_start`: whether a file may be admitted now, whoever else has a say; call `look_at_window` now and
        then. `rate`: how fast all of them together may send.
        """
        self.most = parallel  # throttled or not
        self._step = step
        self._clock = clock
        self._rate = rate
        self._pacing = Pacing(parallel, clock(), clock() if began is None else began)
        self._admitted = Gate(self._may_be_admitted, self._pacing.begin, self._end_probe)
        self._busy = Gate(lambda busy: self._may_put and busy < self._pacing.limit)
        self._probe_timer: asyncio.TimerHandle | None = None
        self._may_put = True
        self._may_start = may_start
        self._held_since: float | None = None  # since when none may
        self._held_s = 0.0  # for how long none might, before that
        self._resumes_at: dict[int, float] = {}  # files that pause, by file_id
        self._puts = 0
        self.peak = 0  # most PUTs that were under way at once
        self.course = self._pacing.course  # (seconds since the start, slots in use), at each change

    @property
    def outage_s(self) -> float:
        """For how long the platform has been down, while files might start; 0 when it is not."""
        now = self._clock()
        outage_s = self._pacing.outage_s(now)
        held_s = 0.0 if self._held_since is None else now - self._held_since
        return max(_BARELY_S, outage_s - held_s) if outage_s else 0.0

    @property
    def held_s(self) -> float:
        """For how long no file might start, in all."""
        return self._held_s + (0.0 if self._held_since is None else self._clock() - self._held_since)

    @asynccontextmanager
    async def admission(self, rank: int = 0, size_bytes: int = 0) -> AsyncIterator[None]:
        """From asking for a URL to the end of its PUT, of so many bytes. Waits while the platform is down.

        `rank`: those of a smaller one go first, here and where a slot is waited for.
        """
        while True:
            async with self._admitted.entered(rank, size_bytes) as is_probe:
                if is_probe or not self._pacing.is_down:  # as it may have been found since there was room
                    yield
                    return

    @asynccontextmanager
    async def slot(self, file_id: int, step: Step | None = None, rank: int = 0) -> AsyncIterator[None]:
        """Around a PUT: one of `parallel`. Learns how long it takes, and whether the object store is up.

        `step`: of another request than the slots are for.
        """
        async with self._busy.entered(rank):
            self._puts += 1
            self.peak = max(self.peak, self._puts)
            try:
                with self._watched(step or self._step, file_id):
                    yield
            finally:
                self._puts -= 1

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
        self.look()

    def look_at_window(self) -> None:
        """Lets in who waits once files may start again; the platform was not down for that long."""
        now = self._clock()
        if not self._may_start():
            self._held_since = now if self._held_since is None else self._held_since
        elif self._held_since is not None:
            self._pacing.leave_out(self._held_since, now)
            self._held_s += now - self._held_since
            self._held_since = None
            self.look()

    def close(self) -> None:
        """Let nobody in any more: whoever waits, or comes, gets InterruptedRunError."""
        self._admitted.close()
        self._busy.close()

    def state(self) -> PlatformState:
        """What a person is to know: slots in use, whether the platform fails or throttles, since when.

        From any thread.
        """
        if self._busy.is_closed:  # nothing is tried any more
            return self._pacing.usage(self._puts)
        resumes_at = min([*self._resumes_at.values()], default=None)
        inside, is_awaited = self._admitted.inside, self._admitted.is_awaited
        state = self._pacing.state(self._puts, inside, resumes_at, is_awaited=is_awaited)
        return replace(state, rate=rate) if (rate := self._rate()) else state

    def look(self) -> None:
        """Lets in whom there is room for; to be called when the rate is another."""
        self._busy.look()
        self._admitted.look()

    def _may_be_admitted(self, admitted: int) -> bool:
        if self._pacing.is_down:
            self._look_when_probe_is_due()
        is_room = self._may_put and self._may_start() and not self._are_enough(admitted)
        return is_room and self._pacing.admits(admitted, self._clock())

    def _are_enough(self, admitted: int) -> bool:
        """Whether those who are admitted keep a limited rate busy for long enough."""
        rate = self._rate()
        least = min(_LEAST_ADMITTED, self._pacing.limit)
        return rate is not None and admitted >= least and self._admitted.weight >= rate * _ADMITTED_S

    def _end_probe(self, is_probe: bool) -> None:
        if is_probe:
            self._pacing.end_probe(self._clock())

    def _look_when_probe_is_due(self) -> None:
        """Nobody's end will be the occasion."""
        if self._probe_timer:
            self._probe_timer.cancel()
        wait_s = self._pacing.wait_s(self._clock())
        if 0 < wait_s < math.inf:
            self._probe_timer = asyncio.get_running_loop().call_later(wait_s, self._admitted.look)

    @contextmanager
    def _watched(self, step: Step, file_id: int) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except Fault as fault:
            if self._pacing.record_fault(step, fault, file_id, self._clock()):
                self.look()
            raise
        now = self._clock()
        if self._pacing.record_success(step, now - began, now):
            self.look()
