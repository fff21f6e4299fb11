"""The platform's upload slots, shared by all runs at one standing Prefect server: a global concurrency limit.

A backfill leases what is free, a shard its fixed part, once and for as long as it lasts, and renews the
lease; a killed holder's slots are free again when its lease is over. A server that does not answer is asked
again. Once the lease may be over no PUT begins, until it was renewed or taken anew; a server that is away for
longer than --max-outage from then on ends the run. Slots that were given to others meanwhile end it, too, so
that there are never more PUTs at once than the platform allows. A run with a Prefect server of its own shares
with nobody.
"""

import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from uuid import UUID

from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from flows.orchestration.api_client import Connect, connect
from flows.orchestration.prefect_api import has_own_server
from tasks.core.errors import IngestError, InterruptedRunError, StoppedError, UsageError
from tasks.core.words import counted
from tasks.setting_values import host_of
from tasks.settings import MOST_PARALLEL, RunSettings

log = logging.getLogger("dicom_ingest")

_AWAY: Final = "upload slots: Prefect's server does not answer"
_LOCKED: Final = 423  # others have all
_TOO_MANY: Final = 422  # more than the limit has
_GONE: Final = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Wait:
    """What a run waits for, and what a person may do about it. Its text is for a log."""

    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return f"Waiting for {self.reason}. {self.advice}".rstrip()


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The run that slots are for: why it stops while it waits, what stops it, and where it says so."""

    raise_if_stopped: Callable[[], None]
    stop: Callable[[IngestError], None]
    announce: Callable[[Wait | None], None]  # None when it waits no more
    permit: Callable[[bool], None] = lambda _may_begin: None  # whether a PUT may begin from now on
    max_outage_s: float = RunSettings.max_outage  # without slots, because Prefect's server is away


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEdges:
    """Prefect's server, the clocks, and how long each wait lasts, in seconds."""

    connect: Connect = connect
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    lease_s: float = 120.0  # an outage of Prefect's server may last so long; it grants 60 at the least
    renewed_every_s: float = 20.0
    retried_every_s: float = 2.0  # a renewal: before others get what a server gives back at its start
    asked_every_s: float = 3.0
    announced_after_s: float = 3.0
    released_within_s: float = 20.0  # the lease ends by itself
    looked_at_every_s: float = 1.0  # whether it is over: also while a request to the server hangs


_EDGES: Final = LeaseEdges()


def is_standing_server() -> bool:
    """Whether this run is at a Prefect server that other runs may be at, too."""
    return bool(PREFECT_API_URL.value()) and not has_own_server()


def limit_name(api_endpoint: str) -> str:
    """The limit of all uploads into one platform, by the API's host and port."""
    return f"dicom-ingest {host_of(api_endpoint)}"


def slots_of_platform(api_endpoint: str, wanted: int, edges: LeaseEdges = _EDGES) -> str:
    """The limit's name; it is made when missing. UsageError when it has fewer slots than a shard wants."""
    name = limit_name(api_endpoint)
    limit = _read_or_make(name, edges)
    if limit is None:
        return name
    if limit.limit < wanted:
        raise UsageError(
            f'The global concurrency limit "{name}" has {counted(limit.limit, "slot")}, and a shard wants '
            f"{wanted}. "
            f'Nothing was sent. Use more --shards, or `prefect gcl update "{name}" --limit {MOST_PARALLEL}`.'
        )
    if limit.active_slots:
        log.warning(
            "%d of %d upload slots are taken. %s", limit.active_slots, limit.limit, _how_to_free(name)
        )
    return name


@contextmanager
def hold_fixed_slots(
    limit: str, slots: int, holder: LeaseHolder, edges: LeaseEdges = _EDGES
) -> Iterator[None]:
    """Waits for so many slots, and holds them until the block ends; stops the holder when they are lost."""
    lease = _wait(lambda: _acquire(limit, slots, edges), holder, edges)
    with _held(lease, holder):
        yield


@contextmanager
def free_slots(
    api_endpoint: str, most: int, holder: LeaseHolder, edges: LeaseEdges = _EDGES
) -> Iterator[int]:
    """Leases the slots that are free, `most` at most, and holds them until the block ends: how many.

    Waits while none is. The limit is made when missing.
    """
    lease = _wait(lambda: _acquire_free(limit_name(api_endpoint), most, edges), holder, edges)
    with _held(lease, holder):
        yield lease.slots


