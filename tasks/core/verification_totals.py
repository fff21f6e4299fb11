"""A verification in numbers: `verification.json`. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.core.signs import InBucket, InRegistry, Retrieved, Sides, Sign, sign_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found, in this order."""

    run_id: str  # of the run whose report it is
    campaign: str
    bucket: str = ""  # s3://...; empty: not asked
    dicomweb_host: str = ""  # host:port; empty: not asked
    started_at: str
    finished_at: str
    wall_s: float
    instances: int  # that the report calls stored
    confirmed: int  # of these: the sign =
    by_sign: dict[str, int]
    unknown: int  # instances of which a side that was asked could not say
    in_bucket: int
    registered: int
    compared_in_bucket: int  # bytes, by a checksum
    deep: str = ""  # what was asked for: N or N%
    seed: int | None = None
    retrieved: dict[str, int] = field(default_factory=dict)  # what the copies are: how many of each
    studies: int
    safe_to_delete: dict[str, int]
    taken_down: int = 0  # marked in the ledger as lost: a run sends them again
    to_send: int = 0  # instances that the bucket lacks
    to_register: int = 0  # keys in repair-keys.txt
    exit_code: int
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class InstanceTotals:
    """What the instances add up to."""

    by_sign: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    unknown: int = 0
    in_bucket: int = 0
    registered: int = 0
    compared_in_bucket: int = 0
    retrieved: Counter[str] = field(default_factory=Counter)


def totals_of(counts: Iterable[tuple[Sides, int]], extra: int) -> InstanceTotals:
    """The instances of a report by what each side says, and how many the registry has besides."""
    totals = InstanceTotals()
    for sides, count in counts:
        if sign := sign_of(sides):
            totals.by_sign[sign] += count
        if not sides.is_stored:
            continue
        totals.stored += count
        totals.unknown += count * sides.is_unknown
        totals.in_bucket += count * (sides.bucket in (InBucket.SAME, InBucket.THERE))
        totals.registered += count * (sides.registry is InRegistry.THERE)
        totals.compared_in_bucket += count * (sides.bucket is InBucket.SAME)
        if sides.retrieved is not Retrieved.NOT_ASKED:
            totals.retrieved[sides.retrieved] += count
    if extra:
        totals.by_sign[Sign.REGISTRY_ALONE] += extra
    return totals
