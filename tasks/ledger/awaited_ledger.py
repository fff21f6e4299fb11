"""The ledger as coroutines see it: each answer, once what it says is durable, as a future of the loop."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tasks.core.models import Outcome, Todo
from tasks.ledger.file_requests import Claiming, FileRequest, Issuing, Reaching, Settling

if TYPE_CHECKING:
    from tasks.core.duplicates import Claim


_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Asking = TypeVar("_Asking")


class PostingLedger(Protocol[_Request_contra]):
    """A ledger that answers by a call."""

    def post(self, request: _Request_contra, reply: Callable[[Any], None]) -> None:
        """Never blocks; `reply` is called once, by another thread, with the answer or an exception."""
        ...


class AwaitedAnswers(Generic[_Asking]):
    """Answers of a ledger. To be used in the event loop's thread alone."""

    def __init__(self, ledger: PostingLedger[_Asking], loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._loop = loop
        self._answered: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_called = False  # the loop knows that there are answers: one word for a whole commit

    def asked(self, request: _Asking) -> "asyncio.Future[Any]":
        """Asks at once, in the order of the calls."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._ledger.post(request, partial(self._reply, future))
        return future

    def _reply(self, future: "asyncio.Future[Any]", answer: Any) -> None:
        self._answered.append((future, answer))
        if not self._is_called:
            self._is_called = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False
        while self._answered:
            future, answer = self._answered.popleft()
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class AwaitedLedger(AwaitedAnswers[FileRequest]):
    """What is asked about files."""

    def claim(
        self, todo: Todo, uid: str, sha256: str = "", is_to_be_sent: bool = True
    ) -> "asyncio.Future[Claim]":
        """Asks at once, in the order of the calls: whose a UID is, or these bytes beside others of it."""
        return self.asked(Claiming(todo, uid, sha256, is_to_be_sent))

    async def issue(self, todo: Todo, uid: str, key: str, now_ns: int) -> bool:
        """Makes the intent to send durable. False when the key was handed out before."""
        return bool(await self.asked(Issuing(todo, uid, key, now_ns)))

    async def settle(self, todo: Todo, outcome: Outcome | None, claimed: Collection[str] = ()) -> None:
        """Makes an outcome durable; None: it waits, and keeps nothing claimed."""
        await self.asked(Settling(todo, outcome, claimed))

    async def reach(self, storage_host: str) -> None:
        """Makes durable that files go to a host, before the first does."""
        await self.asked(Reaching(storage_host))
