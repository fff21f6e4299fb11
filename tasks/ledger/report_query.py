"""The report's rows, derived from the ledger's by one query: nothing that can be derived is kept twice.

| in this run | the file's row           | whose its SOP Instance UID is | the report says        |
| ----------- | ------------------------ | ----------------------------- | ---------------------- |
| not settled | any                      |                               | not_attempted, stopped |
| settled     | uploaded, by this run    |                               | uploaded               |
| settled     | uploaded, by another run |                               | already_uploaded       |
| settled     | duplicate                | same bytes, in this report    | duplicate              |
| settled     | duplicate                | same bytes, not in it         | already_uploaded       |
| settled     | duplicate                | stored with other bytes       | conflict               |
| settled     | any other                |                               | what the row says      |

A duplicate has the key of the file that owns its SOP Instance UID; attempts, times and run_id are the storing
run's. It, and what is in conflict, has the path of that file, whichever report that is in.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import Reason, Status
from tasks.core.report_columns import COLUMNS, Kind, ReportRow, blank
from tasks.ledger.database import reading
from tasks.ledger.schema import file, instance, issued_key, listing, study

_PAGE: Final = 5000  # rows of a report
_POSITION: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)

_stored = instance.alias("stored_instance")
_duplicate = file.alias("duplicate")
_owner = file.alias("owner")
_duplicates_listing = listing.alias("duplicates_listing")
_owners_listing = listing.alias("owners_listing")

_typed: Callable[[Any], ReportRow] = partial(tuple.__new__, ReportRow)  # ReportRow._make, twice as fast

_is_duplicate = file.c.status == Status.DUPLICATE
_shares_uid = file.c.status.in_((Status.DUPLICATE, Status.CONFLICT))
_same_bytes = sa.func.coalesce(instance.c.sha256, "") == file.c.sha256


def report_rows(engine: sa.Engine, run_ids: Sequence[str]) -> Iterator[ReportRow]:
    """The report of these runs, which are one run or all shards of one, sorted by study_no and file_no."""
    of_each = (_rows_of(engine, run_id, run_ids) for run_id in run_ids)
    yield from heapq.merge(*of_each, key=itemgetter(0, 1))


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


def _rows_of(engine: sa.Engine, run_id: str, run_ids: Sequence[str]) -> Iterator[ReportRow]:
    query = report_select(run_id, run_ids).limit(max(100, _PAGE // len(run_ids)))
    after = (0, 0)
    while True:
        with reading(engine) as db:
            page = db.execute(query.where(after < _POSITION)).all()
        if not page:
            return
        yield from map(_typed, page)
        after = (page[-1].study_no, page[-1].file_no)


def report_select(run_id: str, run_ids: Sequence[str]) -> "sa.Select[Any]":
    """A run's rows of a report: the columns of ReportRow, in the order of study_no and file_no.

    `run_ids`: all runs whose rows the report has, this one among them.
    """
    in_report = _is_in_report(instance, _owners_listing, run_ids)
    is_earlier = (file.c.status == Status.UPLOADED) & file.c.run_id.not_in(run_ids)
    from_owner = _is_duplicate & _same_bytes & ~in_report
    derived: dict[str, Any] = {
        "study_no": listing.c.study_no,
        "file_no": listing.c.file_no,
        "study_dir": study.c.study_dir,
        "path": _plain_path(file.c.path),
        "status": _status(is_earlier, in_report),
        "reason": sa.case(
            (~listing.c.settled, Reason.STOPPED), (is_earlier, Reason.NONE), else_=file.c.reason
        ),
        "key": sa.case((~_is_duplicate, file.c.key), (_same_bytes, instance.c.key), else_=""),
        "superseded_keys": _superseded_keys(run_ids),
        "duration_s": sa.null(),
        "same_uid_path": _same_uid_path(),
    }
    columns = [
        (derived[name] if name in derived else _of_file(name, from_owner)).label(name)
        for name in ReportRow._fields
    ]
    return (
        sa.select(*columns)
        .join(file, file.c.file_id == listing.c.file_id)
        .join(study, (study.c.run_id == listing.c.run_id) & (study.c.study_no == listing.c.study_no))
        .outerjoin(
            instance,
            _shares_uid
            & (instance.c.campaign == file.c.campaign)
            & (instance.c.sop_instance_uid == file.c.sop_instance_uid),
        )
        .where(listing.c.run_id == run_id)
        .order_by(listing.c.study_no, listing.c.file_no)
    )


def _of_file(name: str, from_owner: Any) -> Any:
    """What the file's row says; of the run's doings, what the storing run says, once that is known."""
    column = COLUMNS.get(name)
    kept_as = f"{name.removesuffix('_at')}_ns" if column and column.kind is Kind.TIME else name
    said: Any = file.c[kept_as]
    if column is None or not column.of_the_run:
        return said
    if kept_as in instance.c:
        said = sa.case((from_owner, instance.c[kept_as]), else_=said)
    return sa.case((listing.c.settled, said), else_=blank(name))


def _plain_path(path: Any) -> Any:
    """Without the slash at the end of what is no file's row (`schema.py`)."""
    return sa.case((path.endswith("/"), sa.func.substr(path, 1, sa.func.length(path) - 1)), else_=path)


