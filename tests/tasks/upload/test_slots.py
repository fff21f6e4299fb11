"""The slots: never more PUTs than permitted, URLs just in time, and nobody left waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tasks.core.errors import Fault, FaultKind, InterruptedRunError
from tasks.core.platform_state import PlatformState, Step
from tasks.upload.slots import Slots


@contextmanager
def threads(count: int, work: Callable[[int], object]) -> Iterator[list[threading.Thread]]:
    """So many at work; all of them have ended afterwards."""
    running = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
    for thread in running:
        thread.start()
    yield running
    for thread in running:
        thread.join(5)
    assert not any(thread.is_alive() for thread in running)


class Count:
    """How many are inside, and the most there were."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self.now = 0
        self.most = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self._lock.notify_all()
        yield
        with self._lock:
            self.now -= 1

    def reaches(self, number: int) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: self.most >= number, 5)


def upload(slots: Slots, file_id: int, put: Callable[[], object], mint: Callable[[], object] = int) -> None:
    with slots.place():
        with slots.minting(file_id):
            mint()
        with slots.slot(file_id):
            put()


class TestSlots:
    @pytest.mark.parametrize("parallel", [1, 3, 20])
    def test_are_all_used_and_no_more(self, parallel: int) -> None:
        """Each PUT holds on until as many as may be are inside."""
        slots, puts = Slots(parallel), Count()

        def put() -> None:
            with puts.inside():
                assert puts.reaches(parallel)
                time.sleep(0.001)

        with threads(3 * parallel, lambda n: upload(slots, n, put)):
            pass
        assert puts.most == slots.peak == parallel

    def test_are_given_back_by_what_fails(self) -> None:
        """Whatever is raised inside."""
        slots = Slots(1)

        def broken() -> None:
            raise Fault(FaultKind.REJECTED, "what")

        for file_id in range(5):
            with pytest.raises(Fault):
                upload(slots, file_id, broken)
            with pytest.raises(Fault):
                upload(slots, file_id, int, broken)
        upload(slots, 9, int)

    def test_hold_few_urls_ahead_while_puts_are_slow(self) -> None:
        """URLs are minted when a slot is about to be free, not when a worker is idle."""
        slots, places, puts = Slots(4), Count(), Count()
        release = threading.Event()

        def work(file_id: int) -> None:
            with slots.place(), places.inside():
                with slots.minting(file_id):
                    pass
                with slots.slot(file_id), puts.inside():
                    release.wait(5)

        with threads(30, work):
            assert puts.reaches(4)
            time.sleep(0.05)
            assert 4 < places.most <= 8
            release.set()

    def test_have_a_url_ready_each_when_presigning_is_as_slow_as_a_put(self) -> None:
        """So that no slot waits for its URL: while all PUTs last, as many URLs more are minted."""
        now_s = 0.0

        def takes_a_second() -> None:
            nonlocal now_s
            now_s += 1

        slots, urls, puts = Slots(5, clock=lambda: now_s), Count(), Count()
        upload(slots, 0, takes_a_second, takes_a_second)
        release = threading.Event()

        def work(file_id: int) -> None:
            with slots.place(), urls.inside(), slots.slot(file_id), puts.inside():
                release.wait(5)

        with threads(15, work):
            assert puts.reaches(5)
            assert urls.reaches(10)
            release.set()

    def test_let_nobody_in_once_closed(self) -> None:
        """Neither who comes nor who waits, for a place or for a slot; who is inside may finish."""
        slots, puts, refused = Slots(2), Count(), Count()
        release = threading.Event()

        def put() -> None:
            with puts.inside():
                release.wait(5)

        def work(file_id: int) -> None:
            try:
                upload(slots, file_id, put)
            except InterruptedRunError:
                with refused.inside():
                    refused.reaches(8)

        with threads(10, work):
            assert puts.reaches(2)
            slots.close()
            assert refused.reaches(8)
            release.set()
        with pytest.raises(InterruptedRunError):
            upload(slots, 99, int)
        assert puts.most == 2


class TestThrottling:
    def throttled(self) -> None:
        raise Fault(FaultKind.THROTTLED, "SlowDown", 503)

    def test_halves_the_slots_in_use_and_success_gives_them_back(self) -> None:
        """One at a time, never above what is permitted; the course is told."""
        now = [0.0]
        slots = Slots(8, clock=lambda: now[0])
        with pytest.raises(Fault):
            upload(slots, 1, self.throttled)
        for file_id in range(100):
            upload(slots, file_id, int)
        assert [limit for _, limit in slots.course] == [8, 4, 5, 6, 7, 8]

    def test_counts_a_burst_once(self) -> None:
        """Twenty refusals at the same moment are one reason; later ones halve again, down to one slot."""
        now = [0.0]
        slots = Slots(8, clock=lambda: now[0])
        for second in range(6):
            now[0] = 10.0 * second
            for file_id in range(3):
                with pytest.raises(Fault):
                    upload(slots, file_id, self.throttled)
            upload(slots, 9, int)
        assert [limit for _, limit in slots.course][:4] == [8, 4, 2, 1]
        assert min(limit for _, limit in slots.course) == 1


