"""What is to be done: which listed files an earlier run has settled, and how many files make a batch."""

from dataclasses import dataclass
from typing import Final

from tasks.core.models import Listed, Status

_SETTLED: Final = frozenset({Status.UPLOADED, Status.DUPLICATE})
_FIRST_BATCH: Final = 500
_LARGEST_BATCH: Final = 50_000
_DOUBLED_EVERY: Final = 20


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has of a path from earlier looks; a new path has an empty status."""

    file_id: int
    status: str
    size_bytes: int | None
    mtime_ns: int | None


def is_settled(known: Known, listed: Listed) -> bool:
    """Whether a file needs no look: it, or its twin, is stored, and neither size nor mtime changed."""
    return (
        known.status in _SETTLED
        and known.size_bytes == listed.size_bytes
        and known.mtime_ns == listed.mtime_ns
    )


def batch_target(batch_no: int) -> int:
    """How many files to do make the batch of this number (from 1) full.

    Batches grow, so that their number, and Prefect's task runs with it, stays in the hundreds: 20 batches of
    500 files, 20 of 1000, and so on: 160 carry two million files, 300 ten million.
    """
    return int(min(_LARGEST_BATCH, _FIRST_BATCH * 2 ** ((batch_no - 1) // _DOUBLED_EVERY)))
