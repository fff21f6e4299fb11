"""Who waits is woken in order, and what a cancelled one was woken for is the next one's."""

import asyncio

from tasks.upload.waiters import Waiters
from tests import virtual_time


async def waiting(waiters: Waiters, count: int, woken: list[int]) -> list[asyncio.Task[None]]:
    async def wait(number: int) -> None:
        await waiters.wait()
        woken.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_the_oldest_is_woken_first_and_all_in_order() -> None:
    async def work() -> None:
        waiters, woken = Waiters(), list[int]()
        await waiting(waiters, 5, woken)
        waiters.wake()
        await asyncio.sleep(0)
        assert woken == [0]
        waiters.wake_all()
        await asyncio.sleep(0)
        assert woken == [0, 1, 2, 3, 4]
        assert not waiters

    virtual_time.run(work())


def test_one_that_is_cancelled_once_it_is_woken_wakes_the_next() -> None:
    async def work() -> None:
        waiters, woken = Waiters(), list[int]()
        tasks = await waiting(waiters, 2, woken)
        waiters.wake()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert woken == [1]

    virtual_time.run(work())


def test_one_that_is_being_cancelled_is_passed_over() -> None:
    async def work() -> None:
        waiters, woken = Waiters(), list[int]()
        tasks = await waiting(waiters, 2, woken)
        tasks[0].cancel()
        waiters.wake()
        await asyncio.wait(tasks)
        assert woken == [1]

    virtual_time.run(work())


def test_one_whose_time_is_over_waits_no_more() -> None:
    async def work() -> None:
        waiters = Waiters()
        await waiters.wait(3.0)
        assert asyncio.get_running_loop().time() >= 3
        assert not waiters

    virtual_time.run(work())


def test_who_comes_before_a_woken_one_has_run_has_to_wait() -> None:
    """Else it would be overtaken by a later file."""

    async def work() -> None:
        waiters, woken = Waiters(), list[int]()
        await waiting(waiters, 1, woken)
        waiters.wake()
        assert waiters
        await asyncio.sleep(0)
        assert (woken, bool(waiters)) == ([0], False)

    virtual_time.run(work())
