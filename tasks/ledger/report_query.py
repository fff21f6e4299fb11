"""The report's rows, derived from the ledger's by one query: nothing that can be derived is kept twice.

| in this run | the file's row           | whose its SOP Instance UID is | the report says        |
| ----------- | ------------------------ | ----------------------------- | ---------------------- |
| not settled | any                      |                               | not_attempted, stopped |
| settled     | uploaded, by this run    |                               | uploaded               |
| settled     | uploaded, by another run |                               | already_uploaded       |
| settled     | duplicate                | same bytes, in this report    | duplicate              |
| settled     | duplicate                | same bytes, not in it, or its | already_uploaded       |
|             |                          | path holds another UID now    |                        |
| settled     | duplicate                | stored with other bytes       | conflict               |
| settled     | any other                |                               | what the row says      |

What a person decided about a row is in its detail as long as row and file are what they were then.

A duplicate has the key of the file that owns its SOP Instance UID; attempts, times, checksums and run_id are
the storing run's. It, and what is in conflict, has the path of that file, whichever report that is in.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import EXIT_ONE, Reason, Status
from tasks.core.report_columns import COLUMNS, Kind, ReportRow, blank
from tasks.ledger.database import fetch
from tasks.ledger.decided import IS_AS_DECIDED, said_of
from tasks.ledger.schema import (
    decision,
    file,
    instance,
    issued_key,
    listing,
    other_content,
    stored_file,
    study,
)
from tasks.ledger.statements import IS_CURRENT

_PAGE: Final = 1000  # rows of a report
_POSITION: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)
_in_order: Final = itemgetter(0, 1)  # study_no and file_no

_owner = file.alias("owner")
_duplicate = file.alias("duplicate")
_owners_listing = listing.alias("owners_listing")

_typed: Callable[[Any], ReportRow] = partial(tuple.__new__, ReportRow)  # ReportRow._make, twice as fast

_is_duplicate = file.c.status == Status.DUPLICATE
_shares_uid = file.c.status.in_((Status.DUPLICATE, Status.CONFLICT))
_shared_uid = sa.case((_shares_uid, file.c.sop_instance_uid))  # NULL for others: nothing is looked up
_duplicated_uid = sa.case((_is_duplicate, file.c.sop_instance_uid))
# Stored beside other bytes of the UID: then its file is the owner of what a duplicate has.
_is_beside = other_content.c.key.is_not(None)
_same_bytes = (sa.func.coalesce(instance.c.sha256, "") == file.c.sha256) | _is_beside
_owner_id = sa.func.coalesce(other_content.c.file_id, instance.c.file_id)
_is_object_of_duplicate = (
    (other_content.c.campaign == file.c.campaign)
    & (other_content.c.sop_instance_uid == _duplicated_uid)
    & (other_content.c.sha256 == file.c.sha256)
    & (other_content.c.key != "")
)


def report_rows(engine: sa.Engine, run_ids: Sequence[str]) -> Iterator[ReportRow]:
    """The report of these runs, which are one run or all shards of one, sorted by study_no and file_no."""
    query = _page_select(run_ids, max(100, _PAGE // len(run_ids)))
    of_each = (_rows_of(engine, run_id, query) for run_id in run_ids)
    yield from heapq.merge(*of_each, key=_in_order)


def with_unscanned(rows: Iterator[ReportRow], unscanned: Sequence[tuple[int, str]]) -> Iterator[ReportRow]:
    """The report's rows, and after those of each `unscanned` study (study_no, study_dir) one that says so.

    `unscanned` was read before the rows are: what is scanned in between has its rows, and this one, too.
    """
    to_come, last = deque(unscanned), (0, 0)
    for row in rows:
        while to_come and to_come[0][0] < row.study_no:
            yield _not_scanned(*to_come.popleft(), last)
        yield row
        last = (row.study_no, row.file_no)
    for study_no, study_dir in to_come:
        yield _not_scanned(study_no, study_dir, last)


def _not_scanned(study_no: int, study_dir: str, last: tuple[int, int]) -> ReportRow:
    """`last`: study_no and file_no of the row before."""
    said: dict[str, Any] = {
        "study_no": study_no,
        "file_no": last[1] + 1 if last[0] == study_no else 1,
        "study_dir": study_dir,
        "path": study_dir,
        "status": Status.NOT_ATTEMPTED,
        "reason": Reason.NOT_SCANNED,
    }
    return ReportRow(**{name: blank(name) for name in ReportRow._fields} | said)


def _rows_of(engine: sa.Engine, run_id: str, query: "sa.Select[Any]") -> Iterator[ReportRow]:
    study_no = file_no = 0
    while True:
        after = {"in_run": run_id, "after_study": study_no, "after_file": file_no}
        page = sorted(fetch(engine, query, after), key=_in_order)
        if not page:
            return
        yield from map(_typed, page)
        study_no, file_no = page[-1].study_no, page[-1].file_no


def _page_select(run_ids: Sequence[str], page_rows: int) -> "sa.Select[Any]":
    """So many rows of the run `in_run` that come next after a study_no and file_no, in any order.

    The columns are those of ReportRow. `run_ids`: all runs whose rows the report has.
    """
    listed = _listed(page_rows)
    in_report = _owner_has_uid() & _is_in_report(_owner_id, _owners_listing, run_ids, instance, other_content)
    is_earlier = (file.c.status == Status.UPLOADED) & ~_is_of(run_ids, file.c.run_id)
    from_owner = _is_duplicate & _same_bytes & ~in_report
    status = _status(listed, is_earlier, in_report)
    is_decided = listed.c.settled & (decision.c.status == status) & IS_AS_DECIDED
    derived: dict[str, Any] = {
        "study_no": listed.c.study_no,
        "file_no": listed.c.file_no,
        "study_dir": study.c.study_dir,
        "path": _plain_path(file.c.path),
        "status": status,
        "reason": sa.case(
            (~listed.c.settled, Reason.STOPPED), (is_earlier, Reason.NONE), else_=file.c.reason
        ),
        "key": sa.case((~_is_duplicate, file.c.key), (_same_bytes, _owned("key")), else_=""),
        "superseded_keys": _superseded_keys(),
        "duration_s": sa.null(),
        "same_uid_path": _same_uid_path(listed),
        **{name: _of_object(name) for name in ("md5", "crc64nvme", "proof")},
        "objects_left": _objects_left(),
        "detail": sa.case((is_decided, said_of(file.c.detail)), else_=_of_file("detail", listed, from_owner)),
        "decision": sa.case((is_decided, decision.c.decision), else_=""),
    }
    columns = [
        (derived[name] if name in derived else _of_file(name, listed, from_owner)).label(name)
        for name in ReportRow._fields
    ]
    return (
        sa.select(*columns)
        .join(file, file.c.file_id == listed.c.file_id)
        .join(study, (study.c.run_id == listed.c.run_id) & (study.c.study_no == listed.c.study_no))
        .outerjoin(
            instance,
            (instance.c.campaign == file.c.campaign) & (instance.c.sop_instance_uid == _shared_uid),
        )
        .outerjoin(other_content, _is_object_of_duplicate)
        .outerjoin(decision, decision.c.file_id == listed.c.file_id)
    )


def _listed(page_rows: int) -> "sa.Subquery":
    """A page of a run's listing. All else is looked up for its rows, so they must be known to be few.

    That is why the limit is in here, and a literal: a planner that has to guess walks whole tables instead.
    """
    after = sa.tuple_(
        sa.bindparam("after_study", type_=sa.Integer), sa.bindparam("after_file", type_=sa.Integer)
    )
    return (
        sa.select(listing)
        .where(listing.c.run_id == sa.bindparam("in_run"), after < _POSITION)
        .order_by(listing.c.study_no, listing.c.file_no)
        .limit(sa.literal_column(str(page_rows)))
        .subquery("listed")
    )


def _of_file(name: str, listed: "sa.Subquery", from_owner: Any) -> Any:
    """What the file's row says; of the run's doings, what the storing run says, once that is known."""
    column = COLUMNS.get(name)
    kept_as = f"{name.removesuffix('_at')}_ns" if column and column.kind is Kind.TIME else name
    said: Any = file.c[kept_as]
    if column is None or not column.of_the_run:
        return said
    if kept_as in instance.c:
        said = sa.case((from_owner, _owned(kept_as)), else_=said)
    return sa.case((listed.c.settled, said), else_=blank(name))


def _plain_path(path: Any) -> Any:
    """Without the slash at the end of what is no file's row (`schema.py`)."""
    return sa.case((path.endswith("/"), sa.func.substr(path, 1, sa.func.length(path) - 1)), else_=path)


