"""The upload slots of a run: leased at a standing Prefect server, which other runs share."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger

from flows.shards.slot_lease import LeaseHolder, Wait, free_slots, is_standing_server
from tasks.run.engine import Engine


@contextmanager
def hold_free_slots(engine: Engine) -> Iterator[None]:
    """At a standing Prefect server: as many upload slots as are free there, which is what the run uses."""
    if not is_standing_server():
        yield
        return
    wanted = engine.settings.parallel
    with free_slots(engine.settings.api_endpoint, wanted, lease_holder(engine)) as slots:
        engine.limit_parallel(slots)
        if slots < wanted:
            get_run_logger().warning(
                "%d upload slots of %d that were asked for: other runs have the others", slots, wanted
            )
        yield


def lease_holder(engine: Engine) -> LeaseHolder:
    """The run as a holder of slots: in its progress and its log it says what it waits for."""
    log = get_run_logger()

    def announce(wait: Wait | None) -> None:
        engine.progress.waiting_for = wait.reason if wait else ""
        if wait:
            log.warning("%s", wait)

    return LeaseHolder(
        engine.raise_if_stopped, engine.stop, announce, engine.permit_puts, engine.settings.max_outage
    )
