"""Studies of which instances are registered: their numbers, and which of them have arrived whole.

A number is a study's only name in Prefect. A completion is durable, with the id of its event, before anybody
hears of it: whoever is killed between the two announces it again, under the same id.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.study_arrival import Arrival, is_complete
from tasks.ledger.database import connect, fetch, has_ledger, retry_while_busy
from tasks.ledger.schema import file, instance, registered_instance, registered_study, run, study
from tasks.ledger.statements import Scope

_AT_ONCE: Final = 500  # values of one statement
_NS: Final = 1_000_000_000
_STORED: Final = instance.c.key != ""
_REGISTERED: Final = registered_instance.c.key != ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A study that has arrived whole, as an event may say it."""

    study_no: int
    label: str  # the manifest's; empty without one
    instances: int
    completion: int  # its how manieth: what grows later arrives again
    event_id: str


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """A study by its number."""

    study_instance_uid: str
    label: str
    event_id: str  # of its last completion


class _Said(NamedTuple):
    """What a manifest says of a study."""

    expected: int | None
    label: str


_Grown = Mapping[str, "sa.Row[Any]"]  # by study UID


def known_study(url: str | Path, campaign: str, study_no: int) -> KnownStudy | None:
    """The study of this number; None when the ledger has none. It makes nothing."""
    if not has_ledger(url):
        return None
    engine = connect(url)
    try:
        return retry_while_busy(lambda: _known(engine, campaign, study_no))
    finally:
        engine.dispose()


def _known(engine: sa.Engine, campaign: str, study_no: int) -> KnownStudy | None:
    columns = (
        registered_study.c.study_instance_uid,
        registered_study.c.label,
        registered_study.c.event_id,
    )
    query = sa.select(*columns).where(
        registered_study.c.campaign == campaign, registered_study.c.study_no == study_no
    )
    with engine.connect() as db:
        if not sa.inspect(db).has_table(registered_study.name):  # of an earlier version
            return None
        row = db.execute(query).one_or_none()
    return KnownStudy(*row) if row else None


