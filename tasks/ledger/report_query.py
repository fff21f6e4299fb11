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

A twin has the key of the file it is a twin of; attempts, times and run_id are the storing run's. It, and what
is in conflict, has the path of the file that has its UID, whichever report that is in.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tasks.core.models import Reason, Status
from tasks.ledger.schema import file, instance, issued_key, listing, study

_instance = instance.alias("stored_instance")
_twin = file.alias("twin")
_owner = file.alias("owner")
_twins_listing = listing.alias("twins_listing")
_owners_listing = listing.alias("owners_listing")


def report_select(run_id: str, run_ids: Sequence[str]) -> "sa.Select[Any]":
    """A run's rows of a report, in the order of ROW_COLUMNS and of its rows; times in ns, duration_s null.

    `run_ids`: all runs whose rows the report has, this one among them.
    """
    in_report = (
        sa.exists(_owners_listing.c.file_id)  # not of *, for which SQLite would go through all of the run
        .where(_owners_listing.c.file_id == instance.c.file_id, _owners_listing.c.run_id.in_(run_ids))
        .correlate(instance)
    )
    same_bytes = sa.func.coalesce(instance.c.sha256, "") == file.c.sha256
    is_twin = file.c.status == Status.DUPLICATE
    shares_uid = file.c.status.in_((Status.DUPLICATE, Status.CONFLICT))
    is_earlier = (file.c.status == Status.UPLOADED) & file.c.run_id.not_in(run_ids)
    from_owner = is_twin & same_bytes & ~in_report

    def told(name: str, before: Any) -> Any:
        """A column that says something of the run that stored the bytes; `before` it is settled."""
        own = sa.case((from_owner, instance.c[name]), else_=file.c[name])
        return sa.case((listing.c.settled, own), else_=before).label(name)

    return (
        sa.select(
            listing.c.study_no,
            listing.c.file_no,
            study.c.study_dir,
            file.c.path,
            sa.case(
                (~listing.c.settled, Status.NOT_ATTEMPTED),
                (is_earlier, Status.ALREADY_UPLOADED),
                (~is_twin, file.c.status),
                (~same_bytes, Status.CONFLICT),
                (in_report, Status.DUPLICATE),
                else_=Status.ALREADY_UPLOADED,
            ).label("status"),
            sa.case((~listing.c.settled, Reason.STOPPED), (is_earlier, ""), else_=file.c.reason).label(
                "reason"
            ),
            sa.case((~is_twin, file.c.key), (same_bytes, instance.c.key), else_="").label("key"),
            file.c.sop_instance_uid,
            file.c.study_instance_uid,
            file.c.series_instance_uid,
            file.c.sop_class_uid,
            file.c.transfer_syntax_uid,
            file.c.size_bytes,
            file.c.sha256,
            file.c.md5,
            file.c.etag,
            told("attempts", 0),
            _superseded_keys(run_ids),
            told("http_status", None),
            told("started_ns", None),
            told("finished_ns", None),
            sa.null().label("duration_s"),
            told("run_id", ""),
            _same_uid_path(shares_uid),
            file.c.modality,
        )
        .join(file, file.c.file_id == listing.c.file_id)
        .join(study, (study.c.run_id == listing.c.run_id) & (study.c.study_no == listing.c.study_no))
        .outerjoin(
            instance,
            shares_uid
            & (instance.c.campaign == file.c.campaign)
            & (instance.c.sop_instance_uid == file.c.sop_instance_uid),
        )
        .where(listing.c.run_id == run_id)
        .order_by(listing.c.study_no, listing.c.file_no)
    )


def _same_uid_path(shares_uid: Any) -> Any:
    """The file that has the row's SOP Instance UID: looked up for rows that share one, for no other."""
    path = (
        sa.select(_owner.c.path)
        .where(_owner.c.file_id == instance.c.file_id, _owner.c.file_id != file.c.file_id)
        .correlate(instance, file)
        .scalar_subquery()
    )
    shared = sa.case((listing.c.settled & shares_uid, path))
    return sa.func.coalesce(shared, "").label("same_uid_path")


def _superseded_keys(run_ids: Sequence[str]) -> Any:
    """Every key that was handed out for the file and no row of this report is stored under, oldest first."""
    keys = (
        sa.select(issued_key.c.key)
        .where(
            issued_key.c.file_id == file.c.file_id,
            issued_key.c.key != file.c.key,
            ~_is_a_twins_key(run_ids),
        )
        .order_by(issued_key.c.issued_ns)
        .correlate(file)
        .subquery()
    )
    joined = sa.select(sa.func.aggregate_strings(keys.c.key, ";")).scalar_subquery()
    return sa.func.coalesce(joined, "").label("superseded_keys")


def _is_a_twins_key(run_ids: Sequence[str]) -> Any:
    """Files that swapped their names: what one path stored is now a duplicate's key, under another path."""
    in_report = (
        sa.exists(_twins_listing.c.file_id)  # as above
        .where(_twins_listing.c.file_id == _twin.c.file_id, _twins_listing.c.run_id.in_(run_ids))
        .correlate(_twin)
    )
    return (
        sa.exists(_twin.c.file_id)
        .where(
            _instance.c.campaign == issued_key.c.campaign,
            _instance.c.sop_instance_uid == issued_key.c.sop_instance_uid,
            _instance.c.key == issued_key.c.key,
            _twin.c.campaign == _instance.c.campaign,
            _twin.c.sop_instance_uid == _instance.c.sop_instance_uid,
            _twin.c.sha256 == _instance.c.sha256,
            _twin.c.status == sa.literal_column("'duplicate'"),  # literal, for the index on twins
            in_report,
        )
        .correlate(issued_key)
    )
