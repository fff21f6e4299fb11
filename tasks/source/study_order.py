"""In which order a run sends studies, and what is looked at for it."""

import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from tasks.core.models import Listed, Order, StudyEntry
from tasks.core.study_entries import in_order, priorities
from tasks.source.scan import Ownership, walk_study

_AT_ONCE: Final = 16  # directories that are looked at: a file server answers each after a while
_PAGE: Final = 1000


def ordered(
    entries: Sequence[StudyEntry],
    order: Order,
    ownership: Ownership,
    first: Collection[str] = (),
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> Sequence[StudyEntry]:
    """The entries in the order that was asked for; those whose directory is among the `first` before all.

    | order    | first is                                                                               |
    | -------- | -------------------------------------------------------------------------------------- |
    | manifest | the highest priority                                                                   |
    | newest   | the study directory that changed last (its mtime); one that can't be looked at is last |
    | oldest   | the one that changed first; the same                                                   |
    | smallest | the fewest bytes: the manifest's expected_bytes, or else those of a listing            |

    Where that is equal the manifest's order decides. What is looked at may take long: it ends with the run.
    """
    looked_at = _until_stopped(entries, raise_if_stopped)
    match order:
        case Order.MANIFEST:
            keys: Sequence[int] = priorities(entries)
        case Order.NEWEST:
            keys = array("q", (-changed if changed else 1 for changed in _changed_ns(looked_at)))
        case Order.OLDEST:
            keys = array("q", (changed or 2**62 for changed in _changed_ns(looked_at)))
        case Order.SMALLEST:
            keys = array("q", (_size_bytes(entry, ownership) for entry in looked_at))
    return in_order(entries, keys, first)


def _until_stopped(
    entries: Iterable[StudyEntry], raise_if_stopped: Callable[[], None]
) -> Iterator[StudyEntry]:
    for entry in entries:
        raise_if_stopped()
        yield entry


def _changed_ns(left: Iterator[StudyEntry]) -> Iterator[int]:
    """When each directory changed last; 0 where nobody can tell."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="order") as pool:
        while page := [entry.study_dir for entry in islice(left, _PAGE)]:
            yield from pool.map(_mtime_ns, page)


def _mtime_ns(directory: str) -> int:
    try:
        return os.stat(directory).st_mtime_ns  # noqa: PTH116 - a path may have any bytes
    except (OSError, ValueError):
        return 0


def _size_bytes(entry: StudyEntry, ownership: Ownership) -> int:
    if entry.expected_bytes is not None:
        return entry.expected_bytes
    return sum(row.size_bytes for row in walk_study(entry, ownership) if isinstance(row, Listed))
