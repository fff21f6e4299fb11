"""Files of one SOP Instance UID: woken by the end of the other, and no sooner; others are asked for."""

import asyncio

from tasks.upload.same_uid import SameUid
from tests import virtual_time


class TestOfThisProcess:
    def test_wake_who_waits_when_they_are_settled(self) -> None:
        """At that moment, in order; nobody looks meanwhile."""

        async def work() -> None:
            uids, woken = SameUid(), list[tuple[int, float]]()
            uids.claimed("1.2")

            async def wait(file_id: int) -> None:
                await uids.settlement("1.2", file_id)
                woken.append((file_id, asyncio.get_running_loop().time()))

            tasks = [asyncio.create_task(wait(file_id)) for file_id in range(3)]
            await asyncio.sleep(1000)
            assert woken == []
            assert uids.waiting_for_others == 0
            uids.settled(["1.3"])
            await asyncio.sleep(0)
            assert woken == []
            uids.settled(["1.1", "1.2"])
            await asyncio.wait(tasks)
            assert woken == [(file_id, 1000.0) for file_id in range(3)]

        virtual_time.run(work())

    def test_that_are_settled_already_are_asked_for_again_soon(self) -> None:
        async def work() -> None:
            uids = SameUid()
            uids.claimed("1.2")
            uids.settled(["1.2"])
            await uids.settlement("1.2", 1)
            assert asyncio.get_running_loop().time() < 0.1

        virtual_time.run(work())


class TestOfOtherProcesses:
    def test_are_asked_for_at_growing_intervals(self) -> None:
        """Which is said once they have waited as long as they do."""

        async def work() -> None:
            uids, loop = SameUid(), asyncio.get_running_loop()
            pauses = []
            for _ in range(12):
                before = loop.time()
                await uids.settlement("1.2", 7)
                pauses.append(round(loop.time() - before, 3))
            assert pauses[:3] == [0.02, 0.04, 0.08]
            assert pauses[-1] == 2.0
            assert uids.waiting_for_others == 1
            uids.forget(7)
            assert uids.waiting_for_others == 0

        virtual_time.run(work())
