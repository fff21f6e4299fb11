"""How far a verification is: what is being asked, and of how much. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tasks.core.words import byte_count


@dataclass(slots=True)
class ComparisonProgress:
    """Written by the verification's threads, read by anyone."""

    what: str = "rows of the report"
    total: int = 0  # 0: not known
    done: int = 0
    bytes_done: int = 0  # of this step: the objects' that were seen, the copies' that were retrieved
    requests: int = 0  # at the same time, at most
    not_confirmed: dict[str, int] = field(default_factory=dict)  # instances so far, by who was asked
    _under_way: set[object] = field(default_factory=set, repr=False, compare=False)

    def begin(self, what: str, total: int, requests: int = 0) -> None:
        """The next step, with so many requests at once."""
        self.done, self.bytes_done, self.total, self.what, self.requests = 0, 0, total, what, requests

    def count(self, more: int = 1) -> None:
        """So many more are done."""
        self.done += more

    def count_bytes(self, more: int) -> None:
        """So many more were seen; by another thread, maybe, than the one that counts what is done."""
        self.bytes_done += more

    def count_not_confirmed(self, side: str, more: int) -> None:
        """So many more instances that a side does not confirm: "bucket", "registry", "copy"."""
        if more:
            self.not_confirmed = self.not_confirmed | {side: self.not_confirmed.get(side, 0) + more}

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around one request, in whichever thread."""
        request = object()
        self._under_way.add(request)
        try:
            yield
        finally:
            self._under_way.discard(request)

    @property
    def requests_in_use(self) -> int:
        """Requests under way."""
        return len(self._under_way)

    def sentence(self) -> str:
        """For a person who waits."""
        of = f" of {self.total:,}" if self.total else ""
        parts = [f"verify: {self.done:,}{of} {self.what}"]
        if self.bytes_done:
            parts.append(byte_count(self.bytes_done))
        if self.requests:
            parts.append(f"{self.requests_in_use} of {self.requests} requests under way")
        parts += [f"{count:,} not confirmed by the {side}" for side, count in self.not_confirmed.items()]
        return ", ".join(parts)

    def percent(self) -> float:
        """Of the step; 0 where it is not known."""
        return round(100 * min(self.done, self.total) / self.total, 1) if self.total else 0.0
