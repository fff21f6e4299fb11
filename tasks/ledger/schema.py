"""The ledger's tables.

    run           who is at work, and until when it is known to live; a shard is a run <run_id>-<number>
    study         the manifest's rows of a run
    file          what is known of a path: the report's columns, as of the last look at it
    listing       the rows of a run's report: which file, which batch, settled in this run or not
    instance      the claim on a SOP Instance UID: first come; with a key once it is stored
    issued_key    every key ever issued; those that are not their file's key are superseded, and those of no
                  file (file_id 0) were asked for at a run's start and are unused

Paths are stored escaped (`core/escape.py`). One that ends in a slash is no file's, but that of a directory or
link that was not walked: a file of that path has a row of its own. What the report says is derived from these
rows; nothing is kept twice.
"""

from typing import Final

import sqlalchemy as sa

HEAD: Final = "0006"  # the newest revision in migrations/versions

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
    sa.Column("real_dir", _text),  # as the migration resolved it, escaped; null: no shard walks it
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
    sa.Column("detail", _text, nullable=False, server_default=""),
    sa.UniqueConstraint("campaign", "path"),
    sa.Index(
        "file_by_uid",
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