def _status(is_earlier: Any, in_report: Any) -> Any:
    return sa.case(
        (~listing.c.settled, Status.NOT_ATTEMPTED),
        (is_earlier, Status.ALREADY_UPLOADED),
        (~_is_duplicate, file.c.status),
        (~_same_bytes, Status.CONFLICT),
        (in_report, Status.DUPLICATE),
        else_=Status.ALREADY_UPLOADED,
    )


def _is_in_report(of: Any, rows: Any, run_ids: Sequence[str]) -> Any:
    """Whether the file of a row of `of` has a row in the report, found in the alias `rows` of listing."""
    return (
        sa.exists(rows.c.file_id)  # not of *, for which SQLite would go through all of the run
        .where(rows.c.file_id == of.c.file_id, rows.c.run_id.in_(run_ids))
        .correlate(of)
    )


def _same_uid_path() -> Any:
    """The file that has the row's SOP Instance UID: looked up for rows that share one, for no other."""
    path = (
        sa.select(_owner.c.path)
        .where(_owner.c.file_id == instance.c.file_id, _owner.c.file_id != file.c.file_id)
        .correlate(instance, file)
        .scalar_subquery()
    )
    shared = sa.case((listing.c.settled & _shares_uid, path))
    return sa.func.coalesce(shared, "")


def _superseded_keys(run_ids: Sequence[str]) -> Any:
    """Every key that was issued for the file and no row of this report is stored under, oldest first."""
    keys = (
        sa.select(issued_key.c.key)
        .where(
            issued_key.c.file_id == file.c.file_id,
            issued_key.c.key != file.c.key,
            ~_is_a_duplicates_key(run_ids),
        )
        .order_by(issued_key.c.issued_ns)
        .correlate(file)
        .subquery()
    )
    joined = sa.select(sa.func.aggregate_strings(keys.c.key, ";")).scalar_subquery()
    return sa.func.coalesce(joined, "")


def _is_a_duplicates_key(run_ids: Sequence[str]) -> Any:
    """Files that swapped their names: what one path stored is now a duplicate's key, under another path."""
    return (
        sa.exists(_duplicate.c.file_id)
        .where(
            _stored.c.campaign == issued_key.c.campaign,
            _stored.c.sop_instance_uid == issued_key.c.sop_instance_uid,
            _stored.c.key == issued_key.c.key,
            _duplicate.c.campaign == _stored.c.campaign,
            _duplicate.c.sop_instance_uid == _stored.c.sop_instance_uid,
            _duplicate.c.sha256 == _stored.c.sha256,
            _duplicate.c.status == sa.literal_column("'duplicate'"),  # literal, for the index on these
            _is_in_report(_duplicate, _duplicates_listing, run_ids),
        )
        .correlate(issued_key)
    )