class TestOutage:
    """Everything fails: after a while only one at a time may try."""

    def fail(self) -> None:
        raise Fault(FaultKind.SERVER, "502", 502)

    def test_lets_one_probe_through_now_and_then_until_one_works(self) -> None:
        """By the clock that is given; a success opens the way for all."""
        slots, tries = Slots(5), Count()
        works = threading.Event()

        def put() -> None:
            with tries.inside():
                if not works.is_set():
                    self.fail()

        def work(file_id: int) -> None:
            while True:
                try:
                    upload(slots, file_id, put)
                except Fault:
                    continue
                return

        with threads(15, work):
            deadline = time.monotonic() + 3
            while not slots.outage_s and time.monotonic() < deadline:
                time.sleep(0.005)
            assert slots.outage_s
            works.set()
        assert slots.outage_s == 0

    def test_of_one_file_alone_is_the_files_own(self) -> None:
        """It may be that file: others are not held up."""
        slots = Slots(2)
        for _ in range(50):
            with pytest.raises(Fault):
                upload(slots, 1, self.fail)
        assert slots.outage_s == 0
        upload(slots, 2, int)

    def test_ends_for_those_who_wait_when_the_run_stops(self) -> None:
        """Nobody waits for a probe that will not come."""
        slots, refused = Slots(2), Count()

        def work(file_id: int) -> None:
            try:
                while True:
                    with pytest.raises(Fault):
                        upload(slots, file_id, self.fail)
            except InterruptedRunError:
                with refused.inside():
                    pass

        with threads(6, work):
            while not slots.outage_s:
                time.sleep(0.005)
            slots.close()


class TestState:
    """What a person is told of the platform."""

    def fail(self, slots: Slots, file_id: int, status: int = 503, retry_after_s: float = 0.0) -> None:
        def put() -> None:
            raise Fault(FaultKind.THROTTLED, "scripted", status, retry_after_s)

        with pytest.raises(Fault):
            upload(slots, file_id, put)

    def test_has_the_slots_in_use(self) -> None:
        slots = Slots(3)
        seen: list[PlatformState] = []
        upload(slots, 1, lambda: seen.append(slots.state()), lambda: seen.append(slots.state()))
        minting, putting = seen
        assert (minting.slots_in_use, putting.slots_in_use, putting.slots) == (0, 1, 3)
        assert (putting.failing, putting.throttled_since) == (None, None)

    def test_says_since_when_it_is_down_and_when_the_next_try_is(self) -> None:
        """Since the first fault, not since it was enough of them; a Retry-After that is later counts."""
        now = [10.0]
        slots = Slots(2, clock=lambda: now[0])
        for file_id in range(5):
            self.fail(slots, file_id, retry_after_s=30 if file_id == 4 else 0)
            now[0] += 1
        state = slots.state()
        assert (state.failing, state.is_down, state.failing_since) == (Step.PUT, True, 10)
        assert (state.next_try_at, state.http_status, state.processes_failing) == (44, 503, 1)

    def test_says_when_the_next_file_is_tried_where_all_of_them_pause(self) -> None:
        """Of few files the breaker never opens: one fault is told while nothing is under way."""
        slots = Slots(2, clock=lambda: 10.0)
        self.fail(slots, 1, status=500)
        with slots.pausing(1, 8), slots.pausing(2, 5):
            state = slots.state()
            assert (state.failing, state.is_down, state.failing_since) == (Step.PUT, False, 10)
            assert (state.next_try_at, state.http_status) == (15, 500)
            with slots.place():
                assert slots.state().failing is None, "others go on"
        upload(slots, 1, int)
        assert slots.state().failing is None

    def test_says_no_next_try_for_which_there_is_no_file(self) -> None:
        """One may be tried in a second, but all that are left pause for longer, or for less."""
        slots = Slots(2, clock=lambda: 10.0)
        for file_id in range(5):
            self.fail(slots, file_id)
        assert slots.state().next_try_at == 11
        with slots.pausing(1, 8):
            assert slots.state().next_try_at == 18
        with slots.pausing(1, 0.5):
            assert slots.state().next_try_at == 11

    def test_tells_three_faults_in_a_row_while_others_are_under_way(self) -> None:
        slots = Slots(2)
        for file_id in range(3):
            self.fail(slots, file_id)
        with slots.place():
            state = slots.state()
        assert (state.failing, state.is_down, state.next_try_at) == (Step.PUT, False, None)

    def test_says_how_many_slots_throttling_has_taken_and_since_when(self) -> None:
        slots = Slots(8, clock=lambda: 10.0)
        self.fail(slots, 1, status=429)
        state = slots.state()
        assert (state.slots, state.slots_withheld, state.throttled_since) == (8, 4, 10)

    def test_tells_of_no_next_try_once_the_run_is_stopping(self) -> None:
        slots = Slots(2)
        for file_id in range(5):
            self.fail(slots, file_id)
        slots.close()
        assert (slots.state().failing, slots.state().is_down) == (None, False)

    def test_of_a_process_that_has_passed_its_slots_on_is_nothing(self) -> None:
        """What it knew before is old."""
        slots = Slots(2)
        for file_id in range(5):
            self.fail(slots, file_id)
        assert slots.state().is_down
        slots.resize(0)
        assert slots.state() == PlatformState(processes=0)
