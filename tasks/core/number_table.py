"""A hash table of numbers alone: for millions of keys that are kept elsewhere already."""

from array import array
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

_MARKS: Final = 1 << 16

_Key = TypeVar("_Key")


class NumberTable(Generic[_Key]):
    """Keys to numbers above 0. A number's key is asked for, and hardly ever when it is another one."""

    def __init__(self, most: int, key_of: Callable[[int], _Key]) -> None:
        """For `most` keys at most: some 12 bytes for each."""
        slots = 1 << (2 * most).bit_length()
        self._key_of = key_of
        self._last = slots - 1
        self._numbers = array("I", bytes(4 * slots))
        self._marks = array("H", bytes(2 * slots))  # more of each key's hash than its slot says

    def setdefault(self, key: _Key, number: int) -> int:
        """The key's number, which is this one when it had none."""
        slot, mark = self._find(key)
        if not self._numbers[slot]:
            self._numbers[slot], self._marks[slot] = number, mark
        return self._numbers[slot]

    def get(self, key: _Key) -> int | None:
        """The key's number."""
        return self._numbers[self._find(key)[0]] or None

    def __contains__(self, key: Any) -> bool:
        return self.get(key) is not None

    def _find(self, key: _Key) -> tuple[int, int]:
        """Where it stands, or would stand, and its mark."""
        hashed = hash(key)
        mark = hashed // (self._last + 1) % _MARKS
        slot = hashed & self._last
        while number := self._numbers[slot]:
            if self._marks[slot] == mark and self._key_of(number) == key:
                break
            slot = (slot + 1) & self._last
        return slot, mark
