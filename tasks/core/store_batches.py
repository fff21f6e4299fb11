"""Which objects go into one STOW-RS request: of one study, so many at most, of so many bytes together. Pure.

Objects come in the order in which they have been read, study by study but for a few that overtake each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

MOST_INSTANCES: Final = 100
MOST_BYTES: Final = 256_000_000

_Item = TypeVar("_Item")


@dataclass(slots=True)
class StoreBatch(Generic[_Item]):
    """Objects of one study."""

    study_instance_uid: str
    items: list[_Item] = field(default_factory=list)
    size_bytes: int = 0


class StoreBatches(Generic[_Item]):
    """Those that are open: more may come."""

    def __init__(self, most_items: int = MOST_INSTANCES, most_bytes: int = MOST_BYTES) -> None:
        """An object larger than that is alone in its batch."""
        self._most_items = most_items
        self.most_bytes = most_bytes
        self._open: dict[str, StoreBatch[_Item]] = {}  # by study: the one that was begun first is first

    def __len__(self) -> int:
        """How many objects wait for others of their study."""
        return sum(len(batch.items) for batch in self._open.values())

    def add(self, study_instance_uid: str, item: _Item, size_bytes: int) -> list[StoreBatch[_Item]]:
        """The batches that are whole with this object: none, one, or two."""
        whole = []
        batch = self._open.get(study_instance_uid)
        if batch and batch.size_bytes + size_bytes > self.most_bytes:
            whole.append(self._open.pop(study_instance_uid))
            batch = None
        if batch is None:
            batch = self._open[study_instance_uid] = StoreBatch(study_instance_uid)
        batch.items.append(item)
        batch.size_bytes += size_bytes
        if len(batch.items) >= self._most_items or batch.size_bytes >= self.most_bytes:
            whole.append(self._open.pop(study_instance_uid))
        return whole

    def close_first(self, but_of: str = "") -> StoreBatch[_Item] | None:
        """The one that was begun first, as it is; not that of this study. None: there is none."""
        study = next((each for each in self._open if each != but_of), None)
        return None if study is None else self._open.pop(study)

    def close_all(self) -> Iterator[StoreBatch[_Item]]:
        """All of them, as they are."""
        while batch := self.close_first():
            yield batch


def halves(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """What was too much for one request, as two."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]
