"""The slots: never more PUTs than permitted, URLs just in time, and nobody left waiting."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import Fault, FaultKind, InterruptedRunError
from tasks.core.platform_state import PlatformState, Step
from tasks.upload.slots import Slots
from tests import virtual_time

Work = Callable[[], Awaitable[object]]


async def nothing() -> None:
    """As fast as can be."""


class Count:
    """How many are inside, and the most there were."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield
        finally:
            self.now -= 1

    async def reaches(self, number: int) -> bool:
        async with asyncio.timeout(30):
            while self.most < number:
                await asyncio.sleep(0.001)
        return True


async def upload(slots: Slots, file_id: int, put: Work = nothing, mint: Work = nothing) -> None:
    async with slots.admission():
        with slots.minting(file_id):
            await mint()
        async with slots.slot(file_id):
            await put()


async def all_of(uploads: Iterator[Awaitable[object]]) -> None:
    """None of them hangs."""
    async with asyncio.timeout(30):
        await asyncio.gather(*uploads)


class TestSlots:
    @pytest.mark.parametrize("parallel", [1, 3, 20])
    def test_are_all_used_and_no_more(self, parallel: int) -> None:
        """Each PUT holds on until as many as may be are inside."""

        async def work() -> None:
            slots, puts = Slots(parallel), Count()

            async def put() -> None:
                with puts.inside():
                    assert await puts.reaches(parallel)

            await all_of(upload(slots, file_id, put) for file_id in range(3 * parallel))
            assert puts.most == slots.peak == parallel

        asyncio.run(work())

    def test_are_given_back_by_what_fails(self) -> None:
        """Whatever is raised inside."""

        async def broken() -> None:
            raise Fault(FaultKind.REJECTED, "what")

        async def work() -> None:
            slots = Slots(1)
            for file_id in range(5):
                with pytest.raises(Fault):
                    await upload(slots, file_id, broken)
                with pytest.raises(Fault):
                    await upload(slots, file_id, nothing, broken)
            await all_of(iter([upload(slots, 9)]))

        asyncio.run(work())

    def test_hold_few_urls_ahead_while_puts_are_slow(self) -> None:
        """URLs are minted when a slot is about to be free, not when a file is ready."""

        async def work() -> None:
            slots, urls, puts = Slots(4), Count(), Count()
            release = asyncio.Event()

            async def one(file_id: int) -> None:
                async with slots.admission():
                    with urls.inside(), slots.minting(file_id):
                        pass
                    with urls.inside():
                        async with slots.slot(file_id):
                            with puts.inside():
                                await release.wait()

            tasks = [asyncio.create_task(one(file_id)) for file_id in range(30)]
            assert await puts.reaches(4)
            await asyncio.sleep(0.05)
            assert 4 < urls.most <= 8
            release.set()
            await all_of(iter(tasks))

        asyncio.run(work())

    def test_have_a_url_ready_each_when_presigning_is_as_slow_as_a_put(self) -> None:
        """So that no slot waits for its URL: while all PUTs last, as many URLs more are minted."""
        now_s = 0.0

        async def takes_a_second() -> None:
            nonlocal now_s
            now_s += 1

        async def work() -> None:
            slots, urls, puts = Slots(5, clock=lambda: now_s), Count(), Count()
            await upload(slots, 0, takes_a_second, takes_a_second)
            release = asyncio.Event()

            async def one(file_id: int) -> None:
                async with slots.admission():
                    with urls.inside():
                        async with slots.slot(file_id):
                            with puts.inside():
                                await release.wait()

            tasks = [asyncio.create_task(one(file_id)) for file_id in range(15)]
            assert await puts.reaches(5)
            assert await urls.reaches(10)
            release.set()
            await all_of(iter(tasks))

        asyncio.run(work())

    def test_let_nobody_in_once_closed(self) -> None:
        """Neither who comes nor who waits, for admission or for a slot; who is inside may finish."""

        async def work() -> None:
            slots, puts = Slots(2), Count()
            release = asyncio.Event()

            async def put() -> None:
                with puts.inside():
                    await release.wait()

            tasks = [asyncio.create_task(upload(slots, file_id, put)) for file_id in range(10)]
            assert await puts.reaches(2)
            slots.close()
            done, under_way = await asyncio.wait(tasks, timeout=0.2)
            assert len(done) == 8
            assert {type(task.exception()) for task in done} == {InterruptedRunError}
            release.set()
            await all_of(iter(under_way))
            with pytest.raises(InterruptedRunError):
                await upload(slots, 99)
            assert puts.most == 2

        asyncio.run(work())

    def test_wait_while_none_may_be_used_and_go_on_in_order(self) -> None:
        """Somebody else has the platform's slots for a while: who has waited longest goes first."""

        async def work() -> None:
            slots, puts, order = Slots(2), Count(), list[int]()

            def put(file_id: int) -> Work:
                async def note() -> None:
                    order.append(file_id)
                    with puts.inside():
                        assert await puts.reaches(2)

                return note

            slots.permit_puts(False)
            tasks = [asyncio.create_task(upload(slots, number, put(number))) for number in range(9)]
            await asyncio.sleep(0.01)
            assert order == []
            slots.permit_puts(True)
            await all_of(iter(tasks))
            assert order == sorted(order)

        asyncio.run(work())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), parallel=st.integers(1, 5), files=st.integers(1, 40))
