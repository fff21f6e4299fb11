"""Claims come in the plan's order, however long each file is read; one that takes too long is overtaken."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.claim_order import OVERTAKEN_AFTER_S, ClaimOrder, Position


class Played:
    """Files in a plan's order, the clock, and who has claimed."""

    def __init__(self, files: int) -> None:
        self.now = 0.0
        self.order = ClaimOrder(lambda: self.now)
        self.positions = [self.order.enter() for _ in range(files)]
        self.claimed: list[int] = []

    def claim(self, number: int) -> None:
        self.order.claim(self.positions[number], self._note(number))

    def leave(self, number: int) -> None:
        self.order.leave(self.positions[number])

    def read(self, number: int) -> Position:
        self.order.note_read(self.positions[number])
        return self.positions[number]

    def _note(self, number: int) -> Callable[[], None]:
        return lambda: self.claimed.append(number)


class TestClaims:
    def test_wait_for_all_before_them(self) -> None:
        played = Played(3)
        played.claim(2)
        played.claim(1)
        assert played.claimed == []
        played.claim(0)
        assert played.claimed == [0, 1, 2]

    def test_do_not_wait_for_one_that_will_not_claim(self) -> None:
        """It is no image, say; also when it has been passed already."""
        played = Played(3)
        played.claim(2)
        played.leave(0)
        played.leave(1)
        played.leave(1)
        assert played.claimed == [2]

    @given(order=st.permutations(range(8)), leaving=st.sets(st.integers(0, 7)))
    def test_come_in_the_plans_order_whoever_is_read_first(self, order: list[int], leaving: set[int]) -> None:
        played = Played(8)
        for number in order:
            (played.leave if number in leaving else played.claim)(number)
        assert played.claimed == [number for number in range(8) if number not in leaving]

    def test_of_the_same_file_again_are_made_at_once(self) -> None:
        """It was sent in vain, and is read anew."""
        played = Played(2)
        played.claim(0)
        played.claim(0)
        assert played.claimed == [0, 0]

    def test_are_made_once(self) -> None:
        played = Played(1)
        played.claim(0)
        played.leave(0)
        played.order.advance()
        assert played.claimed == [0]


class TestOneThatIsReadForLong:
    @pytest.mark.parametrize("after_s", [OVERTAKEN_AFTER_S - 0.1, OVERTAKEN_AFTER_S + 0.1])
    def test_is_overtaken_after_five_seconds_and_claims_when_it_comes(self, after_s: float) -> None:
        played = Played(3)
        played.read(0)
        played.claim(1)
        played.now += after_s
        played.order.advance()
        overtaken = after_s > OVERTAKEN_AFTER_S
        assert played.claimed == ([1] if overtaken else [])
        played.claim(2)
        played.claim(0)
        assert played.claimed == ([1, 2, 0] if overtaken else [0, 1, 2])

    def test_is_one_that_is_read_not_one_that_waits_for_that(self) -> None:
        """While there is no room in memory, nobody behind it is read either."""
        played = Played(2)
        played.claim(1)
        played.now += 100
        played.order.advance()
        assert played.claimed == []
