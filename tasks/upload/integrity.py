"""What proves the PUTs of a process, for many threads: while that is undecided, a file waits for others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tasks.core.checksums import Doubt, StoreChecksums
from tasks.core.errors import Fault, FaultKind
from tasks.core.models import Digests, Proof
from tasks.remote.upload_api import Stored
from tasks.turn import waiting

_ALONE_S: Final = 1.0  # for so long nothing happens but that files wait: no other comes


class Integrity:
    """Shared by all who send. Each file is `under_way` while it is read, sent and judged."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._rules = StoreChecksums()
        self._changed = threading.Condition()
        self._under_way = 0
        self._waiting = 0

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A file of which something may be learnt."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def wants_md5(self, host: str = "") -> bool:
        """Whether the MD5 of what is sent to this host is worth its time; without one: of a file to come."""
        return self._rules.wants_md5(host)

    def judge(self, file_id: int, host: str, stored: Stored, digests: Digests) -> Proof:
        """What vouches for a file that was stored; Fault when it is to be sent again."""
        given = (file_id, host, stored.evidence, digests)
        with self._changed:
            found = self._rules.judge(*given, with_content_md5=stored.with_content_md5)
            self._changed.notify_all()
        if found is Doubt.UNDECIDED:
            with waiting(), self._changed:
                self._await_decision()
                found = self._rules.judge(*given, with_content_md5=stored.with_content_md5)
        if isinstance(found, Proof):
            return found
        what = "what is stored has another checksum than what was sent"
        is_certain = bool(stored.evidence.crc64nvme) or not self._rules.is_undecided
        raise Fault(FaultKind.INTEGRITY, what, stored.http_status, is_certain=is_certain)

    def _await_decision(self) -> None:
        """Until others' answers decide, or all files under way wait; a run that stops waits no longer."""
        self._waiting += 1
        try:
            while self._rules.is_undecided and not self._stopping.is_set():
                has_changed = self._changed.wait(_ALONE_S)
                if not has_changed and self._waiting == self._under_way:
                    self._rules.decide()
                    self._changed.notify_all()
        finally:
            self._waiting -= 1

    def _count(self, files: int) -> None:
        with self._changed:
            self._under_way += files
            self._changed.notify_all()
