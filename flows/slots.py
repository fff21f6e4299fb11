"""The platform's upload slots, shared by shards on many machines: one of Prefect's global concurrency limits.

A shard takes its part once, for as long as it lasts, on a lease that it renews; a killed one's are free again
when its lease is over. A server that is away is asked again for as long as it takes. Slots that were given to
others meanwhile end the shard in order: it is begun again and waits for its turn, so that there are never
more PUTs at once than the platform allows.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from httpx import URL
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from tasks.core.errors import IngestError, InterruptedRunError, StoppedError, UsageError
from tasks.core.words import counted
from tasks.settings import MOST_PARALLEL

log = logging.getLogger("dicom_ingest")

_LEASE_S: Final = 120.0  # an outage of Prefect's server may take so long
_RENEWED_EVERY_S: Final = 20.0
_ASKED_EVERY_S: Final = 3.0
_TOLD_AFTER_S: Final = 60.0
_LOCKED: Final = 423  # all are taken
_GONE: Final = frozenset({404, 410})


def slots_of_platform(api_endpoint: str, wanted: int) -> str:
    """The limit of all uploads into one platform, made when missing. UsageError when it is too small."""
    name = f"dicom-ingest {URL(api_endpoint).host}"
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            new = GlobalConcurrencyLimitCreate(name=name, limit=MOST_PARALLEL)
            try:
                client.create_global_concurrency_limit(new)
            except ObjectAlreadyExists:
                log.info("Another migration made the limit first")
            return name
    if limit.limit < wanted:
        raise UsageError(
            f'The global concurrency limit "{name}" has {counted(limit.limit, "slot")}, and a shard wants '
            f"{wanted}. "
            f'Nothing was sent. Use more --shards, or `prefect gcl update "{name}" --limit {MOST_PARALLEL}`.'
        )
    if limit.active_slots:
        log.warning(
            "%d of %d upload slots are taken. When no other migration is at work, free them: "
            'prefect gcl update "%s" --active-slots 0',
            limit.active_slots,
            limit.limit,
            name,
        )
    return name


@contextmanager
def taken(
    limit: str, slots: int, raise_if_stopped: Callable[[], None], stop: Callable[[IngestError], None]
) -> Iterator[None]:
    """Waits for the slots, and holds them until the block ends. `stop` is told when they were lost."""
    lease_id = _acquired(limit, slots, raise_if_stopped)
    ended = threading.Event()
    holder = threading.Thread(target=_hold, args=(limit, slots, lease_id, ended, stop), daemon=True)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join(_RENEWED_EVERY_S)


def _acquired(limit: str, slots: int, raise_if_stopped: Callable[[], None]) -> UUID:
    began, was_told = time.monotonic(), False
    while (lease_id := _acquire(limit, slots)) is None:
        raise_if_stopped()
        if not was_told and time.monotonic() - began > _TOLD_AFTER_S:
            was_told = True
            log.warning("Waiting for %s of %s", counted(slots, "upload slot"), limit)
        time.sleep(_ASKED_EVERY_S)
    return lease_id


def _acquire(limit: str, slots: int) -> UUID | None:
    """The lease; None when the slots are taken, or the server is away."""
    try:
        with get_client(sync_client=True) as client:
            answer = client.increment_concurrency_slots_with_lease([limit], slots, "concurrency", _LEASE_S)
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status == _LOCKED or status >= 500:
            return None
        raise StoppedError(f"Prefect's server refuses slots of the limit {limit} ({status}).") from None
    except Exception as error:  # noqa: BLE001 - away: asked again
        log.info("Prefect's server gave no answer about slots (%s)", type(error).__name__)
        return None
    lease_id = answer.json().get("lease_id")
    if not lease_id:  # Prefect takes a limit that is not there for no limit at all
        raise StoppedError(f"Prefect's server has no global concurrency limit {limit} any more.")
    return UUID(lease_id)


def _hold(
    limit: str, slots: int, lease_id: UUID, ended: threading.Event, stop: Callable[[IngestError], None]
) -> None:
    while not ended.wait(_RENEWED_EVERY_S):
        if _is_renewed(lease_id):
            continue
        try:
            again = _acquire(limit, slots)
        except StoppedError:
            again = None
        if again is None:
            stop(InterruptedRunError("The shard's upload slots were given to others: it begins again."))
            return
        lease_id = again
    _release(lease_id)


def _is_renewed(lease_id: UUID) -> bool:
    """False when the lease is over; a server that is away may still have it."""
    try:
        with get_client(sync_client=True) as client:
            client.renew_concurrency_lease(lease_id, _LEASE_S)
    except PrefectHTTPStatusError as error:
        return error.response.status_code not in _GONE
    except Exception as error:  # noqa: BLE001
        log.info("Prefect's server did not renew the lease on slots (%s)", type(error).__name__)
    return True


def _release(lease_id: UUID) -> None:
    try:
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease_id)
    except Exception as error:  # noqa: BLE001 - the lease ends by itself
        log.info("Prefect's server did not take the slots back (%s)", type(error).__name__)
