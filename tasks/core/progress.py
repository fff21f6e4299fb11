"""How far a run is: counters for whoever shows them. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

from tasks.core.models import EXIT_ONE, Outcome, Status
from tasks.core.object_outcomes import OBJECTS_EXIT_ONE, ObjectOutcome, ObjectStatus
from tasks.core.platform_state import PlatformState

_FAILED: Final = frozenset({Status.FAILED.value, ObjectStatus.FAILED.value})
_NEVER_TRIED: Final = frozenset({Status.NOT_ATTEMPTED.value, ObjectStatus.NOT_ATTEMPTED.value})
_BAD: Final = frozenset(status.value for status in (*EXIT_ONE, *OBJECTS_EXIT_ONE)) - _NEVER_TRIED


def _unknown() -> PlatformState | None:
    return None


class Nouns(NamedTuple):
    """What a run counts, what becomes of it when it works, and by how many it is done at once."""

    item: str = "file"
    stored: str = "uploaded"
    slot: str = "slot"


FILES: Final = Nouns()
PLANNED: Final = Nouns(stored="to upload", slot="reader")
OBJECTS: Final = Nouns("object", "registered")


def is_bad(status: str) -> bool:
    """Whether what earlier runs made of a file or object counts as that until it is tried again."""
    return status in _BAD


class Found(NamedTuple):
    """What a scan or a listing has found, and how much of it is to be sent or looked at."""

    files: int = 0
    to_do: int = 0
    size_bytes: int = 0
    to_do_bytes: int = 0
    held_back: int = 0  # settled at once, and a reason for exit code 1
    again: Mapping[int, str] = {}  # rows in the ledger of what is to do and `is_bad`, and its status

    def beside(self, other: "Found") -> "Found":
        """Both together."""
        return Found(
            self.files + other.files,
            self.to_do + other.to_do,
            self.size_bytes + other.size_bytes,
            self.to_do_bytes + other.to_do_bytes,
            self.held_back + other.held_back,
            {**self.again, **other.again},
        )


@dataclass(slots=True)
class Progress:
    """Written by the event loop's thread alone, read by anyone.

    What is stored when it is listed is done, and is not stored once more. What failed in an earlier run
    counts as failed from when it is listed until it is tried again; so does what was held back.
    """

    files_listed: int = 0
    files_done: int = 0  # known when they were listed, or settled
    files_settled: int = 0  # by who sends: what the pace is taken from
    files_stored: int = 0
    files_failed: int = 0
    files_held_back: int = 0  # not stored, and a reason for exit code 1, without those that failed
    bytes_listed: int = 0
    bytes_done: int = 0  # never more than are listed; all of them once all files are done
    bytes_settled: int = 0  # by who sends
    bytes_stored: int = 0
    studies_listed: int = 0  # where all are known before their files are; else 0
    studies_done: int = 0
    scanning: bool = True
    nouns: Nouns = FILES
    waiting_for: str = ""  # what keeps the run from sending, in words, such as "upload slots"
    platform: Callable[[], PlatformState | None] = field(default=_unknown, repr=False, compare=False)
    _again: dict[int, str] = field(default_factory=dict, repr=False, compare=False)  # not tried yet

    def count_listed(self, found: Found) -> None:
        """What the scan found more."""
        self.files_listed += found.files
        self.files_done += found.files - found.to_do
        self.bytes_listed += found.size_bytes
        self.bytes_done += found.size_bytes - found.to_do_bytes
        self.files_held_back += found.held_back
        for row, status in found.again.items():
            self._forget(row)
            self._again[row] = status
            self._count_bad(status, 1)
        self._complete()

    def count_sent(self, outcome: Outcome, row: int | None = None) -> None:
        """One more file that has its outcome, by who sends; `row` is its own in the ledger."""
        self._settle(row, outcome.status, outcome.size_bytes, is_stored=outcome.status is Status.UPLOADED)

    def count_object(self, outcome: ObjectOutcome, row: int | None = None) -> None:
        """One more object of the bucket that has its outcome."""
        is_stored = outcome.status is ObjectStatus.REGISTERED
        self._settle(row, outcome.status, outcome.size_bytes, is_stored=is_stored)

    def count_done(self) -> None:
        """One more that is settled without an outcome of its own: another run has it."""
        self.files_done += 1
        self.files_listed = max(self.files_listed, self.files_done)
        self._complete()

    def count_planned(self, status: Status, files: int, size_bytes: int) -> None:
        """So many more files of which a run would say so."""
        self.files_done += files
        self.files_settled += files
        self.bytes_done += size_bytes
        self.bytes_settled += size_bytes
        self._count_bad(status, files)
        self.files_held_back += files if status in _NEVER_TRIED else 0
        if status is Status.UPLOADED:
            self.files_stored += files
            self.bytes_stored += size_bytes

    def counters(self) -> dict[str, int]:
        """The numbers alone, by name; and how many slots there are, and in use."""
        platform = self.platform()
        slots = (platform.slots, platform.slots_in_use) if platform else (0, 0)
        return {name: getattr(self, name) for name in COUNTERS} | dict(zip(SLOTS, slots, strict=True))

    def _settle(self, row: int | None, status: str, size_bytes: int | None, *, is_stored: bool) -> None:
        left, left_bytes = self.files_listed - self.files_done, self.bytes_listed - self.bytes_done
        size = left_bytes // max(1, left) if size_bytes is None else size_bytes  # what can't be read has none
        if left <= 0:  # an earlier run has listed it
            self.files_listed += 1
            self.bytes_listed += size
            left_bytes = size
        self._forget(row)
        self.files_done += 1
        self.files_settled += 1
        self.files_stored += is_stored
        self._count_bad(status, 1)
        if status in _NEVER_TRIED:
            self.files_held_back += 1
        self.bytes_done += min(size, left_bytes)  # it may have grown since
        self.bytes_settled += size
        self.bytes_stored += (size_bytes or 0) if is_stored else 0
        self._complete()

    def _forget(self, row: int | None) -> None:
        """What an earlier run made of it is over."""
        if row is not None and (status := self._again.pop(row, "")):
            self._count_bad(status, -1)

    def _count_bad(self, status: str, more: int) -> None:
        if status in _FAILED:
            self.files_failed += more
        elif status in _BAD:
            self.files_held_back += more

    def _complete(self) -> None:
        """When each file is done, each byte is: one may have shrunk, or can't be read."""
        if self.files_done >= self.files_listed:
            self.bytes_done = self.bytes_listed


# What shards tell with each sign of life: what can be added up.
COUNTERS: Final = tuple(
    each.name for each in fields(Progress) if each.type is int and not each.name.startswith("studies")
)
SLOTS: Final = ("slots", "slots_in_use")
