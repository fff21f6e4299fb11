"""Instances that are retrieved from the registry and compared with the files that were sent."""

import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, BinaryIO, Final, Protocol

from tasks.comparison.fresh_look import sha256_of
from tasks.comparison.instance_table import InstanceTable
from tasks.comparison.patience import Patience
from tasks.comparison.questions import answer_of, answers_in_order
from tasks.comparison.registry_side import Registry
from tasks.comparison.table_rows import Picked
from tasks.concurrency.daemon_threads import in_thread
from tasks.concurrency.event_loop import EventLoop
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.escape import unescape
from tasks.core.member_paths import is_member
from tasks.core.signs import Retrieved
from tasks.core.store_urls import is_store_url
from tasks.source.archive_file import ArchiveFault
from tasks.source.archives import Archives
from tasks.source.member_content import member_digest, opened_source
from tasks.source.store_content import stored_digest

_AT_ONCE: Final = 4
_HELD_BYTES: Final = 8 << 20  # a larger copy is kept on disk

Difference = Callable[[BinaryIO, BinaryIO], str]


class Retrieving(Registry, Protocol):
    """A DICOMweb server that gives instances, too."""

    def retrieve(
        self, study_uid: str, series_uid: str, sop_instance_uid: str, into: BinaryIO
    ) -> Coroutine[Any, Any, None]:
        """One instance as it is stored there. Raises Fault."""
        ...


@dataclass(slots=True)
class DeepSide:
    """Retrieves so many, and keeps in the table what their copies are.

    `difference`: "" for two that are the same, or what differs, in closed words.
    """

    table: InstanceTable
    loop: EventLoop
    registry: Retrieving
    patience: Patience
    progress: ComparisonProgress
    difference: Difference
    archives: Archives = field(default_factory=Archives)

    def compare(self, count: int, seed: int) -> None:
        """Those that the lot falls on, of what the registry has. Raises CredentialsRefusedError."""
        self.progress.begin("instances compared", count, _AT_ONCE)
        picked = self.table.picked(count, seed)
        for each, said in answers_in_order(self.loop, picked, self._compare_one, _AT_ONCE):
            self.table.set_retrieved(each.id, *said)
            self.progress.count()
            self.progress.count_not_confirmed("copy", int(said[0] is not Retrieved.SAME))

    async def _compare_one(self, picked: Picked) -> tuple[Retrieved, str]:
        path = unescape(picked.path)
        if not await in_thread(partial(self._is_what_was_sent, path, picked), "source"):
            return Retrieved.NO_SOURCE, ""
        with tempfile.SpooledTemporaryFile(max_size=_HELD_BYTES) as copy:
            with self.progress.asking():
                answer = await answer_of(self.patience, partial(self._retrieve, picked, copy))
            if answer is None:
                return Retrieved.UNKNOWN, ""
            self.progress.count_bytes(copy.tell())
            copy.seek(0)
            return await in_thread(partial(self._compare_files, path, copy), "compared")

    async def _retrieve(self, picked: Picked, copy: IO[bytes]) -> bool:
        study_uid, series_uid = picked.study_uid, picked.series_uid
        if not (study_uid and series_uid):  # of an instance that does not say it itself
            found = await self.registry.find_instance(picked.uid, study_uid)
            study_uid = study_uid or getattr(found, "study_uid", "")
            series_uid = series_uid or getattr(found, "series_uid", "")
        copy.seek(0)
        copy.truncate()
        await self.registry.retrieve(study_uid, series_uid, picked.uid, copy)  # type: ignore[arg-type]
        return True

    def _compare_files(self, path: str, copy: IO[bytes]) -> tuple[Retrieved, str]:
        try:
            with opened_source(self.archives, path, _HELD_BYTES) as file:
                what = self.difference(file, copy)  # type: ignore[arg-type]
        except (OSError, ArchiveFault):
            return Retrieved.NO_SOURCE, ""
        return (Retrieved.DIFFERS if what else Retrieved.SAME), what

    def _is_what_was_sent(self, path: str, picked: Picked) -> bool:
        if is_store_url(path):
            return stored_digest(path) == picked.sha256
        digest = member_digest(self.archives, path) if is_member(path) else sha256_of(path)
        return digest == picked.sha256
