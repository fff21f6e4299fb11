"""A hash table that asks for keys it does not hold."""

from typing import NamedTuple

import pytest

from tasks.core.number_table import NumberTable


class Key(NamedTuple):
    """A key whose hash is as it is told."""

    text: str
    hashed: int

    def __hash__(self) -> int:
        return self.hashed


# None, the slot, and slot and mark are the same of all.
HASHES = {
    "differ": [1, 2, 3],
    "share a slot": [0, 1 << 20, 2 << 20],
    "are one": [7, 7, 7],
    "at the end": [-1] * 3,
}


@pytest.mark.parametrize("hashes", HASHES.values(), ids=HASHES)
def test_keys_have_their_own_numbers_whatever_their_hashes_are(hashes: list[int]) -> None:
    keys = [Key(text, hashed) for text, hashed in zip("abc", hashes, strict=True)]
    table = NumberTable[Key](len(keys), lambda number: keys[number - 1])
    assert [table.setdefault(key, number) for number, key in enumerate(keys, 1)] == [1, 2, 3]
    assert [table.get(key) for key in keys] == [1, 2, 3]
    assert [table.setdefault(key, 9) for key in keys] == [1, 2, 3]
    assert [Key("d", hashed) in table for hashed in hashes] == [False] * 3
    assert table.get(Key("d", hashes[0])) is None


def test_a_number_is_asked_for_its_key_hardly_ever_in_vain() -> None:
    asked: list[int] = []
    keys = [f"/archive/{number}" for number in range(2000)]
    table = NumberTable[str](len(keys), lambda number: (asked.append(number), keys[number - 1])[1])
    for number, key in enumerate(keys, 1):
        table.setdefault(key, number)
    assert not [key for key in map("/elsewhere/{}".format, range(2000)) if key in table]
    assert len(asked) < 20
