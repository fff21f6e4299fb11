"""When answers that nothing mends stop a run: the table of `Brake`, line by line."""

import pytest

from tasks.core.brake import (
    LATER_PATIENCE_S,
    PATIENCE_S,
    REFUSALS_IN_A_ROW,
    WRONG_ANSWERS_IN_A_ROW,
    Brake,
)
from tasks.core.errors import FaultKind

REFUSALS = [FaultKind.REFUSED, FaultKind.REJECTED, FaultKind.INTEGRITY, FaultKind.EXPIRED]


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_stop_when_none_is_stored_between_so_many(kind: FaultKind) -> None:
    brake = Brake()
    assert not any(brake.record_fault(kind, 0) for _ in range(REFUSALS_IN_A_ROW - 1))
    brake.record_stored()
    assert not any(brake.record_fault(kind, 0) for _ in range(REFUSALS_IN_A_ROW - 1))
    assert brake.record_fault(kind, 0)


@pytest.mark.parametrize("kind", sorted({*FaultKind} - {*REFUSALS, FaultKind.PRESIGN}))
def test_nothing_else_stops(kind: FaultKind) -> None:
    """It has rules of its own."""
    brake = Brake()
    assert not any(brake.record_fault(kind, 1000.0 * n) for n in range(1000))


@pytest.mark.parametrize("any_stored", [False, True])
def test_wrong_shapes_stop_after_the_patience(any_stored: bool) -> None:
    """Which is longer with an API that worked."""
    brake, patience_s = Brake(), LATER_PATIENCE_S if any_stored else PATIENCE_S
    if any_stored:
        brake.record_stored()
    assert not any(brake.record_fault(FaultKind.PRESIGN, 100) for _ in range(100))
    assert not brake.record_fault(FaultKind.PRESIGN, 100 + patience_s - 0.1)
    assert brake.record_fault(FaultKind.PRESIGN, 100 + patience_s)


def test_wrong_shapes_are_counted_anew_after_a_url_and_after_no_answer() -> None:
    """A few of them stop nothing, however long ago the first was."""
    for forgets in (Brake.record_granted, lambda brake: brake.record_fault(FaultKind.NETWORK, 0)):
        brake = Brake()
        brake.record_fault(FaultKind.PRESIGN, 0)
        forgets(brake)
        found = [brake.record_fault(FaultKind.PRESIGN, 1000) for _ in range(WRONG_ANSWERS_IN_A_ROW)]
        assert not any(found)
        assert not Brake().record_fault(FaultKind.PRESIGN, 1000)