class RegisteredStudies:
    """The studies of one campaign in one registry."""

    def __init__(
        self,
        engine: sa.Engine,
        scope: Scope,
        registry: str,
        quiet_after_s: float,
        clock_ns: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._scope = scope
        self._registry = registry
        self._quiet_after_s = quiet_after_s
        self._clock_ns = clock_ns

    def completions(self) -> list[Completion]:
        """Those that nobody has announced yet, each durable from here on."""
        if grown := {row.uid: row for row in self._grown()}:
            said = self._said(grown)
            complete = self._complete(grown, said)
            for start in range(0, len(complete), _AT_ONCE):
                some = complete[start : start + _AT_ONCE]
                retry_while_busy(partial(self._keep, some, grown, said))
        return self._not_announced()

    def mark_announced(self, completion: Completion) -> None:
        """Its event was taken."""
        its = (
            registered_study.c.study_no == completion.study_no,
            registered_study.c.event_id == completion.event_id,
        )
        mark = sa.update(registered_study).where(*its).values(is_announced=True)

        def write() -> None:
            with self._engine.execution_options(writes=True).begin() as db:
                db.execute(mark)

        retry_while_busy(write)

    def _grown(self) -> "Sequence[sa.Row[Any]]":
        """Studies with instances registered since their last completion."""
        known = registered_study
        ours = (registered_instance.c.campaign == self._scope.campaign) & (
            registered_instance.c.registry == self._registry
        )
        is_its = (
            (known.c.campaign == registered_instance.c.campaign)
            & (known.c.registry == registered_instance.c.registry)
            & (known.c.study_instance_uid == registered_instance.c.study_instance_uid)
        )
        uid, count = registered_instance.c.study_instance_uid, sa.func.count()
        announced = sa.func.coalesce(sa.func.max(known.c.instances), 0)
        query = (
            sa.select(
                uid.label("uid"),
                count.label("registered"),
                announced.label("announced"),
                sa.func.max(registered_instance.c.registered_ns).label("last_ns"),
            )
            .select_from(registered_instance.outerjoin(known, is_its))
            .where(ours, _REGISTERED, uid != "")
            .group_by(uid)
            .having(count > announced)
        )
        return fetch(self._engine, query)

    def _complete(self, grown: _Grown, said: Mapping[str, _Said]) -> list[str]:
        stored = self._stored(grown)
        is_upload_at_work = self._is_upload_at_work()
        now = self._clock_ns()

        def arrival(uid: str) -> Arrival:
            row = grown[uid]
            its_stored, its_registered = stored.get(uid, (0, 0))
            return Arrival(
                registered=row.registered,
                announced=row.announced,
                expected=said[uid].expected if uid in said else None,
                stored=its_stored,
                stored_registered=its_registered,
                is_upload_at_work=is_upload_at_work,
                quiet_s=(now - (row.last_ns or 0)) / _NS,
            )

        return [uid for uid in grown if is_complete(arrival(uid), self._quiet_after_s)]

    def _said(self, uids: Collection[str]) -> dict[str, _Said]:
        """By study UID, what the newest manifest that names it says: of all its rows together."""
        its = (run.c.run_id == study.c.run_id) & (run.c.campaign == self._scope.campaign)
        uid = study.c.study_instance_uid
        query = (
            sa.select(
                uid,
                sa.func.sum(study.c.expected_instances),
                sa.func.max(study.c.label),
                sa.func.count() - sa.func.count(study.c.expected_instances),  # rows that expect nothing
            )
            .join(run, its)
            .where(uid != "")
            .group_by(run.c.serial, run.c.run_id, uid)
            .order_by(run.c.serial)
        )
        return {
            uid: _Said(None if open_rows or expected is None else int(expected), label)
            for uid, expected, label, open_rows in fetch(self._engine, query)
            if uid in uids
        }

    def _stored(self, uids: Collection[str]) -> dict[str, tuple[int, int]]:
        """By study UID, how many instances the upload has stored, and how many of these are registered."""
        is_registered = (
            (registered_instance.c.campaign == instance.c.campaign)
            & (registered_instance.c.registry == self._registry)
            & (registered_instance.c.sop_instance_uid == instance.c.sop_instance_uid)
            & _REGISTERED
        )
        uid = file.c.study_instance_uid
        query = (
            sa.select(uid, sa.func.count(), sa.func.count(registered_instance.c.sop_instance_uid))
            .select_from(
                instance.join(file, file.c.file_id == instance.c.file_id).outerjoin(
                    registered_instance, is_registered
                )
            )
            .where(instance.c.campaign == self._scope.campaign, _STORED)
            .group_by(uid)
        )
        return {uid: (stored, there) for uid, stored, there in fetch(self._engine, query) if uid in uids}

    def _is_upload_at_work(self) -> bool:
        at_work = (run.c.campaign == self._scope.campaign, run.c.api_host != "", self._scope.is_alive)
        return bool(fetch(self._engine, sa.select(run.c.run_id).where(*at_work).limit(1)))

    def _keep(self, uids: Collection[str], grown: _Grown, said: Mapping[str, _Said]) -> None:
        """A new completion of each, unless another process kept it a moment ago."""
        ours = {"campaign": self._scope.campaign, "registry": self._registry}
        with self._engine.execution_options(writes=True).begin() as db:
            for uid in uids:
                label = said[uid].label if uid in said else ""
                db.execute(
                    self._scope.insert(registered_study).values(**ours, study_instance_uid=uid, label=label)
                )
                its = (
                    *(registered_study.c[name] == value for name, value in ours.items()),
                    registered_study.c.study_instance_uid == uid,
                    registered_study.c.instances < grown[uid].registered,
                )
                new = {
                    "instances": grown[uid].registered,
                    "completion": registered_study.c.completion + 1,
                    "event_id": str(uuid.uuid4()),
                    "is_announced": False,
                }
                db.execute(sa.update(registered_study).where(*its).values(**new))

    def _not_announced(self) -> list[Completion]:
        names = ("study_no", "label", "instances", "completion", "event_id")
        ours = (
            registered_study.c.campaign == self._scope.campaign,
            registered_study.c.registry == self._registry,
            sa.not_(registered_study.c.is_announced),
        )
        query = sa.select(*(registered_study.c[name] for name in names)).where(*ours)
        return [Completion(*row) for row in fetch(self._engine, query.order_by(registered_study.c.study_no))]
