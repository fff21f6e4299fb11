"""Claims in the plan's order: which of two files with one UID is stored is no matter of luck. Pure.

Files are read side by side, and each claims its SOP Instance UID once all before it have, or will not. One
that is read for too long is overtaken, and claims when it comes.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

OVERTAKEN_AFTER_S: Final = 5.0


class Position:
    """One file's in the order."""

    __slots__ = ("claim", "is_over", "read_since")

    def __init__(self) -> None:
        self.claim: Callable[[], None] | None = None  # to be called when all before it have claimed
        self.is_over = False
        self.read_since: float | None = None  # by the clock; None before it is begun to be read


class ClaimOrder:
    """The positions of all files under way that have not claimed. For one thread, but for `note_read`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic, in seconds."""
        self._clock = clock
        self._positions: deque[Position] = deque()

    def enter(self) -> Position:
        """The next one, behind all others."""
        position = Position()
        self._positions.append(position)
        return position

    def note_read(self, position: Position) -> None:
        """That it is begun to be read."""
        position.read_since = self._clock()

    def claim(self, position: Position, claim: Callable[[], None]) -> None:
        """Calls `claim` once all before it have claimed: at once, where nobody is waited for."""
        if position.is_over:  # overtaken, or not its first claim
            claim()
        else:
            position.claim = claim
            self.advance()

    def leave(self, position: Position) -> None:
        """This file will not claim any more, or not in order."""
        position.is_over = True
        self.advance()

    def advance(self) -> None:
        """Goes on as far as it can; to be called now and then, for those that are read for too long."""
        while self._positions:
            first = self._positions[0]
            if not (first.is_over or first.claim or self._is_overtaken(first)):
                return
            self._positions.popleft()
            claim, first.claim = first.claim, None
            if claim and not first.is_over:
                claim()
            first.is_over = True

    def _is_overtaken(self, position: Position) -> bool:
        since = position.read_since
        return since is not None and self._clock() - since > OVERTAKEN_AFTER_S