def test_whatever_is_cancelled_or_fails_nobody_waits_for_ever(seed: int, parallel: int, files: int) -> None:
    """And there are never more PUTs than slots, nor is a wake-up lost: who is left ends by itself."""
    dice = random.Random(seed)
    faults = [FaultKind.THROTTLED, FaultKind.SERVER, FaultKind.REJECTED, None, None, None]

    async def work() -> None:
        slots, puts = Slots(parallel, asyncio.get_running_loop().time), Count()

        async def step() -> None:
            await asyncio.sleep(dice.choice([0, 0, 0.01, 0.2, 3]))
            if kind := dice.choice(faults):
                raise Fault(kind, "scripted", 503)

        async def put() -> None:
            with puts.inside():
                await step()

        async def one(file_id: int) -> None:
            for _ in range(3):
                with suppress(Fault):
                    await upload(slots, file_id, put, step)
                if dice.random() < 0.2:  # perhaps who was woken a moment ago
                    dice.choice(tasks).cancel()

        tasks = [asyncio.create_task(one(file_id)) for file_id in range(files)]
        for _ in range(dice.randrange(60)):
            await asyncio.sleep(dice.choice([0, 0, 0.01, 1]))
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
            elif dice.random() < 0.2:
                slots.permit_puts(dice.random() < 0.5)
        slots.permit_puts(True)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert puts.most <= parallel
        assert slots.peak == puts.most
        assert slots.state().slots_in_use == 0

    virtual_time.run(work())


async def throttled() -> None:
    raise Fault(FaultKind.THROTTLED, "SlowDown", 503)


class TestThrottling:
    def test_halves_the_slots_in_use_and_success_gives_them_back(self) -> None:
        """One at a time, never above what is permitted; the course is kept."""

        async def work() -> None:
            slots = Slots(8, clock=lambda: 0.0)
            with pytest.raises(Fault):
                await upload(slots, 1, throttled)
            for file_id in range(100):
                await upload(slots, file_id)
            assert [limit for _, limit in slots.course] == [8, 4, 5, 6, 7, 8]

        asyncio.run(work())

    def test_counts_a_burst_once(self) -> None:
        """Twenty refusals at the same moment are one reason; later ones halve again, down to one slot."""
        now = [0.0]

        async def work() -> None:
            slots = Slots(8, clock=lambda: now[0])
            for second in range(6):
                now[0] = 10.0 * second
                for file_id in range(3):
                    with pytest.raises(Fault):
                        await upload(slots, file_id, throttled)
                await upload(slots, 9)
            assert [limit for _, limit in slots.course][:4] == [8, 4, 2, 1]
            assert min(limit for _, limit in slots.course) == 1

        asyncio.run(work())


