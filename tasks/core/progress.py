"""How far a run is: counters for whoever shows them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

from tasks.core.models import EXIT_ONE, Outcome, Status
from tasks.core.object_outcomes import OBJECTS_EXIT_ONE, ObjectOutcome, ObjectStatus
from tasks.core.platform_state import PlatformState


def _unknown() -> PlatformState | None:
    return None


class Nouns(NamedTuple):
    """What a run counts, and what becomes of it when it works."""

    item: str = "file"
    stored: str = "uploaded"


FILES: Final = Nouns()
OBJECTS: Final = Nouns("object", "registered")


@dataclass(slots=True)
class Progress:
    """Written by the event loop's thread alone, read by anyone."""

    files_listed: int = 0
    files_done: int = 0  # known when they were listed, or settled
    files_settled: int = 0  # by who sends: what the pace is taken from
    files_stored: int = 0
    files_failed: int = 0
    files_held_back: int = 0  # settled, not stored, and a reason for exit code 1, without those that failed
    bytes_stored: int = 0
    scanning: bool = True
    nouns: Nouns = FILES
    waiting_for: str = ""  # what keeps the run from sending, in words, such as "upload slots"
    platform: Callable[[], PlatformState | None] = field(default=_unknown, repr=False, compare=False)

    def count_listed(self, rows: int, to_do: int) -> None:
        """What the scan found, and how much of it is to be sent or looked at."""
        self.files_listed += rows
        self.files_done += rows - to_do

    def count_sent(self, outcome: Outcome) -> None:
        """One more file that has its outcome, by who sends."""
        self.files_done += 1
        stored, failed = outcome.status is Status.UPLOADED, outcome.status is Status.FAILED
        self.files_settled += 1
        self.files_stored += stored
        self.files_failed += failed
        self.files_held_back += outcome.status in EXIT_ONE and not failed
        self.bytes_stored += (outcome.size_bytes or 0) if stored else 0

    def count_object(self, outcome: ObjectOutcome) -> None:
        """One more object of the bucket that has its outcome."""
        self.files_done += 1
        is_new, is_bad = outcome.status is ObjectStatus.REGISTERED, outcome.status in OBJECTS_EXIT_ONE
        failed = outcome.status is ObjectStatus.FAILED
        self.files_settled += 1
        self.files_stored += is_new
        self.files_failed += failed
        self.files_held_back += is_bad and not failed
        self.bytes_stored += (outcome.size_bytes or 0) if is_new else 0

    def counters(self) -> dict[str, int]:
        """The numbers alone, by name."""
        return {name: getattr(self, name) for name in COUNTERS}


# What shards tell with each sign of life: what can be added up.
COUNTERS: Final = tuple(each.name for each in fields(Progress) if each.type is int)
