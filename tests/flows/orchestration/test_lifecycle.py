"""How a flow ends: in a state that says why, and in a log that a person can read."""

import logging

import pytest
from prefect.states import Completed

from flows.orchestration.lifecycle import final_state
from tasks.core.errors import StoppedError


@pytest.mark.parametrize("name", ["prefect.engine", "prefect.flow_runs"])
def test_an_error_of_ours_has_no_traceback_in_the_log(name: str) -> None:
    """Prefect would write one below the sentence that says all; a defect keeps its own."""
    final_state(lambda: Completed(message="done"))
    log = logging.getLogger(name)

    def is_logged(error: Exception | None) -> bool:
        cause = (type(error), error, None) if error else None
        return bool(log.filter(log.makeRecord(name, logging.ERROR, "", 0, "ended", (), cause)))

    assert not is_logged(StoppedError("The disk is full."))
    assert is_logged(ValueError("a defect"))
    assert is_logged(None)
