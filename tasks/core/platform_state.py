"""What a run knows of the platform at a moment. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.core.bandwidth import Rate


class Step(StrEnum):
    """What a request is for; one of a run's two may be down while the other works."""

    PRESIGN = "presign"
    PUT = "put"
    READ = "read"  # of the bucket, by ingest
    ASK = "ask"  # the registry what it has, by ingest: it may answer while nothing can be stored
    STORE = "store"  # into the registry, by ingest


@dataclass(frozen=True, slots=True)
class PlatformState:
    """What is known of the platform at a moment. Times in seconds, by one clock.

    A request that does not work is one of a step; it is failing when none of that step has worked since.
    """

    slots: int = 0
    slots_in_use: int = 0  # PUTs under way
    slots_withheld: int = 0  # by throttling
    throttled_since: float | None = None
    failing: Step | None = None
    failing_since: float = 0.0
    is_down: bool = False  # nothing is sent but one request now and then
    http_status: int | None = None  # of the last request that failed; None when there was no answer
    next_try_at: float | None = None  # None while one is under way
    rate: Rate = None  # at which all slots together may send