class _Renewal(StrEnum):
    """What became of a lease."""

    RENEWED = "renewed"
    AWAY = "away"  # no answer: the server may still have it
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Moment:
    """By both clocks: the monotonic one stands still while a machine sleeps, the other one can be set."""

    monotonic_s: float
    wall_s: float

    @classmethod
    def now(cls, edges: LeaseEdges) -> Self:
        """By the clocks of these edges."""
        return cls(edges.monotonic(), edges.wall())

    def elapsed_s(self, edges: LeaseEdges) -> float:
        """How long ago at the most; endless when the clock was set back."""
        by_wall = edges.wall() - self.wall_s
        return max(edges.monotonic() - self.monotonic_s, by_wall) if by_wall >= 0 else math.inf


@dataclass(slots=True)
class Lease:
    """Slots of a limit, held for `lease_s` after `renewed_at` at the least."""

    limit: str
    slots: int
    lease_id: UUID
    renewed_at: Moment
    edges: LeaseEdges

    @property
    def was_forgotten(self) -> bool:
        """Of one that is gone: it was not over yet, so the server lost it and still counts its slots."""
        return self.renewed_at.elapsed_s(self.edges) < self.edges.lease_s

    @property
    def is_over(self) -> bool:
        """Whether it may be, before it is looked at again: its slots may be others' from then on."""
        left_s = self.edges.lease_s - self.renewed_at.elapsed_s(self.edges)
        return left_s <= self.edges.looked_at_every_s


def _wait(acquire: Callable[[], Lease | Wait], holder: LeaseHolder, edges: LeaseEdges) -> Lease:
    """Asks until there is a lease, and says what is waited for when that lasts for more than a moment."""
    began, announced = edges.monotonic(), None
    try:
        while isinstance(answer := acquire(), Wait):
            holder.raise_if_stopped()
            if answer != announced and edges.monotonic() - began >= edges.announced_after_s:
                announced = answer
                holder.announce(announced)
            edges.sleep(edges.asked_every_s)
    finally:
        if announced:
            holder.announce(None)
    return answer


def _acquire_free(limit: str, most: int, edges: LeaseEdges) -> Lease | Wait:
    """A lease on what is free now, or what is waited for."""
    try:
        wanted = min(most, _free(limit, edges))
        while wanted > 0:
            answer = _acquire(limit, wanted, edges, in_use=(_LOCKED, _TOO_MANY))
            if isinstance(answer, Lease):
                return answer
            wanted = min(wanted - 1, _free(limit, edges))  # others were quicker
    except IngestError:
        raise
    except Exception as error:  # noqa: BLE001 - asked again, unless it refuses
        return _away(error, limit)
    return _all_in_use(limit)


def _free(limit: str, edges: LeaseEdges) -> int:
    """How many slots nobody has."""
    found = _read_or_make(limit, edges)
    if found is None or not found.active:  # a limit that was switched off bounds nothing
        return MOST_PARALLEL
    return found.limit - found.active_slots


def _read_or_make(limit: str, edges: LeaseEdges) -> GlobalConcurrencyLimitResponse | None:
    """None when it was missing: it is new, and nobody has a slot of it."""
    with edges.connect() as client:
        try:
            return client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            new = GlobalConcurrencyLimitCreate(name=limit, limit=MOST_PARALLEL)
            try:
                client.create_global_concurrency_limit(new)
            except ObjectAlreadyExists:
                log.info("Another run made the limit first")
            return None


def _acquire(limit: str, slots: int, edges: LeaseEdges, in_use: Collection[int] = (_LOCKED,)) -> Lease | Wait:
    """The lease, or what is waited for. `in_use`: the HTTP statuses that say that others have slots."""
    renewed_at = Moment.now(edges)
    try:
        with edges.connect() as client:
            answer = client.increment_concurrency_slots_with_lease(
                [limit], slots, "concurrency", edges.lease_s
            )
    except PrefectHTTPStatusError as error:
        return _all_in_use(limit) if error.response.status_code in in_use else _away(error, limit)
    except Exception as error:  # noqa: BLE001 - asked again
        return _away(error, limit)
    if not answer.json()["limits"]:  # for Prefect a limit that is not there is no limit at all
        raise StoppedError(f"Prefect's server has no global concurrency limit {limit} any more.")
    return Lease(limit, slots, UUID(answer.json()["lease_id"]), renewed_at, edges)


def _all_in_use(limit: str) -> Wait:
    return Wait("upload slots: other runs have what there is", _how_to_free(limit))


