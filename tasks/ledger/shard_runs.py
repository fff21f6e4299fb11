"""The runs that a run is cut into, and how one of them stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.core.errors import InterruptedRunError
from tasks.core.models import RunFacts
from tasks.settings import MOST_SHARDS


def shard_run_id(run_id: str, shard_no: int) -> str:
    """The run_id of a run's shard."""
    return f"{run_id}-{shard_no:04}"


def shard_run_ids(run_id: str) -> list[str]:
    """Those that shards of this run may have."""
    return [shard_run_id(run_id, number) for number in range(1, MOST_SHARDS + 1)]


def is_over(end: Mapping[str, Any] | None) -> bool:
    """Whether a run of this `end` came to it neither interrupted nor killed."""
    return end is not None and end["stopped_exit_code"] != InterruptedRunError.exit_code


@dataclass(frozen=True, slots=True)
class ShardStanding:
    """Where a shard of a run stands. `facts` once a process has ended it, in order or stopped early."""

    run_id: str
    is_alive: bool
    facts: RunFacts | None
    progress: Mapping[str, int]  # the counters of its last sign of life
    started_ns: int = 0  # when its last process began; 0: none has
