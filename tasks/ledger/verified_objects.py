"""What verify asks a ledger: where each instance is by now, what its files were; and what it takes down.

An object that the store has lost is marked so, and no more: its rows stay what they are until a run has sent
it again. It is the path's to send that stored it; where that file is gone, a duplicate's that is still there.
What the registry has lost is registered no more.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.core.member_paths import split_member
from tasks.core.models import Status
from tasks.core.object_outcomes import DONE
from tasks.core.store_urls import is_store_url
from tasks.ledger.database import connect, fetch, has_ledger, prepare, retry_while_busy
from tasks.ledger.schema import (
    bucket_object,
    file,
    instance,
    other_content,
    registered_instance,
    stored_file,
)
from tasks.ledger.statements import Scope, known_select

_AT_ONCE: Final = 1000  # rows read or written
_REGISTRATION: Final = ("key", "status", "moved_to")


class SentInstance(NamedTuple):
    """An instance as the report has it."""

    uid: str
    key: str  # not escaped
    sha256: str


class KnownFile(NamedTuple):
    """A file when it was last looked at."""

    size_bytes: int | None
    mtime_ns: int | None
    ctime_ns: int | None  # None: an earlier version looked at it
    read_ns: int | None
    sha256: str


class VerifiedObjects:
    """One campaign's part of a ledger."""

    def __init__(self, url: str | Path, campaign: str) -> None:
        self._engine = connect(url)
        try:
            prepare(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        self._campaign = campaign
        self._scope = Scope(self._engine.dialect.name, campaign, run_id="", dead_after_s=0)
        self._known = known_select(self._scope).add_columns(file.c.sha256)

    @classmethod
    def at(cls, url: str | Path, campaign: str) -> Self | None:
        """The ledger that is there; None is made."""
        return cls(url, campaign) if has_ledger(url) else None

    def close(self) -> None:
        """Lets the database go."""
        self._engine.dispose()

    def newer_keys(self, sent: Iterable[SentInstance]) -> Iterator[tuple[str, str]]:
        """Of instances that were sent again since: the report's key, and that of the same bytes now."""
        waiting = iter(sent)
        while page := [*islice(waiting, _AT_ONCE)]:
            uids = [each.uid for each in page]
            now = {(row.sop_instance_uid, row.sha256): row.key for row in self._current(uids)}
            for each in page:
                key = now.get((each.uid, each.sha256))
                if key and key != each.key:
                    yield each.key, key

    def registrations(self) -> Iterator[tuple[str, str, str]]:
        """Of objects that ingest moved, or found in conflict: key, status, moved_to; not escaped."""
        query = (
            sa.select(bucket_object.c.object_id, *(bucket_object.c[name] for name in _REGISTRATION))
            .where(bucket_object.c.campaign == self._campaign)
            .where((bucket_object.c.moved_to != "") | (bucket_object.c.status == "conflict"))
            .order_by(bucket_object.c.object_id)
            .limit(_AT_ONCE)
        )
        after = 0
        while page := fetch(self._engine, query.where(bucket_object.c.object_id > after)):
            for row in page:
                yield row.key, row.status, row.moved_to
            after = page[-1].object_id

    def registered(self, registry: str, sent: Iterable[SentInstance]) -> Iterator[str]:
        """Keys of those that ingest has registered with these bytes, or found so, in this host:port/path."""
        waiting = iter(sent)
        while page := [*islice(waiting, _AT_ONCE)]:
            there, done = self._registered_in(registry, page), self._done(page)
            yield from (each.key for each in page if each.uid in there and each in done)

    def registered_otherwise(self, registry: str, sent: Iterable[SentInstance]) -> Iterator[str]:
        """Keys of instances under whose UID ingest registered other bytes there, and not these.

        Until ingest comes to such an object, no row of it says `conflict`.
        """
        waiting = iter(sent)
        while page := [*islice(waiting, _AT_ONCE)]:
            there = self._registered_in(registry, page)
            others = [each for each in page if there.get(each.uid, each.sha256) != each.sha256]
            done = self._done(others) if others else set()
            yield from (each.key for each in others if each not in done)

    def _registered_in(self, registry: str, page: Sequence[SentInstance]) -> dict[str, str]:
        """SHA-256 of what ingest registered in a registry, by SOP Instance UID."""
        table = registered_instance
        query = sa.select(table.c.sop_instance_uid, table.c.sha256).where(
            table.c.campaign == self._campaign,
            table.c.registry == registry,
            table.c.key != "",
            table.c.sop_instance_uid.in_([each.uid for each in page]),
        )
        return {row.sop_instance_uid: row.sha256 for row in fetch(self._engine, query)}

    def _done(self, page: Sequence[SentInstance]) -> set[SentInstance]:
        """Those whose objects, with these bytes, ingest has registered, or found registered, somewhere."""
        table = bucket_object
        query = sa.select(table.c.key, table.c.sha256).where(
            table.c.campaign == self._campaign,
            table.c.key.in_([each.key for each in page]),
            table.c.status.in_(DONE),
        )
        found = {(row.key, row.sha256) for row in fetch(self._engine, query)}
        return {each for each in page if (each.key, each.sha256) in found}

    def files(self, paths: Sequence[str]) -> dict[str, KnownFile]:
        """What is known of these paths (not escaped)."""
        found: dict[str, KnownFile] = {}
        waiting = iter(paths)
        while page := [escape(path) for path in islice(waiting, _AT_ONCE)]:
            for row in fetch(self._engine, self._known, self._scope.named(page)):
                times = row.mtime_ns, row.ctime_ns, row.read_ns
                found[unescape(row.path)] = KnownFile(row.size_bytes, *times, row.sha256)
        return found

    def take_down(
        self, lost: Iterable[SentInstance], is_there: Callable[[str], bool] = lambda path: _is_file(path)
    ) -> tuple[int, int]:
        """Marks what the store has lost; how many, and of how many of them no file is there to be sent."""
        marked = without_file = 0
        waiting = iter(lost)
        while page := [*islice(waiting, _AT_ONCE)]:
            for each, owners in retry_while_busy(partial(self._mark_all, page)):
                marked += 1
                without_file += not self._passes_on(each, owners, is_there)
        return marked, without_file

    def forget_registrations(self, registry: str, uids: Iterable[str]) -> None:
        """What a registry (host:port/path) lacks, from whatever object: ingest stores it anew.

        A claim of who is at work stays.
        """
        waiting = iter(uids)
        while page := [*islice(waiting, _AT_ONCE)]:
            its = (
                registered_instance.c.campaign == self._campaign,
                registered_instance.c.registry == registry,
                registered_instance.c.sop_instance_uid.in_(page),
                registered_instance.c.key != "",
            )
            retry_while_busy(partial(self._delete, sa.delete(registered_instance).where(*its)))

    def _delete(self, statement: sa.Delete) -> None:
        with self._engine.execution_options(writes=True).begin() as db:
            db.execute(statement)

    def _current(self, uids: Sequence[str]) -> "Iterator[sa.Row[Any]]":
        for table in (other_content, instance):
            query = sa.select(table.c.sop_instance_uid, table.c.sha256, table.c.key).where(
                table.c.campaign == self._campaign, table.c.sop_instance_uid.in_(uids), table.c.key != ""
            )
            yield from fetch(self._engine, query)

    def _mark_all(self, page: Sequence[SentInstance]) -> list[tuple[SentInstance, list[int]]]:
        """In one commit; each that was marked, and the files that stored it."""
        with self._engine.execution_options(writes=True).begin() as db:
            marked = [(each, self._mark(db, each)) for each in page]
        return [(each, owners) for each, owners in marked if owners]

    def _mark(self, db: sa.Connection, lost: SentInstance) -> list[int]:
        """Marks it where it is still the current object; the files that stored it."""
        owners: list[int] = []
        for table in (instance, other_content):
            its = (
                table.c.campaign == self._campaign,
                table.c.sop_instance_uid == lost.uid,
                table.c.key == lost.key,
            )
            found = [*db.scalars(sa.select(table.c.file_id).where(*its))]
            if found:
                db.execute(sa.update(table).where(*its).values(lost_key=lost.key))
            owners += found
        for table in (file, stored_file) if owners else ():
            its_rows = table.c.file_id.in_(owners), table.c.key == lost.key
            db.execute(sa.update(table).where(*its_rows).values(lost_key=lost.key))
        return owners

    def _passes_on(self, lost: SentInstance, owners: Sequence[int], is_there: Callable[[str], bool]) -> bool:
        """Whether a file is there that is to send it: its own, or a duplicate's, which then owns it."""
        of_owners = sa.select(file.c.path).where(file.c.file_id.in_(owners))
        if any(is_there(unescape(row.path)) for row in fetch(self._engine, of_owners)):
            return True
        duplicates = sa.select(file.c.file_id, file.c.path).where(
            file.c.campaign == self._campaign,
            file.c.sop_instance_uid == lost.uid,
            file.c.status == sa.literal_column(f"'{Status.DUPLICATE}'"),  # literal, for the index on these
            file.c.sha256 == lost.sha256,
        )
        there = (row for row in fetch(self._engine, duplicates) if is_there(unescape(row.path)))
        if (heir := next(there, None)) is None:
            return False
        retry_while_busy(lambda: self._give(lost, heir.file_id))
        return True

    def _give(self, lost: SentInstance, file_id: int) -> None:
        with self._engine.execution_options(writes=True).begin() as db:
            its = (
                instance.c.campaign == self._campaign,
                instance.c.sop_instance_uid == lost.uid,
                instance.c.key == lost.key,
                instance.c.lost_key == lost.key,
            )
            if db.execute(sa.update(instance).where(*its).values(file_id=file_id)).rowcount:
                marked = sa.update(file).where(file.c.file_id == file_id)
                db.execute(marked.values(lost_key=lost.key))


def _is_file(path: str) -> bool:
    """Of a member: its archive. What lies in a store is taken to be there."""
    return is_store_url(path) or os.path.isfile(split_member(path)[0])  # noqa: PTH113 - as text, it may be any
