"""How long a run will take, and what would change that most. Pure.

Three things bound a run, whatever there is to send: the slots (each file holds one while its URL is minted
and its PUT is answered), the network, and the processor (one process reads, parses, hashes and sends). They
work side by side, so that the slowest of them has its way; where times of day limit the network, or close it,
the forecast goes from one change to the next.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

_IMPROVED: Final = 2  # times as many slots, bytes a second, work a second
_MOST_STEPS: Final = 20_000  # changes of the limits: years of a timetable


class Source(StrEnum):
    """Where a rate is known from."""

    GIVEN = "given"  # by an option
    EARLIER_RUN = "earlier_run"
    MEASURED = "measured"  # by this plan
    UNKNOWN = "unknown"  # then nothing is taken to bound the run there


class Limit(NamedTuple):
    """What may be sent at a moment, and until when that holds."""

    bytes_per_s: float  # infinite: as the network has it; 0: nothing
    until_s: float  # Unix seconds; infinite: for good


# What may be sent at a moment (Unix seconds): a window of the night, a timetable of the bandwidth.
Limits = Callable[[float], Limit]


def no_limits(_at_s: float) -> Limit:
    """Any time, as fast as the network is."""
    return Limit(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do."""

    files: int  # to be sent
    bytes: int
    files_read: int = 0  # besides, that are read and not sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast each part of the work is."""

    slots: int
    slot_s_per_file: float  # that a file holds a slot, beside what its bytes take
    cpu_s_per_file: float
    cpu_s_per_byte: float = 0.0
    bytes_per_s: float = math.inf  # of the network
    slots_from: Source = Source.MEASURED
    network_from: Source = Source.UNKNOWN


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long it takes, when it ends, and how much earlier it would if one thing were twice as good."""

    duration_s: float  # infinite: it does not end
    ends_at_s: float
    with_twice_the_slots_s: float  # so much less
    with_twice_the_bandwidth_s: float
    with_twice_the_cpu_s: float


def forecast(work: Work, rates: Rates, starts_at_s: float, limits: Limits = no_limits) -> Forecast:
    """A run that starts then."""
    took_s = duration_s(work, rates, starts_at_s, limits)

    def saved_s(better: Rates, better_limits: Limits = limits) -> float:
        if math.isinf(took_s):
            return 0.0
        return max(0.0, took_s - duration_s(work, better, starts_at_s, better_limits))

    return Forecast(
        took_s,
        starts_at_s + took_s,
        saved_s(replace(rates, slots=rates.slots * _IMPROVED)),
        saved_s(replace(rates, bytes_per_s=rates.bytes_per_s * _IMPROVED), _twice(limits)),
        saved_s(
            replace(
                rates,
                cpu_s_per_file=rates.cpu_s_per_file / _IMPROVED,
                cpu_s_per_byte=rates.cpu_s_per_byte / _IMPROVED,
            )
        ),
    )


def duration_s(work: Work, rates: Rates, starts_at_s: float, limits: Limits = no_limits) -> float:
    """How long it takes; infinite when the limits let it go on for years, or for ever.

    The work is taken to be alike throughout: after half the time half of files and bytes are sent.
    """
    least_s = max(_slots_s(work, rates), _cpu_s(work, rates))
    left, at_s = 1.0, starts_at_s  # of the work
    if not work.files and not work.files_read:
        return 0.0
    for _ in range(_MOST_STEPS):
        limit = limits(at_s)
        whole_s = max(least_s, _network_s(work, min(limit.bytes_per_s, rates.bytes_per_s)))
        if limit.bytes_per_s > 0 and at_s + left * whole_s <= limit.until_s:
            return at_s + left * whole_s - starts_at_s
        if math.isinf(limit.until_s) or limit.until_s <= at_s:
            return math.inf
        if limit.bytes_per_s > 0:
            left -= (limit.until_s - at_s) / whole_s
        at_s = limit.until_s
    return math.inf


def _slots_s(work: Work, rates: Rates) -> float:
    return work.files * rates.slot_s_per_file / rates.slots


def _cpu_s(work: Work, rates: Rates) -> float:
    return (work.files + work.files_read) * rates.cpu_s_per_file + work.bytes * rates.cpu_s_per_byte


def _network_s(work: Work, bytes_per_s: float) -> float:
    if not work.bytes:
        return 0.0
    return work.bytes / bytes_per_s if bytes_per_s else math.inf


def _twice(limits: Limits) -> Limits:
    """Who doubles the bandwidth doubles what a timetable lets through."""

    def doubled(at_s: float) -> Limit:
        limit = limits(at_s)
        return limit._replace(bytes_per_s=limit.bytes_per_s * _IMPROVED)

    return doubled


def in_numbers(found: Forecast, work: Work, rates: Rates) -> dict[str, Any]:
    """A forecast as JSON has it: what is not known, or infinite, is null."""
    numbers = asdict(rates) | {
        f"saved_s_{name.removesuffix('_s')}": getattr(found, name)
        for name in ("with_twice_the_slots_s", "with_twice_the_bandwidth_s", "with_twice_the_cpu_s")
    }
    said = {"duration_s": found.duration_s, "files": work.files, "bytes": work.bytes} | numbers
    return {name: _finite(value) for name, value in said.items()}


def _finite(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
