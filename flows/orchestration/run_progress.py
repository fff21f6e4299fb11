"""How far a run is, in figures and in words: for a terminal, and for the artifact in Prefect's UI.

A `Sampler` takes a `Snapshot` now and then; `sentence` makes words of it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from tasks.core.bandwidth import in_words
from tasks.core.platform_state import PlatformState, Step
from tasks.core.progress import FILES, Nouns, Progress
from tasks.core.words import counted, duration, of_bytes

SAMPLED_EVERY_S: Final = 1.0
_RECENT_S: Final = 60.0  # what the pace is taken from
_MIB: Final = 1024 * 1024
_STEP_NAMES: Final = {
    Step.PRESIGN: "the upload API",
    Step.PUT: "the object store",
    Step.READ: "the bucket",
    Step.ASK: "the DICOMweb server",
    Step.STORE: "the DICOMweb server",
}
_TOO_MANY_REQUESTS: Final = 429
_COUNTERS: Final = (
    "files_listed",
    "files_done",
    "files_stored",
    "files_failed",
    "files_held_back",
    "bytes_listed",
    "bytes_done",
    "bytes_stored",
    "scanning",
)
_NO_TIME: Final = datetime.fromtimestamp(0, UTC)  # of a snapshot without any


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    files_listed: int = 0
    files_done: int = 0
    files_stored: int = 0
    files_failed: int = 0
    files_held_back: int = 0
    bytes_listed: int = 0
    bytes_done: int = 0
    bytes_stored: int = 0
    studies_listed: int = 0  # 0: not known before their files are
    studies_done: int = 0
    studies_per_s: float = 0.0
    scanning: bool = False
    nouns: Nouns = FILES
    waiting_for: str = ""
    files_per_s: float | None = None  # settled, recently; None while unknown
    bytes_per_s: float = 0.0  # stored, recently
    settled_bytes_per_s: float = 0.0
    platform: PlatformState | None = None  # None: not known here
    now: datetime = _NO_TIME
    now_s: float = 0.0  # the same moment by the platform's clock

    @property
    def seconds_left(self) -> float | None:
        """By files, bytes or studies, whichever is later; None while that is not known."""
        is_down = self.platform is not None and self.platform.is_down
        studies = self.studies_listed - self.studies_done
        left = (
            (self.files_listed - self.files_done, self.files_per_s),
            (self.bytes_listed - self.bytes_done, self.settled_bytes_per_s),
            (studies, self.studies_per_s),
        )
        is_over = self.files_done >= self.files_listed and not studies
        if is_over or not self.files_per_s or (studies and not self.studies_per_s):
            return None
        if self.waiting_for or is_down:
            return None
        return max(count / per_s for count, per_s in left if per_s)


class _Sample(NamedTuple):
    at: float
    files: int
    bytes_stored: int
    bytes_settled: int
    studies: int


class Sampler:
    """Snapshots of one run, with the pace of the last minute. Call `snapshot` every few seconds."""

    def __init__(
        self,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` is the one that the run's slots have."""
        self._progress = progress
        self._clock = clock
        self._now = now
        self.samples: deque[_Sample] = deque()
        self._sample()

    def snapshot(self) -> Snapshot:
        """The run now."""
        newest, oldest = self._sample(), self.samples[0]
        took_s = newest.at - oldest.at
        is_known = took_s >= SAMPLED_EVERY_S and newest.files > 0
        settled_bytes = newest.bytes_settled - oldest.bytes_settled
        return replace(
            self.counts(),
            scanning=self._progress.scanning,
            waiting_for=self._progress.waiting_for,
            files_per_s=(newest.files - oldest.files) / took_s if is_known else None,
            bytes_per_s=(newest.bytes_stored - oldest.bytes_stored) / took_s if is_known else 0.0,
            settled_bytes_per_s=settled_bytes / took_s if is_known else 0.0,
            studies_per_s=(newest.studies - oldest.studies) / took_s if is_known else 0.0,
            platform=self._progress.platform(),
            now=self._now(),
            now_s=newest.at,
        )

    def counts(self) -> Snapshot:
        """The counters alone: of a run that is over nothing else is true any more."""
        progress = self._progress
        return Snapshot(
            files_listed=max(progress.files_listed, progress.files_done),
            files_done=progress.files_done,
            files_stored=progress.files_stored,
            files_failed=progress.files_failed,
            files_held_back=progress.files_held_back,
            studies_listed=progress.studies_listed,
            studies_done=progress.studies_done,
            bytes_listed=progress.bytes_listed,
            bytes_done=progress.bytes_done,
            bytes_stored=progress.bytes_stored,
            nouns=progress.nouns,
        )

    def _sample(self) -> _Sample:
        """Takes one, keeps one a second, and forgets those from before the last minute."""
        progress = self._progress
        newest = _Sample(
            self._clock(),
            progress.files_settled,
            progress.bytes_stored,
            progress.bytes_settled,
            progress.studies_done,
        )
        samples = self.samples
        if samples and newest.files < samples[-1].files:  # a shard was started again, and counts anew
            samples.clear()
        if not samples or newest.at - samples[-1].at >= SAMPLED_EVERY_S:
            samples.append(newest)
        while len(samples) > 1 and samples[1].at <= newest.at - _RECENT_S:
            samples.popleft()
        return newest


