"""The rows of registration.csv, and what they add up to. Pure.

`RegistrationRow` is the declaration of the columns: their order is the report's.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple, get_type_hints

from tasks.core.object_outcomes import DONE, OBJECTS_EXIT_ONE, ObjectReason, ObjectStatus
from tasks.core.report_columns import Column, Escaped, Kind

REGISTRATION_CSV: Final = "registration.csv"
_TEXT: Final = Kind.TEXT
_INTEGER: Final = Kind.INTEGER


class RegistrationRow(NamedTuple):
    """One object."""

    key: Annotated[str, Column(_TEXT, "the object, by the key that it came under", Escaped.REPORT)]
    status: Annotated[str, Column(_TEXT, "what became of it")]
    reason: Annotated[str, Column(_TEXT, "why it has this status")]
    detail: Annotated[
        str,
        Column(_TEXT, "what the server said, what is wrong with the object, or what differs", Escaped.REPORT),
    ]
    sop_instance_uid: Annotated[
        str, Column(_TEXT, "from its header; of one that was not read, as the upload's ledger has it")
    ]
    study_instance_uid: Annotated[str, Column(_TEXT, "the study it says it belongs to")]
    size_bytes: Annotated[int | None, Column(_INTEGER, "its size")]
    sha256: Annotated[str, Column(_TEXT, "of the very bytes that were read, lower-case hex")]
    attempts: Annotated[int, Column(_INTEGER, "how many STOW-RS requests it was part of")]
    started_at: Annotated[int | None, Column(Kind.TIME, "when work on it began")]
    finished_at: Annotated[int | None, Column(Kind.TIME, "when its outcome was known")]
    run_id: Annotated[str, Column(_TEXT, "the run that this outcome is of")]
    moved_to: Annotated[str, Column(_TEXT, "the key that it has by now, if it was moved", Escaped.REPORT)]


_HINTS: Final = get_type_hints(RegistrationRow, include_extras=True)
REGISTRATION_COLUMNS: Final[dict[str, Column]] = {name: hint.__metadata__[0] for name, hint in _HINTS.items()}


@dataclass(slots=True)
class RegistrationTotals:
    """What the rows of a report add up to."""

    run_id: str  # of the run whose report it is
    seen: int  # the serial of its listing
    by_status: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    registered_bytes: int = 0  # by this run
    registered: int = 0
    bad: int = 0  # rows of objects of this run that are a reason for exit code 1
    not_seen: int = 0  # objects that are not registered, and that this run did not come across

    def rows(self, known: Iterable[Any]) -> Iterator[RegistrationRow]:
        """The report's rows, counted as they pass. `known`: rows of the ledger's table bucket_object."""
        for each in known:
            row = self._row(each)
            self._count(each, row)
            yield row

    def _row(self, known: Any) -> RegistrationRow:
        """An object that this run has not come to says so; what earlier runs registered is there already."""
        status, reason, detail = known.status, known.reason, known.detail
        if known.status in DONE:
            is_ours = known.run_id == self.run_id
            status = known.status if is_ours else ObjectStatus.ALREADY_REGISTERED
        elif known.is_open or not known.status:
            status, reason, detail = ObjectStatus.NOT_ATTEMPTED, ObjectReason.STOPPED, ""
        return RegistrationRow(
            known.key,
            str(status),
            str(reason),
            detail,
            known.sop_instance_uid,
            known.study_instance_uid,
            known.size_bytes,
            known.sha256,
            known.attempts,
            known.started_ns,
            known.finished_ns,
            known.run_id,
            known.moved_to,
        )

    def _count(self, known: Any, row: RegistrationRow) -> None:
        self.by_status[row.status] += 1
        self.bytes += row.size_bytes or 0
        if row.status == ObjectStatus.REGISTERED:
            self.registered += 1
            self.registered_bytes += row.size_bytes or 0
        if row.status in OBJECTS_EXIT_ONE:
            is_ours = known.seen >= self.seen or known.run_id == self.run_id
            self.bad += is_ours
            self.not_seen += not is_ours


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationSummary:
    """One run of `ingest` in numbers: registration.json, in this order."""

    run_id: str
    campaign: str
    bucket: str
    registry: str
    objects: int
    bytes: int
    by_status: dict[str, int]
    not_seen: int
    started_at: str
    finished_at: str
    wall_s: float
    objects_per_s: float
    bytes_per_s: float
    exit_code: int
    problems: list[str] = field(default_factory=list)
