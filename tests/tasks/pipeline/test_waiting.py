"""Who waits for room, and for another object of the same UID."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tasks.pipeline.held_room import HeldRoom
from tasks.pipeline.uid_locks import UidLocks


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


class TestRoom:
    def test_bytes_and_objects_are_bounded_and_nobody_overtakes(self) -> None:
        async def play() -> None:
            room, log = HeldRoom(10, 2), []
            leave = [asyncio.Event() for _ in range(4)]

            async def enter(number: int, size_bytes: int) -> None:
                async with room.entered(size_bytes):
                    log.append(number)
                    await leave[number].wait()

            tasks = [asyncio.create_task(enter(n, size)) for n, size in enumerate((6, 6, 1, 1))]
            await asyncio.sleep(0)
            assert log == [0], "the second is too large beside it, and the third does not overtake"
            leave[0].set()
            await asyncio.sleep(0.01)
            assert log == [0, 1, 2]
            for each in leave:
                each.set()
            await asyncio.gather(*tasks)

        run(play())

    def test_one_that_is_larger_than_the_room_enters_alone(self) -> None:
        async def play() -> None:
            room = HeldRoom(10, 5)
            async with room.entered(100):
                pass
            async with room.entered(10):
                pass

        run(play())

    def test_whoever_gives_up_waiting_leaves_the_room_to_others(self) -> None:
        async def play() -> None:
            room = HeldRoom(10, 5)

            async def enter() -> None:
                async with room.entered(8):
                    await asyncio.sleep(60)

            first, second = asyncio.create_task(enter()), asyncio.create_task(enter())
            await asyncio.sleep(0)
            second.cancel()
            first.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            async with room.entered(10):
                pass

        run(play())


class TestUids:
    def test_objects_of_one_uid_are_one_after_another(self) -> None:
        async def play() -> None:
            locks, inside, most = UidLocks(), 0, 0

            async def work(uid: str) -> None:
                nonlocal inside, most
                async with locks.alone(uid):
                    inside += uid == "1.2"
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    inside -= uid == "1.2"

            await asyncio.gather(*(work(uid) for uid in ["1.2"] * 5 + ["1.3"]))
            assert most == 1
            assert locks._locks == {}, "what nobody has takes no room"

        run(play())
