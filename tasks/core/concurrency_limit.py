"""How many uploads the platform bears at once: halved when it throttles, grown back by success. Pure."""

from collections.abc import Sequence
from typing import Final

_HALVE_EVERY_S: Final = 1.0  # one burst of refusals is one reason to halve, not twenty
_RISING: Final = 2.0  # a PUT that takes so many times the usual is no sign of room for more


class ConcurrencyLimit:
    """How many PUTs may be under way at once.

    | seen                                                   | slots in use            |
    | ------------------------------------------------------ | ----------------------- |
    | throttled, none in the second before                   | half as many, at least 1|
    | throttled again within a second                        | as many: the same burst |
    | throttled, then as many successes as slots are in use  | one more, up to `most`  |
    | throttled, then successes that take twice the usual    | as many                 |
    | successes, however slow, never throttled               | `most`                  |
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = most
        self.throttled_since: float | None = None  # until all slots may be used again
        self._successes = 0
        self._halved_at = float("-inf")

    def record_throttling(self, now: float) -> bool:
        """Counts an answer that asks for less. Whether the limit changed."""
        self._successes = 0
        self.throttled_since = now if self.throttled_since is None else self.throttled_since
        if self.limit == 1 or now - self._halved_at < _HALVE_EVERY_S:
            return False
        self.limit //= 2
        self._halved_at = now
        return True

    def record_success(self, took_s: float = 0.0, usual_s: float = 0.0) -> bool:
        """Counts a PUT that went through. Whether the limit changed."""
        if self.limit == self.most:
            self.throttled_since = None
            return False
        if usual_s and took_s > _RISING * usual_s:
            return False
        self._successes += 1
        if self._successes < self.limit:
            return False
        self._successes = 0
        self.limit += 1
        if self.limit == self.most:
            self.throttled_since = None
        return True


def shares(slots: int, workers: int) -> list[int]:
    """The slots of each of several workers: as equal as can be."""
    return [slots // workers + (number < slots % workers) for number in range(workers)]


def summed(courses: Sequence[list[tuple[float, int]]]) -> list[tuple[float, int]]:
    """What several workers used together: (seconds, slots in use) at each change, of what each one did."""
    changes = [(at, number, limit) for number, course in enumerate(courses) for at, limit in course]
    changes.sort(key=lambda change: change[0])
    limits = dict.fromkeys(range(len(courses)), 0)
    together: dict[float, int] = {}
    for at, number, limit in changes:
        limits[number] = limit
        together[at] = sum(limits.values())
    return [
        (at, limit)
        for (at, limit), (_, before) in zip(together.items(), [(0.0, -1), *together.items()], strict=False)
        if limit != before
    ]
