"""How the runs of a ledger stand: how far, how fast, when last alive, what is left. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tasks.core.errors import InterruptedRunError
from tasks.core.progress import FILES, OBJECTS, Nouns

_NS: Final = 1_000_000_000


class RunKind(StrEnum):
    """What a run works through."""

    FILES = "files"  # `run`, `upload`
    SHARDS = "shards"  # `migrate`: files, by several processes
    OBJECTS = "objects"  # `ingest`


class RunState(StrEnum):
    """What is known of a run's process."""

    WAITING = "waiting"  # a shard that nobody has begun
    WORKING = "at_work"
    ENDED = "ended"
    STOPPED = "stopped"  # ended early, in order: platform down, credentials refused
    INTERRUPTED = "interrupted"
    KILLED = "killed"  # without an end, and silent

    @property
    def in_words(self) -> str:
        """As a person reads it."""
        return self.replace("_", " ")


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run or a shard, as of its last sign of life. A counter is None where none has been kept."""

    run_id: str
    state: RunState
    started_ns: int  # 0: nobody has begun it
    last_alive_ns: int
    counters: Mapping[str, int] = field(default_factory=dict)
    stopped_exit_code: int | None = None
    studies: int | None = None
    studies_scanned: int | None = None
    kind: RunKind = RunKind.FILES
    shards: tuple["RunStanding", ...] = ()

    @property
    def nouns(self) -> Nouns:
        """What it counts."""
        return OBJECTS if self.kind is RunKind.OBJECTS else FILES

    @property
    def is_at_work(self) -> bool:
        """The run, or one of its shards."""
        return self.state is RunState.WORKING or any(shard.is_at_work for shard in self.shards)

    @property
    def has_figures(self) -> bool:
        """Whether counters of it are kept: the first come with its second sign of life."""
        return "files_listed" in self.counters

    @property
    def is_scanning(self) -> bool:
        """Whether more may be listed, so that what is left is more than it says."""
        is_open = self.state not in (RunState.ENDED, RunState.STOPPED)
        return is_open and (self.studies_scanned or 0) < (self.studies or 0)

    @property
    def files_left(self) -> int | None:
        """Listed and not settled."""
        if not self.has_figures:
            return None
        return max(0, self.counters["files_listed"] - self.counters.get("files_done", 0))

    @property
    def wall_s(self) -> float:
        """From its start to its last sign of life."""
        return max(0.0, (self.last_alive_ns - self.started_ns) / _NS) if self.started_ns else 0.0

    def rate(self, counter: str) -> float | None:
        """So many a second, since its start; None where that can't be known."""
        if not self.has_figures or not self.wall_s:
            return None
        return round(self.counters.get(counter, 0) / self.wall_s, 1)

    @property
    def time_left_s(self) -> float | None:
        """At the pace until now; None where nothing says it, as before the scan is over."""
        pace, left = self.rate("files_settled"), self.files_left
        if not self.is_at_work or self.is_scanning or not pace or left is None:
            return None
        return round(left / pace, 1)


@dataclass(frozen=True, slots=True)
class CampaignStanding:
    """A campaign and its runs, the newest first; `earlier_runs` more are not among them."""

    campaign: str
    runs: tuple[RunStanding, ...]
    earlier_runs: int = 0

    @property
    def is_at_work(self) -> bool:
        """Whether one of its runs is."""
        return any(run.is_at_work for run in self.runs)


@dataclass(frozen=True, slots=True)
class LedgerStanding:
    """All campaigns of a ledger that were asked for, by the clock of its database."""

    seen_ns: int
    campaigns: tuple[CampaignStanding, ...]

    @property
    def is_at_work(self) -> bool:
        """Whether any run is."""
        return any(campaign.is_at_work for campaign in self.campaigns)


def state_of(*, has_begun: bool, has_ended: bool, is_alive: bool, stopped_exit_code: int | None) -> RunState:
    """A run's state, by what the ledger keeps of it."""
    if has_ended:
        if stopped_exit_code is None:
            return RunState.ENDED
        is_interrupted = stopped_exit_code == InterruptedRunError.exit_code
        return RunState.INTERRUPTED if is_interrupted else RunState.STOPPED
    if not has_begun:
        return RunState.WAITING
    return RunState.WORKING if is_alive else RunState.KILLED


def total(whole: RunStanding) -> dict[str, int]:
    """The counters of a run that is cut into shards: theirs together, with as many listed as were weighed."""
    known = [shard.counters for shard in whole.shards if shard.has_figures]
    names = sorted({name for counters in known for name in counters})
    added = {name: sum(counters.get(name, 0) for counters in known) for name in names}
    weighed = {name: count for name, count in whole.counters.items() if name.endswith("_listed")}
    return added | {name: max(added.get(name, 0), count) for name, count in weighed.items()}
