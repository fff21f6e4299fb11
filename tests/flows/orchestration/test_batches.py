"""Batches of a run that is paused."""

import threading

import pytest

from flows.orchestration.batches import upload_batches
from tasks.core.errors import StoppedError
from tests.conftest import Dicom, NearSide


def test_a_stop_ends_the_pause(near_side: NearSide, dicom: Dicom) -> None:
    """A ledger that can't be written, say: nobody has to resume a run before it can end."""
    near_side.put("study/a", dicom("1.1"))
    engine = near_side.engine()
    engine.stop(StoppedError("The disk is full."))
    with pytest.raises(StoppedError, match="full"), engine.draining():
        upload_batches(engine, iter([1]), threading.Event())
    assert near_side.finished(engine).exit_code == 3
