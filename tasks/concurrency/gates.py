"""A gate: coroutines wait for something of which there is not enough for all, and get it in their order."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from tasks.core.errors import InterruptedRunError


class Gate:
    """For the event loop's thread alone."""

    def __init__(
        self,
        has_room: Callable[[int], bool],
        begin: Callable[[], bool] = bool,
        end: Callable[[bool], object] = bool,
    ) -> None:
        """`has_room`: whether one more may enter, beside so many who are inside.

        `begin` is called for who enters, `end` with what it returned for who leaves.
        """
        self._has_room = has_room
        self._begin = begin
        self._end = end
        self._waiting: list[tuple[int, int, asyncio.Future[bool], int]] = []  # a heap; last, the weight
        self._numbers = count()
        self.is_closed = False
        self.inside = 0
        self.weight = 0  # of all who are inside

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return any(not future.done() for _, _, future, _ in [*self._waiting])

    @asynccontextmanager
    async def entered(self, rank: int = 0, weight: int = 0) -> AsyncIterator[bool]:
        """Behind all of a smaller rank, and those of the same who came before; what `begin` returned.

        Raises InterruptedRunError when it is closed.
        """
        begun = await self._enter(rank, weight)
        try:
            yield begun
        finally:
            self._leave(begun, weight)

    def look(self) -> None:
        """Lets in whom there is room for; to be called whenever there may be more of it."""
        while self._waiting and self._has_room(self.inside):
            _, _, future, weight = heapq.heappop(self._waiting)
            if not future.done():  # else its task was cancelled
                self._count(weight)
                future.set_result(self._begin())

    def close(self) -> None:
        """Nobody enters any more."""
        self.is_closed = True
        for _, _, future, _ in self._waiting:
            if not future.done():
                future.set_exception(_stopping())
        self._waiting.clear()

    async def _enter(self, rank: int, weight: int) -> bool:
        """Counts as inside from the moment on at which there is room: nobody else takes that meanwhile."""
        if self.is_closed:
            raise _stopping()
        if not self._waiting and self._has_room(self.inside):
            self._count(weight)
            return self._begin()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._numbers), future, weight))
        self.look()
        try:
            begun = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self._leave(future.result(), weight)
            raise
        if self.is_closed:  # meanwhile
            self._leave(begun, weight)
            raise _stopping()
        return begun

    def _count(self, weight: int) -> None:
        self.inside += 1
        self.weight += weight

    def _leave(self, begun: bool, weight: int) -> None:
        self.inside -= 1
        self.weight -= weight
        self._end(begun)
        self.look()


def _stopping() -> InterruptedRunError:
    return InterruptedRunError("The run is stopping.")
