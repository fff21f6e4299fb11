"""Which rows of a report are sent again: those that are a reason for exit 1, or some of them. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from tasks.core.models import EXIT_ONE


@dataclass(frozen=True, slots=True)
class Selection:
    """By status and reason; of what is named neither way, all."""

    statuses: Collection[str] = ()
    reasons: Collection[str] = ()

    @property
    def is_all(self) -> bool:
        """Whether it is all that a report has left."""
        return not (self.statuses or self.reasons)

    def has(self, status: str, reason: str) -> bool:
        """Whether a row is one of them."""
        is_named = (not self.statuses or status in self.statuses) and (
            not self.reasons or reason in self.reasons
        )
        return status in EXIT_ONE and is_named
