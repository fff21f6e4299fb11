"""Whether anybody waits for a run: a schedule, or an automation, starts the next one by itself."""

import logging
from typing import Final

from prefect.runtime import flow_run

from flows.orchestration.api_client import Connect, connect
from tasks.run.engine import Engine

log = logging.getLogger("dicom_ingest")

_TAG: Final = "auto-scheduled"  # which Prefect's scheduler gives a run
_MACHINES: Final = frozenset({"SCHEDULE", "AUTOMATION"})


def end_with_window_when_scheduled(engine: Engine) -> None:
    """Has a scheduled run end in order where --window closes; one that a person began waits."""
    if engine.settings.window and is_scheduled():
        engine.starts.end_with_window()


def is_scheduled(connect: Connect = connect) -> bool:
    """Whether a schedule or an automation began this run, or the one that it is a part of.

    A person who gives a run the tag `auto-scheduled` has it behave as one. Where Prefect's server does not
    say it, a person has begun it.
    """
    try:
        with connect() as client:
            run = client.read_flow_run(flow_run.root_flow_run_id or flow_run.id)
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect's server did not say who began the run (%s)", type(error).__name__)
        return _TAG in flow_run.tags
    by_machine = run.created_by is not None and run.created_by.type in _MACHINES
    return run.auto_scheduled or _TAG in run.tags or by_machine
