"""What earlier runs of a campaign left without storing it, and stored files that are listed no more.

Both are found by indices alone: on PostgreSQL, whose indices take no long text, by a path's first characters.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.core.models import Reason, Status
from tasks.ledger.database import fetch
from tasks.ledger.schema import LEFT, PATH_HEAD, file, instance, listing, other_content, run, study
from tasks.ledger.statements import Scope

_AT_ONCE: Final = 1000  # rows read
_ONE: Final[Any] = sa.literal_column("1")  # literals, as in the indices
_HEAD: Final[Any] = sa.literal_column(str(PATH_HEAD))
_NO_LOSS: Final = (Reason.TOO_YOUNG, Reason.LINK_LOOP)  # it may be removed; nothing of its own is behind it
_NAMED_ASIDE: Final = file.c.status.in_((Status.UPLOADED, Status.DUPLICATE)) | (file.c.key != "")


class LeftFile(NamedTuple):
    """A path that an earlier run gave a status of exit code 1; `was_read`: it surely was a file."""

    path: str
    was_read: bool


class LeftFiles:
    """As one run sees them."""

    def __init__(self, engine: sa.Engine, scope: Scope) -> None:
        self._engine = engine
        self._scope = scope
        self._is_left = (file.c.campaign == scope.campaign, sa.text(LEFT), file.c.reason.not_in(_NO_LOSS))

    def are_any(self) -> bool:
        """Whether there is anything to look for at all."""
        query = sa.select(file.c.file_id).where(*self._is_left).limit(1)
        return bool(fetch(self._engine, query))

    def under(self, directory: str) -> Iterator[LeftFile]:
        """What was left under a directory, is not in this run's report, and of which nothing is stored."""
        lowest = escape(directory.rstrip("/") + "/")
        beyond = f"{lowest[:-1]}0"  # the character after the slash
        path, head = self._order()
        query = (
            sa.select(file.c.path, file.c.size_bytes)
            .where(*self._is_left, path > lowest, path < beyond)
            .where((file.c.status != Status.MISSING) | (file.c.last_status != ""))
            .where(file.c.key == "", ~self._is_listed(), ~_is_stored_elsewhere())
            .order_by(head, path)
            .limit(_AT_ONCE)
        )
        if head is not path:
            query = query.where(head >= lowest[:PATH_HEAD], head <= beyond[:PATH_HEAD])
        after = ""
        while True:
            page_query = query.where(sa.tuple_(head, path) > (after[:PATH_HEAD], after)) if after else query
            page = fetch(self._engine, page_query)
            if not page:
                return
            for row in page:
                yield LeftFile(unescape(row.path), row.size_bytes is not None)
            after = page[-1].path

    def drop_stored(self, db: sa.Connection) -> None:
        """Takes those out of this run's report whose bytes, or UID, it has stored from elsewhere since."""
        found = sa.select(file.c.file_id).where(
            *self._is_left, file.c.status == Status.MISSING, file.c.last_status != "", _is_stored_elsewhere()
        )
        rows = listing.c.run_id == self._scope.run_id, listing.c.file_id.in_(found)
        db.execute(sa.delete(listing).where(*rows))

    def count_gone(self) -> int:
        """Stored files that the run before listed in the directories that this run has walked, and it not."""
        now, before = study.alias("now"), study.alias("before")
        newest = (
            sa.select(
                before.c.run_id,
                before.c.study_no,
                sa.func.row_number()
                .over(partition_by=now.c.study_no, order_by=(run.c.started_ns.desc(), run.c.run_id))
                .label("age"),
            )
            .join_from(now, before, self._is_same_directory(now, before))
            .join(run, run.c.run_id == before.c.run_id)
            .where(now.c.run_id == self._scope.run_id, now.c.scanned, before.c.scanned)
            .where(run.c.campaign == self._scope.campaign, run.c.run_id != self._scope.run_id)
            .subquery()
        )
        listed = listing.alias("listed")
        query = (
            sa.select(sa.func.count())
            .select_from(newest)
            .join(listed, (listed.c.run_id == newest.c.run_id) & (listed.c.study_no == newest.c.study_no))
            .join(file, file.c.file_id == listed.c.file_id)
            .where(newest.c.age == 1, _NAMED_ASIDE, ~self._is_listed())
        )
        return int(fetch(self._engine, query)[0][0])

    def _order(self) -> tuple[Any, Any]:
        """A path as the index has it, bytewise, and its first characters, where the index has those alone.

        As it is, SQLite would rather look it up among all paths, of which most are stored.
        """
        if self._scope.dialect == "sqlite":
            path = sa.type_coerce(sa.literal_column("(file.path || '')"), sa.Text)
            return path, path
        return file.c.path.collate("C"), sa.func.substr(file.c.path, _ONE, _HEAD).collate("C")

    def _is_same_directory(self, now: Any, before: Any) -> Any:
        same = (before.c.study_dir == now.c.study_dir) & (before.c.run_id != now.c.run_id)
        if self._scope.dialect == "sqlite":
            return same
        ours, theirs = (sa.func.substr(each.c.study_dir, _ONE, _HEAD) for each in (now, before))
        return same & (theirs == ours)

    def _is_listed(self) -> Any:
        return (
            sa.exists(listing.c.file_id)
            .where(listing.c.file_id == file.c.file_id, listing.c.run_id == self._scope.run_id)
            .correlate(file)
        )


def _is_stored_elsewhere() -> Any:
    """Its bytes, where they were read, are stored, or its SOP Instance UID is since it was looked at.

    Under the UID of a conflict something is stored anyhow: its own bytes alone will do.
    """
    last_status = sa.case((file.c.status == Status.MISSING, file.c.last_status), else_=file.c.status)
    is_since = (last_status != Status.CONFLICT) & _is_stored_since()
    return _is_stored(instance, (file.c.sha256 == "") | is_since) | _is_stored(other_content, sa.false())


def _is_stored(table: sa.Table, or_else: Any) -> Any:
    return (
        sa.exists(table.c.key)
        .where(
            table.c.campaign == file.c.campaign,
            table.c.sop_instance_uid == file.c.sop_instance_uid,
            table.c.key != "",
            (table.c.sha256 == file.c.sha256) | or_else,
        )
        .correlate(file)
    )


def _is_stored_since() -> Any:
    """By a run that began later, or later in one run: clocks of two runs may differ by any time."""
    stored, looked = (
        sa.select(each.c.serial).where(each.c.run_id == run_id).correlate(instance, file).scalar_subquery()
        for each, run_id in ((run.alias("storing"), instance.c.run_id), (run.alias("looking"), file.c.run_id))
    )
    in_one_run = (instance.c.run_id == file.c.run_id) & (
        (instance.c.finished_ns > file.c.finished_ns) | (file.c.status == Status.MISSING)
    )
    return (stored > looked) | in_one_run