class TestOutage:
    """Everything fails: after a while only one at a time may try."""

    async def fail(self) -> None:
        raise Fault(FaultKind.SERVER, "502", 502)

    def test_lets_one_probe_through_now_and_then_until_one_works(self) -> None:
        """By the clock that is given; a success opens the way for all."""

        async def work() -> None:
            slots, probes = Slots(5), Count()
            works = asyncio.Event()

            async def put() -> None:
                is_down = slots.outage_s > 0
                with probes.inside() if is_down else nullcontext():
                    await asyncio.sleep(0)
                    if not works.is_set():
                        await self.fail()

            async def one(file_id: int) -> None:
                while True:
                    with suppress(Fault):
                        return await upload(slots, file_id, put)
                    await asyncio.sleep(0)

            tasks = [asyncio.create_task(one(file_id)) for file_id in range(15)]
            async with asyncio.timeout(30):
                while probes.most == 0:
                    await asyncio.sleep(0.005)
            assert slots.outage_s
            works.set()
            await all_of(iter(tasks))
            assert (slots.outage_s, probes.most) == (0, 1)

        asyncio.run(work())

    def test_of_one_file_alone_is_the_files_own(self) -> None:
        """It may be that file: others are not held up."""

        async def work() -> None:
            slots = Slots(2)
            for _ in range(50):
                with pytest.raises(Fault):
                    await upload(slots, 1, self.fail)
            assert slots.outage_s == 0
            await upload(slots, 2)

        asyncio.run(work())

    def test_ends_for_those_who_wait_when_the_run_stops(self) -> None:
        """Nobody waits for a probe that will not come."""

        async def work() -> None:
            slots = Slots(2)

            async def one(file_id: int) -> None:
                with pytest.raises(InterruptedRunError):
                    while True:
                        with suppress(Fault):
                            await upload(slots, file_id, self.fail)
                        await asyncio.sleep(0)

            tasks = [asyncio.create_task(one(file_id)) for file_id in range(6)]
            while not slots.outage_s:
                await asyncio.sleep(0.001)
            slots.close()
            await all_of(iter(tasks))

        asyncio.run(work())

    def test_is_probed_after_the_one_that_would_have_is_cut_off(self) -> None:
        """The others wait for a probe: the next of them is it."""
        now = [0.0]

        async def work() -> None:
            slots = Slots(1, clock=lambda: now[0])
            for file_id in range(5):
                with pytest.raises(Fault):
                    await upload(slots, file_id, self.fail)
            now[0] = 2.0
            hangs = asyncio.Event()
            probe = asyncio.create_task(upload(slots, 1, hangs.wait))
            others = [asyncio.create_task(upload(slots, file_id)) for file_id in (2, 3)]
            await asyncio.sleep(0.01)
            now[0] = 20.0
            probe.cancel()
            await asyncio.sleep(0.01)
            now[0] = 40.0
            await all_of(iter(others))
            assert slots.outage_s == 0

        asyncio.run(work())


class TestState:
    """What a person is to know of the platform."""

    async def fail(self, slots: Slots, file_id: int, status: int = 503, retry_after_s: float = 0.0) -> None:
        async def put() -> None:
            raise Fault(FaultKind.THROTTLED, "scripted", status, retry_after_s)

        with pytest.raises(Fault):
            await upload(slots, file_id, put)

    def test_has_the_slots_in_use(self) -> None:
        slots = Slots(3)
        seen: list[PlatformState] = []

        async def look() -> None:
            seen.append(slots.state())

        asyncio.run(upload(slots, 1, look, look))
        minting, putting = seen
        assert (minting.slots_in_use, putting.slots_in_use, putting.slots) == (0, 1, 3)
        assert (putting.failing, putting.throttled_since) == (None, None)

    def test_says_since_when_it_is_down_and_when_the_next_try_is(self) -> None:
        """Since the first fault, not since it was enough of them; a Retry-After that is later counts."""
        now = [10.0]

        async def work() -> None:
            slots = Slots(2, clock=lambda: now[0])
            for file_id in range(5):
                await self.fail(slots, file_id, retry_after_s=30 if file_id == 4 else 0)
                now[0] += 1
            state = slots.state()
            assert (state.failing, state.is_down, state.failing_since) == (Step.PUT, True, 10)
            assert (state.next_try_at, state.http_status) == (44, 503)

        asyncio.run(work())

    def test_says_when_the_next_file_is_tried_where_all_of_them_pause(self) -> None:
        """Of few files the breaker never opens: one fault is said while nothing is under way."""

        async def work() -> None:
            slots = Slots(2, clock=lambda: 10.0)
            await self.fail(slots, 1, status=500)
            with slots.pausing(1, 8), slots.pausing(2, 5):
                state = slots.state()
                assert (state.failing, state.is_down, state.failing_since) == (Step.PUT, False, 10)
                assert (state.next_try_at, state.http_status) == (15, 500)
                async with slots.admission():
                    assert slots.state().failing is None, "others go on"
            await upload(slots, 1)
            assert slots.state().failing is None

        asyncio.run(work())

    def test_says_no_next_try_for_which_there_is_no_file(self) -> None:
        """One may be tried in a second, but all that are left pause for longer, or for less."""

        async def work() -> None:
            slots = Slots(2, clock=lambda: 10.0)
            for file_id in range(5):
                await self.fail(slots, file_id)
            assert slots.state().next_try_at == 11
            with slots.pausing(1, 8):
                assert slots.state().next_try_at == 18
            with slots.pausing(1, 0.5):
                assert slots.state().next_try_at == 11

        asyncio.run(work())

    def test_says_three_faults_in_a_row_while_others_are_under_way(self) -> None:
        async def work() -> None:
            slots = Slots(2)
            for file_id in range(3):
                await self.fail(slots, file_id)
            async with slots.admission():
                state = slots.state()
            assert (state.failing, state.is_down, state.next_try_at) == (Step.PUT, False, None)

        asyncio.run(work())

    def test_says_how_many_slots_throttling_has_taken_and_since_when(self) -> None:
        async def work() -> None:
            slots = Slots(8, clock=lambda: 10.0)
            await self.fail(slots, 1, status=429)
            state = slots.state()
            assert (state.slots, state.slots_withheld, state.throttled_since) == (8, 4, 10)

        asyncio.run(work())

    def test_says_no_next_try_once_the_run_is_stopping(self) -> None:
        async def work() -> None:
            slots = Slots(2)
            for file_id in range(5):
                await self.fail(slots, file_id)
            slots.close()
            state = slots.state()
            assert (state.failing, state.is_down, state.next_try_at) == (None, False, None)

        asyncio.run(work())


