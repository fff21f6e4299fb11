"""Files of one SOP Instance UID: who waits for another that is under way, and is woken by its end."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from typing import Final

_LOOK_S: Final = (0.02, 2.0)  # first and longest pause before another process's claim is asked for again


class SameUid:
    """The UIDs that files of this process have claimed and not settled. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._settled: dict[str, asyncio.Event] = {}
        self._looks: defaultdict[int, int] = defaultdict(int)  # at other processes' claims, by file_id

    @property
    def waiting_for_others(self) -> int:
        """How many files have waited for another process's claim as long as they do at once."""
        return sum(_pause_s(looks) == _LOOK_S[1] for looks in [*self._looks.values()])

    def claimed(self, uid: str) -> None:
        """A file of this process has it now."""
        self._settled.setdefault(uid, asyncio.Event())

    def settled(self, uids: Collection[str]) -> None:
        """The file that had them has its outcome, or has let them go."""
        for uid in uids:
            if settled := self._settled.pop(uid, None):
                settled.set()

    async def settlement(self, uid: str, file_id: int) -> None:
        """Until it is worth asking for the claim again."""
        if settled := self._settled.get(uid):
            await settled.wait()
        else:
            self._looks[file_id] += 1
            await asyncio.sleep(_pause_s(self._looks[file_id]))

    def forget(self, file_id: int) -> None:
        """This file waits no more."""
        self._looks.pop(file_id, None)


def _pause_s(looks: int) -> float:
    first, longest = _LOOK_S
    return min(longest, first * 2.0 ** min(looks - 1, 30))