def _how_to_free(limit: str) -> str:
    return (
        "A killed run's are free within three minutes. If no other run is at work and they stay taken: "
        f'prefect gcl update "{limit}" --active-slots 0'
    )


def _away(error: Exception, limit: str) -> Wait:
    """What is waited for. StoppedError when the server answered that it will not: it would again."""
    if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
        raise StoppedError(
            f"Prefect's server refuses slots of the limit {limit} ({error.response.status_code})."
        ) from None
    log.info("Prefect's server gave no answer about slots (%s)", type(error).__name__)
    return Wait(_AWAY)


@contextmanager
def _held(lease: Lease, holder: LeaseHolder) -> Iterator[None]:
    ended = threading.Event()
    threads = [
        # In this context, with Prefect's settings: the same server.
        threading.Thread(
            target=contextvars.copy_context().run, args=(what, lease, ended, holder), daemon=True
        )
        for what in (_watch, _hold)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        threads[-1].join(lease.edges.released_within_s)


def _watch(lease: Lease, ended: threading.Event, holder: LeaseHolder) -> None:
    """Lets no PUT begin while the lease may be over; ends the run when that lasts for too long.

    A thread of its own: a request to a server that hangs may take minutes.
    """
    over_since: Moment | None = None
    while not ended.wait(lease.edges.looked_at_every_s):
        if not lease.is_over:
            if over_since:
                over_since = None
                holder.permit(True)
                holder.announce(None)
        elif over_since is None:
            over_since = Moment.now(lease.edges)
            holder.permit(False)
            holder.announce(Wait(f"{_AWAY}, and the lease on them is over", "No PUT begins until it does."))
        elif lease.edges.monotonic() - over_since.monotonic_s > holder.max_outage_s:
            holder.stop(
                StoppedError(
                    "Prefect's server did not renew the run's upload slots for too long. Look after it, then "
                    "run the same command again: what was stored is not sent twice."
                )
            )
            return


def _hold(lease: Lease, ended: threading.Event, holder: LeaseHolder) -> None:
    edges = lease.edges
    wait_s = edges.renewed_every_s
    while not ended.wait(wait_s):
        renewal = _renew(lease)
        if renewal is _Renewal.GONE and not _replace(lease):
            holder.stop(
                InterruptedRunError(
                    "Other runs were given this run's upload slots while Prefect's server was away. The same "
                    "parameters go on from here: nothing is sent twice."
                )
            )
            return
        wait_s = edges.retried_every_s if renewal is _Renewal.AWAY else edges.renewed_every_s
    _release(lease)


def _renew(lease: Lease) -> _Renewal:
    now = Moment.now(lease.edges)
    try:
        with lease.edges.connect() as client:
            client.renew_concurrency_lease(lease.lease_id, lease.edges.lease_s)
    except PrefectHTTPStatusError as error:
        return _Renewal.GONE if error.response.status_code in _GONE else _Renewal.AWAY
    except Exception as error:  # noqa: BLE001
        log.info("Prefect's server did not renew the lease on slots (%s)", type(error).__name__)
        return _Renewal.AWAY
    lease.renewed_at = now
    return _Renewal.RENEWED


def _replace(lease: Lease) -> bool:
    """The same slots on a new lease, unless others have them."""
    if lease.was_forgotten:
        _give_back(lease)
    try:
        again = _acquire(lease.limit, lease.slots, lease.edges)
    except StoppedError:
        return False
    if isinstance(again, Wait):
        return False
    lease.lease_id, lease.renewed_at = again.lease_id, again.renewed_at
    return True


def _give_back(lease: Lease) -> None:
    """Slots whose lease the server lost at a restart: it counts them, and would for good."""
    try:
        with lease.edges.connect() as client:
            client.release_concurrency_slots([lease.limit], lease.slots, 1.0)
    except Exception as error:  # noqa: BLE001 - `prefect gcl update` frees them
        log.info("Prefect's server did not take the slots back (%s)", type(error).__name__)


def _release(lease: Lease) -> None:
    renewal = _renew(lease)
    if renewal is _Renewal.GONE and lease.was_forgotten:
        _give_back(lease)
    if renewal is not _Renewal.RENEWED:  # away: the lease ends by itself
        return
    try:
        with lease.edges.connect() as client:
            client.release_concurrency_slots_with_lease(lease.lease_id)
    except Exception as error:  # noqa: BLE001 - the lease ends by itself
        log.info("Prefect's server did not take the slots back (%s)", type(error).__name__)