class TestALimitedRate:
    """Where PUTs are slow, URLs would expire that are asked for ahead, and servers give up on idle ones."""

    @pytest.mark.parametrize(
        ("rate", "size_bytes", "most"),
        [
            (None, 100_000_000, 20),
            (1_000_000, 500_000, 20),
            (100_000, 500_000, 12),  # what is sent in a minute
            (1_000_000, 100_000_000, 2),  # one, and one that asks for its URL meanwhile
            (1, 500_000, 2),
        ],
    )
    def test_has_as_many_puts_at_once_as_it_sends_in_a_minute(
        self, rate: int | None, size_bytes: int, most: int
    ) -> None:
        async def work() -> None:
            clock = asyncio.get_running_loop().time
            slots, puts, admitted = Slots(20, clock, rate=lambda: rate), Count(), Count()

            async def put(number: int) -> None:
                async with slots.admission(size_bytes=size_bytes):
                    with admitted.inside():
                        async with slots.slot(number):
                            with puts.inside():
                                await asyncio.sleep(1)

            await asyncio.gather(*(put(number) for number in range(60)))
            assert puts.most == most
            assert admitted.most == (most if most < 20 else 21)

        virtual_time.run(work())

    def test_that_rises_lets_more_in_at_once(self) -> None:
        async def work() -> None:
            rate = [1]
            slots = Slots(20, asyncio.get_running_loop().time, rate=lambda: rate[0])

            async def put(number: int) -> None:
                async with slots.admission(size_bytes=500_000), slots.slot(number):
                    await asyncio.sleep(1000)

            puts = [asyncio.create_task(put(number)) for number in range(20)]
            await asyncio.sleep(1)
            assert slots.peak == 2
            rate[0] = 100_000_000
            slots.look()
            await asyncio.sleep(1)
            assert slots.peak == 20
            for each in puts:
                each.cancel()
            await asyncio.gather(*puts, return_exceptions=True)

        virtual_time.run(work())

    def test_of_one_slot_has_one_put_and_no_url_ahead(self) -> None:
        async def work() -> None:
            slots, urls = Slots(1, asyncio.get_running_loop().time, rate=lambda: 1), Count()

            async def put(number: int) -> None:
                async with slots.admission(size_bytes=500_000):
                    with urls.inside():
                        async with slots.slot(number):
                            await asyncio.sleep(1000)

            await asyncio.gather(*(put(number) for number in range(3)))
            assert urls.most == 1

        virtual_time.run(work())

    def test_is_part_of_what_a_person_is_to_know(self) -> None:
        async def work() -> None:
            assert Slots(3, rate=lambda: 5).state().rate == 5
            assert Slots(3).state().rate is None

        asyncio.run(work())
