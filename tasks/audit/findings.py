"""What an audit finds, and what it says that it did not look at."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_LISTED: Final = 20


@dataclass(slots=True)
class Findings:
    """Trail and report are good when there is no fault; `unchecked` says of what that was not asked."""

    lines: int = 0
    events: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0  # files that a run into another report directory had stored
    unseen: int = 0  # of these, files of runs whose trail could not be seen
    signed: bool = False
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0
    unchecked: list[str] = field(default_factory=list)

    def add_fault(self, sentence: str) -> None:
        """Adds a fault; of very many only the first are kept."""
        if len(self.faults) < _LISTED:
            self.faults.append(sentence)
        else:
            self.more_faults += 1

    def add_unchecked(self, sentence: str) -> None:
        """Adds what was not looked at, once; of very many only the first are kept."""
        if sentence not in self.unchecked and len(self.unchecked) < _LISTED:
            self.unchecked.append(sentence)
