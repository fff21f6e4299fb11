"""What proves the PUTs of a run: while that is undecided, a file waits for the answers to others."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tasks.core.checksums import Doubt, StoreChecksums
from tasks.core.errors import Fault, FaultKind
from tasks.core.models import Digests, Proof
from tasks.remote.upload_api import Stored

_ALONE_S: Final = 1.0  # for so long no file has come or ended: all that wait are all there are


class Integrity:
    """Shared by all files under way. For the event loop's thread alone."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self.rules = StoreChecksums()
        self._under_way = 0
        self._waiting = 0
        self._changed_at = 0.0  # by the loop's clock

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Around a file of which something may be learnt."""
        self._under_way += 1
        self._changed_at = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._under_way -= 1
            self._changed_at = asyncio.get_running_loop().time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around its wait for another file; one that looks now and then is the same file as before."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def judge(self, file_id: int, host: str, stored: Stored, digests: Digests) -> Proof:
        """What vouches for a file that was stored; Fault when it is to be sent again."""
        given = (file_id, host, stored.evidence, digests)
        found = self.rules.judge(*given, with_content_md5=stored.with_content_md5)
        if found is Doubt.UNDECIDED:
            with self.waiting():
                await self._decision()
            found = self.rules.judge(*given, with_content_md5=stored.with_content_md5)
        if isinstance(found, Proof):
            return found
        what = "what is stored has another checksum than what was sent"
        is_certain = bool(stored.evidence.crc64nvme) or self.rules.is_certain(file_id)
        raise Fault(FaultKind.INTEGRITY, what, stored.http_status, is_certain=is_certain)

    async def _decision(self) -> None:
        """Until others' answers decide, or all files under way wait; a run that stops waits no longer."""
        while self.rules.is_undecided and not self._stopping.is_set():
            await asyncio.sleep(_ALONE_S / 10)
            now = asyncio.get_running_loop().time()
            if self._waiting == self._under_way and now - self._changed_at >= _ALONE_S:
                self.rules.decide()
