"""The registry's side: QIDO-RS study by study, and by itself whatever looks missing."""

from collections.abc import Collection, Coroutine, Iterator
from typing import Any, Final, Protocol

from tasks.comparison.instance_table import InstanceTable
from tasks.comparison.patience import Patience
from tasks.comparison.questions import answer_of, answers_in_order
from tasks.comparison.table_rows import Asked
from tasks.concurrency.event_loop import EventLoop
from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.errors import Fault
from tasks.core.signs import InRegistry

_STUDIES_AT_ONCE: Final = 4
_INSTANCES_AT_ONCE: Final = 8


class Listing(Protocol):
    """The instances of a study, as a registry lists them."""

    @property
    def uids(self) -> Collection[str]:
        """Their SOP Instance UIDs."""
        ...

    @property
    def related(self) -> int | None:
        """How many it says there are; None: it does not say."""
        ...


class Registry(Protocol):
    """A DICOMweb server, as far as it is asked here: in its event loop's thread. Each may raise Fault."""

    def instances(self, study_uid: str) -> Coroutine[Any, Any, Listing]:
        """Which instances of a study it lists."""
        ...

    def has_instance(self, study_uid: str, sop_instance_uid: str) -> Coroutine[Any, Any, bool]:
        """Whether it has one, asked for by itself."""
        ...

    def find_instance(self, sop_instance_uid: str, study_uid: str = "") -> Coroutine[Any, Any, object | None]:
        """Whether it has one, of whatever study; in this one, where it can't search all."""
        ...


class RegistrySide:
    """What the registry says of every instance, kept in the table."""

    def __init__(
        self,
        table: InstanceTable,
        loop: EventLoop,
        registry: Registry,
        patience: Patience,
        progress: ComparisonProgress,
    ) -> None:
        self.miscounted = 0  # studies of which it says to have another number than could be found
        self._table = table
        self._loop = loop
        self._registry = registry
        self._patience = patience
        self._progress = progress

    def ask(self) -> None:
        """Of every study; an instance is missing only when it was asked for by itself, and is not there.

        Raises CredentialsRefusedError; of what has no answer nothing is known.
        """
        self._progress.begin(
            "studies of the registry", self._table.count_studies(), _STUDIES_AT_ONCE + _INSTANCES_AT_ONCE
        )
        studies = self._table.study_uids()
        for study_uid, listing in answers_in_order(self._loop, studies, self._ask_study, _STUDIES_AT_ONCE):
            if listing is not None:
                self._table.add_listed(study_uid, listing.uids)
            found = self._ask_for_the_rest(study_uid, is_answered=listing is not None or not study_uid)
            if listing is not None and listing.related not in (None, len(listing.uids) + found):
                self.miscounted += 1
            self._progress.count()

    async def _ask_study(self, study_uid: str) -> Listing | None:
        if not study_uid:
            return None
        with self._progress.asking():
            return await answer_of(self._patience, lambda: self._registry.instances(study_uid))

    def _ask_for_the_rest(self, study_uid: str, *, is_answered: bool) -> int:
        """What the listing does not have, each by itself; how many of them are there."""
        found = 0
        for page in self._table.not_registered(study_uid):
            if not is_answered:
                self._table.set_registry((each.id, InRegistry.UNKNOWN) for each in page)
                self._progress.count_not_confirmed("registry", len(page))
                continue
            said = [(each.id, answer) for each, answer in self._answers(page)]
            there = sum(answer is InRegistry.THERE for _, answer in said)
            self._progress.count_not_confirmed("registry", len(said) - there)
            found += there
            self._table.set_registry(said)
        return found

    def _answers(self, page: list[Asked]) -> Iterator[tuple[Asked, InRegistry]]:
        return answers_in_order(self._loop, page, self._ask_instance, _INSTANCES_AT_ONCE)

    async def _ask_instance(self, asked: Asked) -> InRegistry:
        with self._progress.asking():
            answer = await answer_of(self._patience, lambda: self._look_for(asked))
        return InRegistry.UNKNOWN if answer is None else answer

    async def _look_for(self, asked: Asked) -> InRegistry:
        """In its study, then in any: a registry may have put it into another."""
        if asked.study_uid and await self._registry.has_instance(asked.study_uid, asked.uid):
            return InRegistry.THERE
        try:
            found = await self._registry.find_instance(asked.uid)
        except Fault as fault:
            if fault.kind in TRANSIENT or not asked.study_uid:
                raise
            return InRegistry.MISSING  # a server that searches studies alone
        if found is None:
            return InRegistry.MISSING
        return InRegistry.ELSEWHERE if asked.study_uid else InRegistry.THERE