def _owned(name: str) -> Any:
    """What is stored of the bytes that a duplicate has."""
    return sa.case((_is_beside, other_content.c[name]), else_=instance.c[name])


def _of_object(name: str) -> Any:
    """Of a stored object: what the row of a duplicate does not know, that of the object does."""
    return sa.case((_is_duplicate & _same_bytes & (_owned(name) != ""), _owned(name)), else_=file.c[name])


def _status(listed: "sa.Subquery", is_earlier: Any, in_report: Any) -> Any:
    return sa.case(
        (~listed.c.settled, Status.NOT_ATTEMPTED),
        (is_earlier, Status.ALREADY_UPLOADED),
        (~_is_duplicate, file.c.status),
        (~_same_bytes, Status.CONFLICT),
        (in_report, Status.DUPLICATE),
        else_=Status.ALREADY_UPLOADED,
    )


def _is_in_report(file_id: Any, rows: Any, run_ids: Sequence[str], *of: Any) -> Any:
    """Whether the file of a row of `of` has a row in the report, found in the alias `rows` of listing.

    Not EXISTS: for that PostgreSQL would put the whole run into a hash table, and SQLite go through it.
    """
    found = (
        sa.select(rows.c.file_id)
        .where(rows.c.file_id == file_id, _is_of(run_ids, rows.c.run_id))
        .limit(sa.literal_column("1"))
        .correlate(*of)
        .scalar_subquery()
    )
    return found.is_not(None)


