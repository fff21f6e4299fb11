"""Claims in the plan's order: which of two files with one UID is stored is no matter of who is read first.

Files are read side by side, and each claims its SOP Instance UID once all before it have, or will not. One
that is read for too long is overtaken, and claims when it comes.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

OVERTAKEN_AFTER_S: Final = 5.0


class Turn:
    """One file's place in the order."""

    __slots__ = ("claim", "is_over", "reading_since")

    def __init__(self) -> None:
        self.claim: Callable[[], None] | None = None  # what is done when its turn comes
        self.is_over = False
        self.reading_since: float | None = None  # by time.monotonic(); None before it is begun to be read

    def begin_to_read(self) -> None:
        """By the thread that reads it."""
        self.reading_since = time.monotonic()


class ClaimOrder:
    """The turns of all files under way that have not claimed. To be used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()

    def enter(self) -> Turn:
        """The next place, behind all others."""
        turn = Turn()
        self._turns.append(turn)
        return turn

    def claim(self, turn: Turn, claim: Callable[[], None]) -> None:
        """Calls `claim` when the turn comes: at once, where nobody is waited for."""
        turn.claim = claim
        if turn.is_over:  # overtaken
            claim()
        else:
            self.advance()

    def leave(self, turn: Turn) -> None:
        """This file will not claim any more, or not in turn."""
        turn.is_over = True
        self.advance()

    def advance(self) -> None:
        """Goes on as far as it can; to be called now and then, for those that are read for too long."""
        while self._turns:
            first = self._turns[0]
            if not (first.is_over or first.claim or self._is_overtaken(first)):
                return
            self._turns.popleft()
            if first.claim and not first.is_over:
                first.claim()
            first.is_over = True

    def _is_overtaken(self, turn: Turn) -> bool:
        return turn.reading_since is not None and time.monotonic() - turn.reading_since > OVERTAKEN_AFTER_S
