"""What the faults of all files of a run mean together: what follows each, and when they are its end. Pure."""

from collections.abc import Mapping

from tasks.core.brake import Brake, refused_in_a_row
from tasks.core.errors import Fault, FaultKind, IngestError, ending
from tasks.core.retry import BUDGETS, Action, decide


class RunFaults:
    """One for all files of a run."""

    def __init__(self, budgets: Mapping[FaultKind, int] = BUDGETS, *, any_granted: bool = False) -> None:
        """`any_granted`: a key was handed out to this run before: the credentials are good."""
        self._budgets = budgets
        self._any_granted = any_granted
        self._forbidden_in_a_row = 0
        self._brake = Brake()
        self.over: IngestError | None = None  # what the brake stops the run with: no PUT begins any more

    def record_granted(self) -> None:
        """The API gave a URL."""
        self._any_granted = True
        self._forbidden_in_a_row = 0
        self._brake.record_granted()

    def record_stored(self) -> None:
        """A file has been stored, and what is stored is what was sent."""
        self._brake.record_stored()

    def raise_if_over(self) -> None:
        """Neither waiting nor another file would do better."""
        if self.over:
            raise self.over

    def record(self, fault: Fault, file: str, now: float) -> None:
        """Counts it. Raises what ends the run when there were too many.

        `file`: whose it was, by its numbers. `now`: seconds of a monotonic clock.
        """
        if fault.is_certain and self._brake.record_fault(fault.kind, now):
            is_api = fault.kind is FaultKind.PRESIGN
            self.over = self.over or (ending(fault) if is_api else refused_in_a_row(fault, file))
            raise self.over

    def action(self, kind: FaultKind, seen: int) -> Action:
        """What follows a fault of this kind, the `seen`-th of it on its file."""
        self._forbidden_in_a_row += kind is FaultKind.FORBIDDEN
        return decide(
            kind,
            seen,
            any_granted=self._any_granted,
            forbidden_in_a_row=self._forbidden_in_a_row,
            budgets=self._budgets,
        )
