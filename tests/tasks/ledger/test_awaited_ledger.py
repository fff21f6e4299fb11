"""The ledger's answers as futures: one word to the loop for a whole commit, and none lost."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tasks.core.duplicates import Claim
from tasks.core.errors import StoppedError
from tasks.core.models import Todo
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.ledger.file_requests import Claiming, FileRequest, Issuing, Reaching, Settling

TODO = Todo(1, 1, 1, "/a")
MINE = Claim(mine=True, stored_sha256="")


class Scripted:
    """A ledger that answers when it is asked to, from a thread of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[FileRequest, Callable[[Any], None]]] = []

    def post(self, request: FileRequest, reply: Callable[[Any], None]) -> None:
        self.asked.append((request, reply))

    def commit(self, *answers: Any) -> None:
        """Replies to the oldest requests, as the writer does after a commit."""
        replies = [reply for _, reply in self.asked[: len(answers)]]
        del self.asked[: len(answers)]

        def work() -> None:
            for reply, answer in zip(replies, answers, strict=True):
                reply(answer)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


def test_requests_are_made_at_once_in_the_order_of_the_calls() -> None:
    async def work() -> None:
        ledger = Scripted()
        awaited = AwaitedLedger(ledger, asyncio.get_running_loop())
        for number in range(3):
            awaited.claim(TODO, f"1.{number}")
        assert [request for request, _ in ledger.asked] == [Claiming(TODO, f"1.{n}") for n in range(3)]

    asyncio.run(work())


def test_each_gets_its_own_answer() -> None:
    async def work() -> None:
        ledger = Scripted()
        awaited = AwaitedLedger(ledger, asyncio.get_running_loop())
        waiting: list[asyncio.Future[Any]] = [
            awaited.claim(TODO, "1.1"),
            asyncio.ensure_future(awaited.issue(TODO, "1.1", "key", 7)),
            asyncio.ensure_future(awaited.settle(TODO, None, {"1.1"})),
            asyncio.ensure_future(awaited.reach("host:443")),
        ]
        await asyncio.sleep(0)
        kinds = [type(request) for request, _ in ledger.asked]
        assert kinds == [Claiming, Issuing, Settling, Reaching]
        ledger.commit(MINE, False, None, None)
        assert await asyncio.gather(*waiting) == [MINE, False, None, None]

    asyncio.run(work())


def test_a_whole_commit_is_one_word_to_the_loop() -> None:
    async def work() -> None:
        ledger, loop = Scripted(), asyncio.get_running_loop()
        awaited = AwaitedLedger(ledger, loop)
        words = []
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *what: words.append(what) or call(*what)  # type: ignore[assignment]
        for _ in range(2):
            futures = [awaited.claim(TODO, "1.1") for _ in range(50)]
            ledger.commit(*[MINE] * 50)
            assert await asyncio.gather(*futures) == [MINE] * 50
        assert len(words) == 2

    asyncio.run(work())


def test_an_exception_is_raised_for_who_asked_alone() -> None:
    async def work() -> None:
        ledger = Scripted()
        awaited = AwaitedLedger(ledger, asyncio.get_running_loop())
        first, second = awaited.claim(TODO, "1.1"), awaited.claim(TODO, "1.2")
        ledger.commit(StoppedError("The disk is full."), MINE)
        with pytest.raises(StoppedError, match="full"):
            await first
        assert await second == MINE

    asyncio.run(work())


def test_who_was_cancelled_meanwhile_is_passed_over() -> None:
    async def work() -> None:
        ledger = Scripted()
        awaited = AwaitedLedger(ledger, asyncio.get_running_loop())
        futures = [awaited.claim(TODO, f"1.{number}") for number in range(3)]
        futures[0].cancel()
        ledger.commit(MINE, StoppedError("x"), MINE)
        futures[1].cancel()
        assert await futures[2] == MINE

    asyncio.run(work())


def test_an_answer_after_the_loops_end_hurts_nobody() -> None:
    """Least of all the writer's thread."""
    ledger = Scripted()

    async def work() -> None:
        AwaitedLedger(ledger, asyncio.get_running_loop()).claim(TODO, "1.1")

    asyncio.run(work())
    ((_, reply),) = ledger.asked
    reply(MINE)
