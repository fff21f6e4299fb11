"""How far a verification is: what is being asked, and of how much. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class ComparisonProgress:
    """Written by the verification's thread, read by anyone."""

    what: str = "rows of the report"
    total: int = 0  # 0: not known
    done: int = 0

    def begin(self, what: str, total: int) -> None:
        """The next step."""
        self.done, self.total, self.what = 0, total, what

    def count(self, more: int = 1) -> None:
        """So many more are done."""
        self.done += more

    def sentence(self) -> str:
        """For a person who waits."""
        of = f" of {self.total:,}" if self.total else ""
        return f"verify: {self.done:,}{of} {self.what}"

    def percent(self) -> float:
        """Of the step; 0 where it is not known."""
        return round(100 * min(self.done, self.total) / self.total, 1) if self.total else 0.0
