"""In which order a run sends files: as it was asked for, after studies that the run before had started."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tasks.core.models import Order, StudyEntry, Todo
from tasks.ledger.ledger import Ledger
from tasks.source.scan import Ownership
from tasks.source.study_order import ordered


class SendingOrder:
    """One run's; `arrange` before the first batch."""

    def __init__(self) -> None:
        self._places = array("L")  # by study_no; empty where it is the report's order

    def arrange(
        self,
        entries: Sequence[StudyEntry],
        order: Order,
        ownership: Ownership,
        ledger: Ledger,
        raise_if_stopped: Callable[[], None],
    ) -> Sequence[StudyEntry]:
        """The entries in the order in which they are sent."""
        looked_at = replace(ownership, note=lambda *_: None)  # what is listed for its size is listed again
        arranged = ordered(entries, order, looked_at, ledger.due.started_before(), raise_if_stopped)
        if arranged is not entries:
            self._places = array("L", [0]) * (1 + max(entry.study_no for entry in entries))
            for place, entry in enumerate(arranged):
                self._places[entry.study_no] = place
        return arranged

    def todo(self, ledger: Ledger, batch_no: int) -> Iterator[Todo]:
        """What is to be sent of a batch."""
        if not self._places:
            return ledger.todo(batch_no)
        return ledger.due.in_order(batch_no, self._places.__getitem__, ledger.todo)
