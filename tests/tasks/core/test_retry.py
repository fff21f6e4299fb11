"""Retry or not: the truth table of `decide`, and how long is waited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import REASONS, Fault, FaultKind
from tasks.core.retry import BUDGETS, FORBIDDEN_IN_A_ROW, Action, backoff_s, decide

kinds = st.sampled_from(FaultKind)
TRANSIENT = (FaultKind.NETWORK, FaultKind.SERVER, FaultKind.THROTTLED)


def decided(kind: FaultKind, seen: int) -> Action:
    """In a run that was given a URL, and has not been refused since."""
    return decide(kind, seen, any_granted=True, forbidden_in_a_row=0)


class TestDecide:
    """The truth table of `decide`, line by line."""

    @pytest.mark.parametrize(
        ("kind", "survived", "action"),
        [
            (FaultKind.NETWORK, 8, Action.RETRY),
            (FaultKind.SERVER, 8, Action.RETRY),
            (FaultKind.THROTTLED, 10, Action.RETRY),
            (FaultKind.INTEGRITY, 3, Action.RETRY),
            (FaultKind.CHANGED, 3, Action.RETRY),
            (FaultKind.PRESIGN, 4, Action.NEW_URL),
            (FaultKind.EXPIRED, 3, Action.NEW_URL),
            (FaultKind.REFUSED, 1, Action.NEW_URL),
            (FaultKind.REJECTED, 0, Action.FAIL),
        ],
    )
    def test_a_file_survives_so_many_and_no_more(
        self, kind: FaultKind, survived: int, action: Action
    ) -> None:
        """The first, the last that is survived, and the one that is too many."""
        assert {decided(kind, seen) for seen in range(1, survived + 1)} in ({action}, set())
        assert decided(kind, survived + 1) is decided(kind, 1000) is Action.FAIL

    @pytest.mark.parametrize(
        ("seen", "any_granted", "in_a_row", "action"),
        [
            (1, False, 1, Action.STOP),
            (3, False, 3, Action.STOP),
            (1, True, FORBIDDEN_IN_A_ROW, Action.STOP),
            (3, True, FORBIDDEN_IN_A_ROW + 1, Action.STOP),
            (1, True, 1, Action.NEW_URL),
            (2, True, FORBIDDEN_IN_A_ROW - 1, Action.NEW_URL),
            (3, True, 3, Action.FAIL),
        ],
    )
    def test_forbidden_depends_on_what_was_granted(
        self, seen: int, any_granted: bool, in_a_row: int, action: Action
    ) -> None:
        """Stops at once when nothing was ever granted, after several in a row, and else costs its file."""
        found = decide(FaultKind.FORBIDDEN, seen, any_granted=any_granted, forbidden_in_a_row=in_a_row)
        assert found is action

    @pytest.mark.parametrize("kind", [FaultKind.UNAUTHORIZED, FaultKind.SETTINGS, FaultKind.KEY_REUSED])
    @pytest.mark.parametrize("any_granted", [True, False])
    def test_stops_when_no_file_can_do_better(self, kind: FaultKind, any_granted: bool) -> None:
        """Whatever else happened before."""
        assert decide(kind, 1, any_granted=any_granted, forbidden_in_a_row=0) is Action.STOP

    @pytest.mark.parametrize("kind", BUDGETS)
    def test_goes_by_the_budget_that_is_given(self, kind: FaultKind) -> None:
        """A budget of none is none; one kind's says nothing of another's."""
        none = dict.fromkeys(BUDGETS, 100) | {kind: 0}
        found = {
            other: decide(other, 100, any_granted=True, forbidden_in_a_row=0, budgets=none)
            for other in BUDGETS
        }
        assert [other for other, action in found.items() if action is Action.FAIL] == [kind]

    @given(kinds, st.integers(1, 100), st.booleans(), st.integers(0, 10))
    def test_never_goes_back_on_giving_up(
        self, kind: FaultKind, seen: int, any_granted: bool, in_a_row: int
    ) -> None:
        """What failed a file, or stopped the run, does so with one fault more too."""
        now = decide(kind, seen, any_granted=any_granted, forbidden_in_a_row=in_a_row)
        more = decide(kind, seen + 1, any_granted=any_granted, forbidden_in_a_row=in_a_row)
        assert now not in (Action.FAIL, Action.STOP) or more is now

    def test_has_a_word_for_the_report_for_each_kind(self) -> None:
        """A kind without one could not be told."""
        assert set(REASONS) == set(FaultKind)


class TestBackoff:
    @given(kinds, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.floats(0, 100))
    def test_is_bounded_and_never_shorter_than_the_server_asks(
        self, kind: FaultKind, seen: int, jitter: float, retry_after_s: float
    ) -> None:
        """Full jitter draws from nothing up to a bound that doubles and is capped."""
        waited = backoff_s(Fault(kind, "what", retry_after_s=retry_after_s), seen, jitter)
        assert retry_after_s <= waited <= max(retry_after_s, 30.0)

    def test_doubles_its_bound_up_to_a_cap(self) -> None:
        """The longest draw of each, in seconds."""
        fault = Fault(FaultKind.NETWORK, "what")
        assert [backoff_s(fault, seen, 1.0) for seen in range(1, 11)] == [
            0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30
        ]  # fmt: skip

    @pytest.mark.parametrize("kind", TRANSIENT)
    def test_of_a_whole_budget_outlasts_a_restart(self, kind: FaultKind) -> None:
        """A file that meets nothing but faults waits for half a minute on average before it fails."""
        fault = Fault(kind, "what")
        assert sum(backoff_s(fault, seen, 0.5) for seen in range(1, BUDGETS[kind] + 1)) > 30