def _is_of(run_ids: Sequence[str], run_id: Any) -> Any:
    """Whether it is one of these: shards, of which there may be a thousand, are known by what they share."""
    first = run_ids[0]
    if len(run_ids) == 1:
        return run_id == first
    shared = first[: first.rindex("-") + 1]
    return (sa.func.substr(run_id, 1, len(shared)) == shared) & (sa.func.length(run_id) == len(first))


def _owner_has_uid() -> Any:
    """Whether the owner's path does not hold another UID by now: then its row is about that one."""
    return (
        sa.exists(_owner.c.file_id)
        .where(_owner.c.file_id == _owner_id, _owner.c.sop_instance_uid.in_(("", file.c.sop_instance_uid)))
        .correlate(instance, other_content, file)
    )


def _same_uid_path(listed: "sa.Subquery") -> Any:
    """The file that has the row's SOP Instance UID: looked up for rows that share one, for no other."""
    path = (
        sa.select(_owner.c.path)
        .where(
            _owner.c.file_id == _owner_id,
            _owner.c.file_id != file.c.file_id,
            _owner.c.sop_instance_uid.in_(("", file.c.sop_instance_uid)),
        )
        .correlate(instance, other_content, file)
        .scalar_subquery()
    )
    shared = sa.case((listed.c.settled & _shares_uid, path))
    return sa.func.coalesce(shared, "")


def _objects_left() -> Any:
    """Whether a file that holds something else now stored an object that is an instance's, and in no row.

    Looked up only for files of which that may be.
    """
    is_duplicates = (
        sa.exists(_duplicate.c.file_id)
        .where(
            _duplicate.c.campaign == issued_key.c.campaign,
            _duplicate.c.sop_instance_uid == issued_key.c.sop_instance_uid,
            _duplicate.c.status == sa.literal_column("'duplicate'"),  # literal, for the index on these
        )
        .correlate(issued_key)
    )
    left = (
        sa.exists(issued_key.c.key)
        .where(
            issued_key.c.file_id == file.c.file_id,
            issued_key.c.key != file.c.key,
            IS_CURRENT,
            ~is_duplicates,
        )
        .correlate(file)
    )
    may_be = (file.c.reason == Reason.REPLACED) | file.c.status.in_(EXIT_ONE)
    return sa.case((may_be & left, 1), else_=0)


def _superseded_keys() -> Any:
    """Every key that was issued for the file and is nobody's object now: oldest first."""
    is_set_aside = (  # sent beside another file's instance, and that object is all there is of it
        sa.exists(stored_file.c.file_id)
        .where(
            stored_file.c.file_id == file.c.file_id,
            stored_file.c.key == issued_key.c.key,
            file.c.status.not_in((Status.UPLOADED, Status.DUPLICATE)),
        )
        .correlate(file, issued_key)
    )
    keys = (
        sa.select(issued_key.c.key)
        .where(
            issued_key.c.file_id == file.c.file_id,
            issued_key.c.key != file.c.key,
            ~IS_CURRENT,
            ~is_set_aside,
        )
        .order_by(issued_key.c.issued_ns)
        .correlate(file)
        .subquery()
    )
    joined = sa.select(sa.func.aggregate_strings(keys.c.key, ";")).scalar_subquery()
    return sa.func.coalesce(joined, "")
