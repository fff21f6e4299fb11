"""Who waits enters in order, and what a cancelled one was given is the next one's."""

import asyncio

import pytest

from tasks.concurrency.gates import Gate
from tasks.core.errors import InterruptedRunError
from tests import virtual_time


class Room:
    """A gate with room for so many, and who entered it, in order."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.gate = Gate(lambda inside: inside < self.room)
        self.entered: list[int] = []

    async def enter(self, number: int, for_s: float = 1.0) -> None:
        async with self.gate.entered():
            self.entered.append(number)
            await asyncio.sleep(for_s)

    async def all_waiting(self, count: int) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.enter(number)) for number in range(count)]
        await asyncio.sleep(0)
        return tasks


def test_the_oldest_enters_first_as_soon_as_there_is_room() -> None:
    async def work() -> None:
        room = Room(2)
        tasks = await room.all_waiting(5)
        assert (room.entered, room.gate.inside, room.gate.is_awaited) == ([0, 1], 2, True)
        await asyncio.gather(*tasks)
        assert room.entered == [0, 1, 2, 3, 4]
        assert asyncio.get_running_loop().time() == pytest.approx(3)
        assert (room.gate.inside, room.gate.is_awaited) == (0, False)

    virtual_time.run(work())


def test_a_smaller_rank_enters_before_who_came_earlier() -> None:
    async def work() -> None:
        gate, entered = Gate(lambda inside: inside < 1), list[int]()

        async def enter(rank: int) -> None:
            async with gate.entered(rank):
                entered.append(rank)
                await asyncio.sleep(1)

        await asyncio.gather(*(enter(rank) for rank in (7, 5, 9, 5, 2)))
        assert entered == [7, 2, 5, 5, 9]

    virtual_time.run(work())


def test_more_room_is_seen_when_somebody_looks() -> None:
    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(3)
        room.room = 2
        room.gate.look()
        await asyncio.sleep(0)
        assert room.entered == [0, 1]
        await asyncio.gather(*tasks)

    virtual_time.run(work())


def test_one_that_is_cancelled_once_it_may_enter_gives_its_room_to_the_next() -> None:
    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(2)
        room.room = 1
        room.gate.look()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert (room.entered, room.gate.inside) == ([1], 0)

    virtual_time.run(work())


def test_one_that_is_being_cancelled_is_passed_over() -> None:
    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(2)
        tasks[0].cancel()
        room.room = 1
        room.gate.look()
        await asyncio.wait(tasks)
        assert room.entered == [1]

    virtual_time.run(work())


def test_who_comes_before_one_that_may_enter_has_run_enters_behind_it() -> None:
    """Else it would be overtaken by a later file."""

    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(1)
        room.room = 1
        room.gate.look()
        await room.enter(7)
        assert room.entered == [0, 7]
        await asyncio.gather(*tasks)

    virtual_time.run(work())


def test_who_comes_when_there_is_room_at_last_enters_behind_who_waits() -> None:
    """Though nobody has looked since."""

    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(1)
        room.room = 1
        await room.enter(7)
        assert room.entered == [0, 7]
        await asyncio.gather(*tasks)

    virtual_time.run(work())


def test_nobody_enters_one_that_is_closed_not_even_who_was_let_in_a_moment_ago() -> None:
    async def work() -> None:
        room = Room(0)
        tasks = await room.all_waiting(3)
        room.room = 1
        room.gate.look()
        room.gate.close()
        ended = await asyncio.gather(*tasks, room.enter(9), return_exceptions=True)
        assert [type(each) for each in ended] == [InterruptedRunError] * 4
        assert (room.entered, room.gate.inside, room.gate.is_awaited) == ([], 0, False)

    virtual_time.run(work())


def test_what_begins_when_somebody_enters_ends_when_he_leaves() -> None:
    """Also when he was cancelled meanwhile."""

    async def work() -> None:
        begun: list[str] = []
        room = 0
        gate = Gate(lambda inside: inside < room, lambda: begun.append("begins") is None, begun.append)

        async def enter() -> None:
            async with gate.entered():
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(enter()) for _ in range(2)]
        await asyncio.sleep(0)
        room = 1
        gate.look()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert begun == ["begins", True, "begins", True]

    virtual_time.run(work())


def test_the_weight_is_that_of_who_is_inside_however_they_leave() -> None:
    """Of who entered at once, who waited, and who was cancelled while he did."""

    async def work() -> None:
        gate = Gate(lambda inside: inside < 1)

        async def enter(weight: int) -> None:
            async with gate.entered(weight=weight):
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(enter(weight)) for weight in (1, 10, 100)]
        await asyncio.sleep(0.5)
        assert gate.weight == 1
        tasks[1].cancel()
        await asyncio.sleep(1)
        assert gate.weight == 100
        await asyncio.sleep(1)
        assert gate.weight == 0

    virtual_time.run(work())
