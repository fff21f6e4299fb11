"""How many uploads may be under way: by what presigning and PUTs take, by throttling, by outages."""

from tasks.core.errors import Fault, FaultKind
from tasks.core.pacing import Pacing
from tasks.core.platform_state import Step

SERVER = Fault(FaultKind.SERVER, "502", 502)
THROTTLED = Fault(FaultKind.THROTTLED, "503", 503)


def admitted(pacing: Pacing, now: float = 0.0) -> int:
    """How many may be at once."""
    return next(count for count in range(10_000) if not pacing.admits(count, now))


def timed(presign_s: float, put_s: float, parallel: int = 20) -> Pacing:
    """One that has seen these times."""
    pacing = Pacing(parallel, 0.0, 0.0)
    for _ in range(100):
        pacing.record_success(Step.PRESIGN, presign_s, 0.0)
        pacing.record_success(Step.PUT, put_s, 0.0)
    return pacing


def down(parallel: int = 5) -> Pacing:
    pacing = Pacing(parallel, 0.0, 0.0)
    for file_id in range(5):
        pacing.record_fault(Step.PUT, SERVER, file_id, 10.0)
    return pacing


class TestUrlsAhead:
    def test_are_as_many_as_are_asked_for_while_a_slot_falls_free(self) -> None:
        """Presign time x slots / PUT time, and one more."""
        assert admitted(timed(presign_s=0.1, put_s=1.0)) == 20 + 3

    def test_is_one_where_nothing_is_known(self) -> None:
        assert admitted(Pacing(20, 0.0, 0.0)) == 21

    def test_wait_for_one_put_at_most_where_puts_take_long(self) -> None:
        """However long presigning takes: a URL ages while it waits."""
        assert admitted(timed(presign_s=60.0, put_s=1.0)) == 40

    def test_wait_a_tenth_of_a_second_at_most_where_puts_take_less(self) -> None:
        assert admitted(timed(presign_s=60.0, put_s=0.01)) == 20 + 200


class TestThrottling:
    def test_halves_the_limit_and_says_that_it_changed(self) -> None:
        pacing = Pacing(8, 3.0, 1.0)
        assert pacing.record_fault(Step.PUT, THROTTLED, 1, 5.0)
        assert (pacing.limit, pacing.most) == (4, 8)
        assert pacing.course == [(2.0, 8), (4.0, 4)]

    def test_that_changes_nothing_is_no_news(self) -> None:
        assert not Pacing(1, 0.0, 0.0).record_fault(Step.PUT, THROTTLED, 1, 5.0)
        assert not Pacing(8, 0.0, 0.0).record_success(Step.PUT, 1.0, 1.0)

    def test_is_kept_for_so_many_changes(self) -> None:
        pacing = Pacing(8, 0.0, 0.0)
        for number in range(2000):
            pacing.record_fault(Step.PUT, THROTTLED, 1, 100.0 * number)
            for _ in range(200):
                pacing.record_success(Step.PUT, 0.1, 100.0 * number + 1)
        assert len(pacing.course) == 200


class TestOutage:
    def test_admits_nobody_until_a_probe_is_due_and_then_one(self) -> None:
        pacing = down()
        assert pacing.is_down
        assert admitted(pacing, 10.0) == 0
        assert pacing.wait_s(10.5) == 0.5
        assert pacing.admits(0, 11.0)
        assert pacing.begin()
        assert not pacing.admits(0, 11.0)

    def test_is_over_for_all_once_a_probe_gets_through(self) -> None:
        pacing = down()
        pacing.begin()
        assert pacing.record_success(Step.PUT, 1.0, 11.0)
        pacing.end_probe(11.0)
        assert (pacing.is_down, admitted(pacing, 11.0)) == (False, 6)
        assert not pacing.begin()

    def test_of_the_api_does_not_end_with_a_put_that_works(self) -> None:
        pacing = Pacing(5, 0.0, 0.0)
        for file_id in range(5):
            pacing.record_fault(Step.PRESIGN, SERVER, file_id, 10.0)
        assert not pacing.record_success(Step.PUT, 1.0, 11.0)
        assert pacing.is_down


class TestState:
    def test_says_from_the_third_fault_in_a_row_on_that_a_step_fails(self) -> None:
        """While others are under way, one fault is nothing to be told of."""
        pacing = Pacing(20, 0.0, 0.0)
        seen = []
        for file_id in range(3):
            pacing.record_fault(Step.PUT, SERVER, file_id, 10.0 + file_id)
            seen.append(pacing.state(4, 5, None, is_awaited=False).failing)
        assert seen == [None, None, Step.PUT]
        state = pacing.state(4, 5, None, is_awaited=False)
        assert (state.slots, state.slots_in_use, state.failing_since) == (20, 4, 10.0)
        assert (state.http_status, state.is_down, state.next_try_at) == (502, False, None)

    def test_says_when_the_next_try_is_where_all_files_pause(self) -> None:
        pacing = Pacing(20, 0.0, 0.0)
        pacing.record_fault(Step.PUT, SERVER, 1, 10.0)
        assert pacing.state(0, 0, 17.0, is_awaited=False).next_try_at == 17.0

    def test_says_when_the_next_probe_is(self) -> None:
        """Not before a file is there that makes it."""
        assert down().state(0, 0, None, is_awaited=True).next_try_at == 11.0
        assert down().state(0, 0, 12.0, is_awaited=False).next_try_at == 12.0
        assert down().state(0, 0, 12.0, is_awaited=True).next_try_at == 11.0
