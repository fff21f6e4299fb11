"""The event `dicom.study.registered`: one for each study that has arrived, confirmed before that is kept.

    resource  dicom-ingest.campaign.<name>.registered-study.<number>, named by the study's label
    payload   campaign, study (its number in the ledger), label, instances, completion (from 1)

A number, counts and the operator's opaque label: no UID. Whoever is killed between the event and the ledger's
note of it emits it once more under the same id, by which Prefect's server knows it again.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.runtime import flow_run

from flows.orchestration.background import running_beside
from tasks.core.errors import IngestError
from tasks.ledger.registered_studies import Completion, RegisteredStudies

log = logging.getLogger("dicom_ingest")

EVENT: Final = "dicom.study.registered"
_LOOK_EVERY_S: Final = 60.0
_SHARE: Final = 20  # looks take a twentieth of the time at most: each goes through all that is registered


@contextmanager
def announcing(studies: RegisteredStudies, campaign: str) -> Iterator[None]:
    """Announces what arrives while the block lasts, and once more when it has ended."""
    with running_beside(partial(_look_now_and_then, studies, campaign), "arrivals"):
        yield
    announce(studies, campaign)


def announce(studies: RegisteredStudies, campaign: str) -> int:
    """Announces what has arrived; of how many studies Prefect has taken the event. The others are left.

    A server that takes no events costs them, never the run: the next look tries again.
    """
    taken = 0
    try:
        for completion in _emitted(studies.completions(), campaign):
            studies.mark_announced(completion)
            taken += 1
    except IngestError as error:  # the ledger's
        log.info("Studies that have arrived are announced later: %s", error)
    except Exception as error:  # noqa: BLE001 - bookkeeping; its text may quote a request
        log.info("Prefect took no event of a registered study yet (%s)", type(error).__name__)
    return taken


def _look_now_and_then(studies: RegisteredStudies, campaign: str, ended: threading.Event) -> None:
    pause_s = _LOOK_EVERY_S
    while not ended.wait(pause_s):
        began = time.monotonic()
        announce(studies, campaign)
        pause_s = max(_LOOK_EVERY_S, _SHARE * (time.monotonic() - began))


def _emitted(completions: Sequence[Completion], campaign: str) -> Iterator[Completion]:
    """Each once its event is confirmed. A connection is made for all, and for none when there are none."""
    if not completions:
        return
    with asyncio.Runner() as runner, _connected(runner) as emit:
        for completion in completions:
            emit(_event(completion, campaign))
            yield completion


@contextmanager
def _connected(runner: asyncio.Runner) -> Iterator[Callable[[Event], None]]:
    client: Any = get_events_client(checkpoint_every=1)  # each is confirmed by itself
    runner.run(client.__aenter__())
    try:
        yield lambda event: runner.run(client.emit(event))
    finally:
        runner.run(client.__aexit__(None, None, None))


def _event(completion: Completion, campaign: str) -> Event:
    study = f"dicom-ingest.campaign.{campaign}.registered-study.{completion.study_no}"
    name = completion.label or f"registered study {completion.study_no}"
    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    return Event.model_validate(
        {
            "id": UUID(completion.event_id),
            "event": EVENT,
            "resource": {"prefect.resource.id": study, "prefect.resource.name": name},
            "related": [run] if flow_run.id else [],
            "payload": {
                "campaign": campaign,
                "study": completion.study_no,
                "label": completion.label,
                "instances": completion.instances,
                "completion": completion.completion,
            },
        }
    )
