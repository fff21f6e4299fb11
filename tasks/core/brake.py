"""When a run stops because of answers that no waiting and no other file mends. Pure.

One file that is refused is that file's trouble. When all are, a million files would be sent twice each.
"""

from typing import Final

from tasks.core.errors import Fault, FaultKind, StoppedError
from tasks.core.store_answers import advice

REFUSALS_IN_A_ROW: Final = 40
WRONG_ANSWERS_IN_A_ROW: Final = 5
PATIENCE_S: Final = 10.0  # with an API that gave no good answer yet
LATER_PATIENCE_S: Final = (
    300.0  # with one that worked: a page of its proxy says "maintenance" with status 200
)
_REFUSALS: Final = frozenset({FaultKind.REFUSED, FaultKind.REJECTED, FaultKind.INTEGRITY, FaultKind.EXPIRED})


class Brake:
    """Counts answers in a row.

    | answers                                          | since            | besides                | stops |
    | ------------------------------------------------ | ---------------- | ---------------------- | ----- |
    | refused, expired, or damaged on the way: 40      | a file was stored|                        | yes   |
    | of the API, of a wrong shape: 5, for 10 s        | a URL was granted| nothing was stored yet | yes   |
    | of the API, of a wrong shape: 5, for five minutes| a URL was granted|                        | yes   |
    | anything else                                    |                  |                        | no    |

    Another answer of the API's, or none, begins the count of wrong shapes anew: it may be down.
    """

    def __init__(self) -> None:
        self._refusals = 0
        self._wrong = 0
        self._wrong_since = 0.0
        self._any_stored = False

    def record_stored(self) -> None:
        """A file has been stored, and what is stored is what was sent."""
        self._any_stored = True
        self._refusals = 0

    def record_granted(self) -> None:
        """The API gave a URL."""
        self._wrong = 0

    def record_fault(self, kind: FaultKind, now: float) -> bool:
        """Counts a fault; whether the run has to stop. `now`: seconds of a monotonic clock."""
        if kind in _REFUSALS:
            self._refusals += 1
            return self._refusals >= REFUSALS_IN_A_ROW
        if kind is not FaultKind.PRESIGN:
            self._wrong = 0
            return False
        if not self._wrong:
            self._wrong_since = now
        self._wrong += 1
        patience_s = LATER_PATIENCE_S if self._any_stored else PATIENCE_S
        return self._wrong >= WRONG_ANSWERS_IN_A_ROW and now - self._wrong_since >= patience_s


def refused_in_a_row(fault: Fault, file: str) -> StoppedError:
    """Why the run stops after so many refusals; `file` names the last one by its numbers."""
    to_do = fault.advice or advice(fault.detail, fault.kind)
    return StoppedError(
        f"Stopped: {REFUSALS_IN_A_ROW} PUTs in a row failed and nothing was stored between them, the last "
        f"that of {file}: {fault}. {to_do} Then run the same command again."
    )
