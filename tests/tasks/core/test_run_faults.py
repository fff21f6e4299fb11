"""What the faults of all files of a run mean together."""

import pytest

from tasks.core.brake import REFUSALS_IN_A_ROW
from tasks.core.errors import Fault, FaultKind, StoppedError
from tasks.core.retry import Action
from tasks.core.run_faults import RunFaults

REFUSED = Fault(FaultKind.REFUSED, "the object store answered 403", 403)
WRONG = Fault(FaultKind.PRESIGN, "the API's answer is HTML or XML", 200)
UNCERTAIN = Fault(FaultKind.INTEGRITY, "another checksum", 200, is_certain=False)


def record(faults: RunFaults, fault: Fault, times: int) -> None:
    for number in range(times):
        faults.record(fault, f"study 1 file {number}", 0.0)


def test_so_many_refusals_in_a_row_are_the_end_of_the_run() -> None:
    """Of each file that comes to it: no PUT begins any more."""
    faults = RunFaults()
    record(faults, REFUSED, REFUSALS_IN_A_ROW - 1)
    faults.raise_if_over()
    with pytest.raises(StoppedError, match="study 1 file 7") as first:
        faults.record(REFUSED, "study 1 file 7", 0.0)
    with pytest.raises(StoppedError) as again:
        faults.raise_if_over()
    assert first.value is again.value


def test_what_ends_the_run_is_the_first_of_it_whatever_comes_after() -> None:
    faults = RunFaults()
    with pytest.raises(StoppedError) as first:
        record(faults, REFUSED, REFUSALS_IN_A_ROW)
    with pytest.raises(StoppedError) as later:
        faults.record(Fault(FaultKind.EXPIRED, "another", 403), "study 9 file 9", 1.0)
    assert later.value is first.value


def test_a_url_that_is_granted_begins_the_count_of_wrong_answers_anew() -> None:
    faults = RunFaults()
    for now in (0.0, 5.0, 10.0, 15.0):
        faults.record(WRONG, "study 1 file 1", now)
    faults.record_granted()
    faults.record(WRONG, "study 1 file 1", 20.0)
    assert faults.over is None


def test_a_file_that_is_stored_begins_the_count_anew() -> None:
    faults = RunFaults()
    record(faults, REFUSED, REFUSALS_IN_A_ROW - 1)
    faults.record_stored()
    record(faults, REFUSED, REFUSALS_IN_A_ROW - 1)
    assert faults.over is None


def test_what_may_turn_out_to_be_no_fault_does_not_count() -> None:
    faults = RunFaults()
    record(faults, UNCERTAIN, 3 * REFUSALS_IN_A_ROW)
    assert faults.over is None


class TestForbidden:
    def test_before_any_url_was_granted_stops(self) -> None:
        assert RunFaults().action(FaultKind.FORBIDDEN, 1) is Action.STOP

    def test_is_tried_again_where_the_run_was_given_a_key_before(self) -> None:
        assert RunFaults(any_granted=True).action(FaultKind.FORBIDDEN, 1) is Action.NEW_URL

    def test_of_five_files_in_a_row_stops_and_a_url_between_them_does_not(self) -> None:
        faults = RunFaults(any_granted=True)
        for _ in range(4):
            faults.action(FaultKind.FORBIDDEN, 1)
        faults.record_granted()
        actions = [faults.action(FaultKind.FORBIDDEN, 1) for _ in range(5)]
        assert actions == [Action.NEW_URL] * 4 + [Action.STOP]


def test_budgets_are_those_that_were_given() -> None:
    faults = RunFaults({FaultKind.NETWORK: 1})
    assert [faults.action(FaultKind.NETWORK, seen) for seen in (1, 2)] == [Action.RETRY, Action.FAIL]
