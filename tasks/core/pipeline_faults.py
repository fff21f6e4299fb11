"""What the faults of one side of the pipeline, bucket or registry, mean together. Pure."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from tasks.core.errors import (
    CredentialsRefusedError,
    Fault,
    FaultKind,
    IngestError,
    StoppedError,
    UsageError,
)
from tasks.core.retry import BUDGETS, Action, decide

REFUSALS: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN})


class _Words(NamedTuple):
    """What is said of a side that keeps a run from its work."""

    name: str
    credentials: str
    settings: str


class Side(Enum):
    """Whom the pipeline talks to."""

    BUCKET = _Words(
        "bucket",
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they permit",
        "--bucket, AWS_ENDPOINT_URL_S3, AWS_REGION and the network",
    )
    REGISTRY = _Words(
        "DICOMweb server",
        "DICOM_INGEST_DICOMWEB_TOKEN, or what else says who asks there, and what that permits",
        "--dicomweb-url, --dicomweb-server and the network",
    )


def ending_at(
    side: Side, fault: Fault, *, is_start: bool = False, nothing_done: str = "Nothing was registered."
) -> IngestError:
    """The error that ends a run when no object can do better than this fault."""
    words = side.value
    before = f"{nothing_done} " if is_start and nothing_done else ""
    if fault.kind in REFUSALS:
        return CredentialsRefusedError(
            f"The {words.name} refuses the credentials: {fault}. {before}Check {words.credentials}, then run "
            "the same command again."
        )
    return (UsageError if is_start else StoppedError)(
        f"The {words.name} can't be used: {fault}. {before}Check {words.settings}, then run the same command "
        "again."
    )


def down_for_too_long(side: Side, outage_s: float) -> StoppedError:
    """What ends a run after --max-outage."""
    return StoppedError(
        f"Stopped: the {side.value.name} has been down for {outage_s:,.0f} s. When it is up again, run the "
        "same command: it goes on from here. (--max-outage says how long to wait.)"
    )


class SideFaults:
    """One for all objects of a run, and each side."""

    def __init__(self, side: Side, budgets: Mapping[FaultKind, int] = BUDGETS) -> None:
        self.side = side
        self._budgets = budgets
        self._any_success = False
        self._forbidden_in_a_row = 0

    def record_success(self) -> None:
        """A request that worked: the credentials are good."""
        self._any_success = True
        self._forbidden_in_a_row = 0

    def action(self, fault: Fault, seen: int) -> Action:
        """What follows a fault, the `seen`-th of its kind on its object or request."""
        self._forbidden_in_a_row += fault.kind is FaultKind.FORBIDDEN
        return decide(
            fault.kind,
            seen,
            any_granted=self._any_success,
            forbidden_in_a_row=self._forbidden_in_a_row,
            budgets=self._budgets,
        )

    def ending(self, fault: Fault) -> IngestError:
        """What ends the run."""
        return ending_at(self.side, fault)