def sentence(seen: Snapshot) -> str:
    """A snapshot in words: "12 of 300 files done, 6.2 of 154.7 MiB, 12 uploaded, 0 failed, ..."."""
    platform = _platform(seen, seen.platform) if seen.platform else ()
    return ", ".join([*_counts(seen), *_pace(seen), *platform])


def in_counters(seen: Snapshot) -> dict[str, Any]:
    """A snapshot in numbers, for a line of JSON: what is not known is left out."""
    counters: dict[str, Any] = {name: getattr(seen, name) for name in _COUNTERS}
    if seen.files_per_s is not None:
        counters |= {"files_per_s": round(seen.files_per_s, 3), "bytes_per_s": round(seen.bytes_per_s)}
    if (left_s := seen.seconds_left) is not None:
        counters["seconds_left"] = round(left_s)
    if seen.platform and seen.platform.slots:
        counters |= {"slots": seen.platform.slots, "slots_in_use": seen.platform.slots_in_use}
    if seen.platform and seen.platform.is_down:
        counters["platform_is_down"] = True
    if seen.studies_listed:
        counters |= {"studies_listed": seen.studies_listed, "studies_done": seen.studies_done}
    if seen.waiting_for:
        counters["waiting_for"] = seen.waiting_for
    return counters


def _counts(seen: Snapshot) -> Iterator[str]:
    if seen.studies_listed:
        yield f"{seen.studies_done:,} of {counted(seen.studies_listed, 'study')}"
    yield f"{seen.files_done:,} of {counted(seen.files_listed, seen.nouns.item)} done"
    if seen.bytes_listed:
        yield of_bytes(seen.bytes_done, seen.bytes_listed)
    if seen.scanning:
        yield "still listing"
    yield f"{seen.files_stored:,} {seen.nouns.stored}"
    yield f"{seen.files_failed:,} failed"
    if seen.files_held_back:
        yield f"{seen.files_held_back:,} held back"


def _pace(seen: Snapshot) -> Iterator[str]:
    """Time left is not known while nothing moves, and least of all while the platform is down."""
    if seen.waiting_for:
        yield f"waiting for {seen.waiting_for}"
    if seen.files_per_s is None:
        return
    yield f"{rate(seen.files_per_s)} {seen.nouns.item}s/s"
    yield f"{seen.bytes_per_s / _MIB:,.1f} MiB/s"
    if (left_s := seen.seconds_left) is not None:
        is_less = seen.scanning and not seen.studies_listed
        yield f"{'at least' if is_less else 'about'} {duration(left_s)} left"


def _platform(seen: Snapshot, platform: PlatformState) -> Iterator[str]:
    if platform.slots:
        yield f"{platform.slots_in_use} of {counted(platform.slots, seen.nouns.slot)} in use"
    if platform.rate is not None:
        yield f"at most {in_words(platform.rate)}"
    if platform.throttled_since is not None and not platform.is_down:
        since = f"the platform has been throttling since {_time(seen, platform.throttled_since)}"
        fewer = f": slots reduced from {platform.slots} to {platform.slots - platform.slots_withheld}"
        yield since + (fewer if platform.slots_withheld else "")
    if platform.failing:
        yield _trouble(seen, platform, _STEP_NAMES[platform.failing])
        next_try_at = platform.next_try_at
        yield "a try is under way" if next_try_at is None else f"next try {_next(seen, next_try_at)}"


def _trouble(seen: Snapshot, platform: PlatformState, step: str) -> str:
    since = f"since {_time(seen, platform.failing_since)}"
    status = platform.http_status
    answer = f"(it answers {status})" if status else "(no answer)"
    if not platform.is_down:
        return f"no request to {step} has worked {since} {answer}"
    what = "has throttled every request" if status == _TOO_MANY_REQUESTS else "has been down"
    return f"{step} {what} {since} {answer}"


def _next(seen: Snapshot, at: float) -> str:
    return f"at {_time(seen, at)}" if at > seen.now_s else "now"


def _time(seen: Snapshot, at: float) -> str:
    """By the wall clock in UTC, with the date when that is another one."""
    moment = seen.now + timedelta(seconds=at - seen.now_s)
    is_today = moment.date() == seen.now.date()
    return f"{moment:%H:%M:%S} UTC" if is_today else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def rate(per_s: float) -> str:
    """As exact as a pace may be: "123", "4.5", "0.043"."""
    return f"{per_s:,.0f}" if per_s >= 10 or not per_s else f"{per_s:.2g}"
