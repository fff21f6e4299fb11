"""The ledger's tables, and the statements that write them for many rows at once."""

from typing import Any, Final

import sqlalchemy as sa

from tasks.core.models import Status

HEAD: Final = "0004"  # the newest revision in migrations/versions

metadata = sa.MetaData()
_text = sa.Text
_big = sa.BigInteger

revision = sa.Table(  # alembic's own
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
run = sa.Table(
    "run",
    metadata,
    sa.Column("run_id", _text, primary_key=True),
    sa.Column("campaign", _text, nullable=False),
    sa.Column("started_ns", _big, nullable=False),
    sa.Column("heartbeat_s", _big, nullable=False),  # by the database's clock; 0 when the run has ended
    sa.Column("report_dir", _text, nullable=False),
    sa.Column("end", sa.JSON),  # RunEnd; null when the run was killed
    sa.Column("progress", sa.JSON),  # its counters at the last heartbeat
)
study = sa.Table(
    "study",
    metadata,
    sa.Column("run_id", _text, primary_key=True),
    sa.Column("study_no", sa.Integer, primary_key=True),
    sa.Column("study_dir", _text, nullable=False),
    sa.Column("study_instance_uid", _text, nullable=False),
    sa.Column("expected_instances", sa.Integer),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("label", _text, nullable=False),
    sa.Column("extra", sa.JSON, nullable=False),
    sa.Column("overlaps", sa.Integer),
    sa.Column("scanned", sa.Boolean, nullable=False),
    sa.Column("expected_bytes", _big),
)
file = sa.Table(
    "file",
    metadata,
    sa.Column("file_id", sa.Integer().with_variant(_big, "postgresql"), primary_key=True),
    sa.Column("campaign", _text, nullable=False),
    sa.Column("path", _text, nullable=False),
    sa.Column("size_bytes", _big),
    sa.Column("mtime_ns", _big),
    sa.Column("status", _text, nullable=False, server_default=""),
    sa.Column("reason", _text, nullable=False, server_default=""),
    sa.Column("key", _text, nullable=False, server_default=""),
    sa.Column("sop_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("study_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("series_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("sop_class_uid", _text, nullable=False, server_default=""),
    sa.Column("transfer_syntax_uid", _text, nullable=False, server_default=""),
    sa.Column("sha256", _text, nullable=False, server_default=""),
    sa.Column("md5", _text, nullable=False, server_default=""),
    sa.Column("etag", _text, nullable=False, server_default=""),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("http_status", sa.Integer),
    sa.Column("started_ns", _big),
    sa.Column("finished_ns", _big),
    sa.Column("run_id", _text, nullable=False, server_default=""),
    sa.Column("modality", _text, nullable=False, server_default=""),
    sa.UniqueConstraint("campaign", "path"),
    sa.Index(
        "file_twins",
        "campaign",
        "sop_instance_uid",
        sqlite_where=sa.text("status = 'duplicate'"),
        postgresql_where=sa.text("status = 'duplicate'"),
    ),
)
listing = sa.Table(
    "listing",
    metadata,
    sa.Column("run_id", _text, primary_key=True),
    sa.Column("study_no", sa.Integer, primary_key=True),
    sa.Column("file_no", sa.Integer, primary_key=True),
    sa.Column("file_id", _big, nullable=False),
    sa.Column("batch_no", sa.Integer, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Index("listing_by_file", "file_id", "run_id"),
    sa.Index(
        "listing_to_do",
        "run_id",
        "batch_no",
        sqlite_where=sa.text("NOT settled"),
        postgresql_where=sa.text("NOT settled"),
    ),
    sqlite_with_rowid=False,
)
instance = sa.Table(
    "instance",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("sop_instance_uid", _text, primary_key=True),
    sa.Column("file_id", _big, nullable=False),
    sa.Column("run_id", _text, nullable=False),  # who claims, or who stored
    sa.Column("sha256", _text, nullable=False, server_default=""),
    sa.Column("key", _text, nullable=False, server_default=""),  # empty: claimed, not stored yet
    sa.Column("etag", _text, nullable=False, server_default=""),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("http_status", sa.Integer),
    sa.Column("started_ns", _big),
    sa.Column("finished_ns", _big),
    sqlite_with_rowid=False,
)
issued_key = sa.Table(
    "issued_key",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("key", _text, primary_key=True),
    sa.Column("file_id", _big, nullable=False, index=True),
    sa.Column("run_id", _text, nullable=False),
    sa.Column("issued_ns", _big, nullable=False),
    sa.Column("sop_instance_uid", _text, nullable=False),  # of what was to be sent there
    sqlite_with_rowid=False,
)


# Bound names differ from the columns they set: SQLAlchemy keeps the columns' own names for itself.

_bind = sa.bindparam
KNOWN: Final = sa.select(
    file.c.path, file.c.file_id, file.c.status, file.c.size_bytes, file.c.mtime_ns
).where(file.c.campaign == _bind("in_campaign"), file.c.path.in_(_bind("paths", expanding=True)))
CLAIMED: Final = (
    sa.select(*(instance.c[name] for name in ("sop_instance_uid", "file_id", "run_id", "sha256", "key")))
    .outerjoin(run, run.c.run_id == instance.c.run_id)
    .where(
        instance.c.campaign == _bind("in_campaign"),
        instance.c.sop_instance_uid.in_(_bind("uids", expanding=True)),
    )
)
ISSUED: Final = sa.select(
    issued_key.c.file_id, issued_key.c.key, issued_key.c.issued_ns, issued_key.c.sop_instance_uid
).where(
    issued_key.c.campaign == _bind("in_campaign"),
    issued_key.c.run_id == _bind("in_run"),
    issued_key.c.key.in_(_bind("keys", expanding=True)),
)
KEYS_OF: Final = sa.select(issued_key.c.file_id, issued_key.c.key).where(
    issued_key.c.campaign == _bind("in_campaign"),
    issued_key.c.file_id.in_(_bind("files", expanding=True)),
)
_KNOWN_COLUMNS: Final[dict[str, Any]] = {
    "size_bytes": _bind("size"),
    "mtime_ns": _bind("mtime"),
    "sop_instance_uid": _bind("sop"),
    "study_instance_uid": _bind("study_uid"),
    "series_instance_uid": _bind("series"),
    "sop_class_uid": _bind("sop_class"),
    "transfer_syntax_uid": _bind("syntax"),
    "modality": _bind("modality_is"),
    "sha256": _bind("sha"),
    "md5": _bind("md5_is"),
}
LOOKED_AT: Final = (
    sa.update(file)
    .where(file.c.file_id == _bind("at"))
    .values(
        **_KNOWN_COLUMNS,
        status=_bind("now"),
        reason=_bind("why"),
        key=_bind("stored_as"),
        etag=_bind("etag_is"),
        attempts=_bind("tries"),
        http_status=_bind("http"),
        started_ns=_bind("began"),
        finished_ns=_bind("ended"),
        run_id=_bind("by"),
    )
)
# Looked at, and found to be what is stored: the row says that it is, and the storing run's facts, again.
KEPT: Final = sa.update(file).where(file.c.file_id == _bind("at")).values(**_KNOWN_COLUMNS)
_OF_THE_STORING_RUN: Final = ("key", "etag", "attempts", "http_status", "started_ns", "finished_ns", "run_id")
KEPT_KEY: Final = (
    sa.update(file)
    .where(
        file.c.file_id == _bind("at"),
        instance.c.file_id == file.c.file_id,
        instance.c.campaign == file.c.campaign,
        instance.c.sop_instance_uid == _bind("uid"),
    )
    .values(status=Status.UPLOADED, reason="", **{name: instance.c[name] for name in _OF_THE_STORING_RUN})
)
UNWALKED: Final = (
    sa.update(file)
    .where(file.c.file_id == _bind("at"))
    .values(status=_bind("now"), reason=_bind("why"), run_id=_bind("by"), key="")
)
_MINE: Final = (
    instance.c.campaign == _bind("in_campaign"),
    instance.c.sop_instance_uid == _bind("uid"),
    instance.c.file_id == _bind("at"),
)
STORED: Final = (
    sa.update(instance)
    .where(*_MINE)
    .values(
        sha256=_bind("sha"),
        key=_bind("stored_as"),
        run_id=_bind("by"),
        etag=_bind("etag_is"),
        attempts=_bind("tries"),
        http_status=_bind("http"),
        started_ns=_bind("began"),
        finished_ns=_bind("ended"),
    )
)
UNCLAIM: Final = sa.delete(instance).where(*_MINE, instance.c.key == "", instance.c.run_id == _bind("by"))
SETTLED: Final = (
    sa.update(listing)
    .where(
        listing.c.run_id == _bind("in_run"),
        listing.c.study_no == _bind("study_no_is"),
        listing.c.file_no == _bind("file_no_is"),
    )
    .values(settled=True)
)
