"""A file that is cut off, or fails, at any await: the others go on, and nothing stays taken."""

import asyncio
import random
from typing import Any

import pytest

from tasks.core.checksums import Evidence
from tasks.core.duplicates import Claim
from tasks.core.errors import Fault, FaultKind, StoppedError
from tasks.core.http_messages import Origin
from tasks.core.models import Digests, Header, Outcome, Status, Todo
from tasks.core.progress import Progress
from tasks.remote.upload_api import PresignedUrl, Stored
from tasks.upload.slots import Slots
from tasks.upload.transfer import Transfer
from tasks.upload.uploader import Uploader
from tests import virtual_time

FILES, UIDS = 12, 7


class Loop:
    """Whoever calls is in it already."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def call(self, function: Any, *arguments: Any) -> None:
        self.loop.call_soon(function, *arguments)


class Content:
    """Of a file of which two have one UID and the same bytes."""

    size_bytes, mtime_ns, ctime_ns = 100, 1, 1

    def __init__(self, number: int) -> None:
        self.header = Header(f"1.{number % UIDS}", "1", "1", "1", "1", "CT")
        self.digests = Digests(f"{number % UIDS}", "m")
        self.held_bytes = 100
        self.rejected = None

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        return self.digests


class Readers:
    """Room for three."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(3)
        self.held = 0

    async def read(self, read: Any) -> Content:
        (file,) = read.args
        await self.room.acquire()
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            self.room.release()
            raise
        self.held += 1
        return Content(int(file.todo.path))

    def release(self, content: Content) -> None:
        if content.held_bytes:
            content.held_bytes = 0
            self.held -= 1
            self.room.release()

    def look(self) -> None:
        """None takes long."""

    def close(self) -> None:
        """Nothing to do."""


class Ledger:
    """Claims and outcomes; each answer takes a moment, and what is asked is done also for who was cut off."""

    def __init__(self) -> None:
        self.owners: dict[str, int] = {}
        self.stored: dict[str, str] = {}
        self.outcomes: dict[int, Outcome | None] = {}
        self.fails_after = 10**9

    def claim(self, todo: Todo, uid: str, sha256: str = "", is_to_be_sent: bool = True) -> Any:
        if not self.stored.get(uid):
            self.owners.setdefault(uid, todo.file_id)
        mine = self.owners.get(uid) == todo.file_id
        return self._answer(Claim(mine, self.stored.get(uid, "")))

    async def issue(self, todo: Todo, uid: str, key: str, now_ns: int) -> bool:
        return bool(await self._answer(True))

    def forget(self, file_id: int) -> None:
        self.owners = {
            uid: each for uid, each in self.owners.items() if each != file_id or self.stored.get(uid)
        }

    async def settle(self, todo: Todo, outcome: Outcome | None, claimed: Any = ()) -> None:
        self.outcomes[todo.file_id] = outcome
        if outcome and outcome.status is Status.UPLOADED:
            assert outcome.header
            assert outcome.digests
            self.stored[outcome.header.sop_instance_uid] = outcome.digests.sha256
        for uid in claimed:
            if not self.stored.get(uid):
                self.owners.pop(uid, None)
        await self._answer(None)

    def _answer(self, answer: Any) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.fails_after -= 1
        is_broken = self.fails_after < 0

        def settle() -> None:
            if not future.done():
                future.set_exception(StoppedError("The disk is full.")) if is_broken else future.set_result(
                    answer
                )

        loop.call_later(0.002, settle)
        return future


class Client:
    """Answers after a while, now and then with a fault."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.under_way = self.most = self.keys = 0

    async def presign(self) -> PresignedUrl:
        await self._moment()
        self.keys += 1
        return PresignedUrl(f"key {self.keys}", "https://a/", Origin("https", "a", 443))

    async def put(self, _to: PresignedUrl, _content: Content, *, with_md5: bool) -> Stored:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._moment()
        finally:
            self.under_way -= 1
        return Stored(200, "", Evidence())

    async def _moment(self) -> None:
        await asyncio.sleep(self._dice.choice([0.01, 0.05, 0.2]))
        if self._dice.random() < 0.15:
            raise Fault(FaultKind.SERVER, "scripted", 500)


class Played:
    """Files under way, each in a task."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        self.ledger, self.readers, self.client = Ledger(), Readers(), Client(dice)
        self.slots = Slots(3, asyncio.get_running_loop().time)
        parts: Any = {"client": self.client, "ledger": self.ledger, "readers": self.readers}
        self.transfer = Transfer(slots=self.slots, jitter=dice.random, **parts)
        loop: Any = Loop()
        self.uploader = Uploader(loop, self.transfer, Progress())
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        todos = [Todo(number, 1, number, str(number)) for number in range(FILES)]
        batch: set[asyncio.Task[None]] = set()
        await self.uploader._begin(todos, batch)
        self.tasks = sorted(batch, key=lambda task: int(task.get_name().rpartition("-")[2]))

    async def end(self) -> None:
        async with asyncio.timeout(600):
            await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(1)
        assert (self.readers.held, self.client.under_way, self.slots.state().slots_in_use) == (0, 0, 0)
        assert self.client.most <= 3
        assert not self.transfer.order._positions
        assert not self.transfer.same_uid._settled


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("victim", [0, 4, 9])
def test_whenever_a_file_is_cut_off_the_others_come_to_their_outcome(seed: int, victim: int) -> None:
    """Also those that wait for its UID. At each of the moments at which the loop does something."""

    async def work(steps: int) -> bool:
        played = Played(seed)
        await played.begin()
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        was_under_way = played.tasks[victim].cancel()
        await asyncio.wait([played.tasks[victim]])
        played.ledger.forget(victim)  # as when its run has ended
        await played.end()
        others = {number: played.ledger.outcomes.get(number) for number in range(FILES) if number != victim}
        statuses = {outcome.status if outcome else None for outcome in others.values()}
        assert statuses <= {Status.UPLOADED, Status.DUPLICATE}
        played.transfer.stopping.set()
        return was_under_way

    ended: list[bool] = []

    async def once(steps: int) -> None:
        ended.append(not await work(steps))

    steps = 0
    while not (ended and ended[-1]):
        virtual_time.run(once(steps))
        steps += 7
    assert steps > 70


@pytest.mark.parametrize("fails_after", range(0, 30, 2))
def test_a_ledger_that_answers_with_errors_from_some_moment_on_ends_the_run(fails_after: int) -> None:
    """Nobody waits for ever; what was stopped says why."""

    async def work() -> None:
        played = Played(1)
        played.ledger.fails_after = fails_after
        await played.begin()
        await played.end()
        with pytest.raises(StoppedError, match="full"):
            played.uploader.raise_if_stopped()

    virtual_time.run(work())


def test_a_run_that_is_drained_at_any_moment_leaves_nothing_taken() -> None:
    """With a grace that cuts off some PUTs, or none, or all."""

    async def work(after_s: float, grace_s: float) -> None:
        played = Played(2)
        await played.begin()
        await asyncio.sleep(after_s)
        await played.uploader._drain(grace_s)
        assert not played.uploader._under_way
        await played.end()

    for number in range(60):
        virtual_time.run(work(number * 0.013, (number % 3) * 0.03))
