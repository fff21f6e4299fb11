"""The ledger's tables.

    run           who is at work, and until when it is known to live; a shard is a run <run_id>-<number>
    storage_host  which hosts of the store a run's files went to
    platform      whose each campaign is: the hosts by which its upload API is known
    study         the manifest's rows of a run
    file          what is known of a path: the report's columns, as of the last look at it
    stored_file   of a path that a later look found otherwise: its row as it was while it was stored
    listing       the rows of a run's report: which file, which batch, settled in this run or not
    instance      the claim on a SOP Instance UID: first come; with a key once it is stored
    other_content the same for other bytes under a UID that is stored, where they are to be sent, too
    decision      what a person decided about the row of a path, and what row and file were then
    issued_key    every key ever issued; those that are not their file's key are superseded, and those of no
                  file (file_id 0) were asked for at a run's start and are unused

    bucket_listing       how far the listing of a bucket has come; a whole one is followed by a new one
    bucket_object        what is known of an object of a bucket: registration.csv, as of the last look at it
    registered_instance  the claim on a SOP Instance UID in a registry: first come; with a key once it is
                         registered there: what is complete, and what verify looks for, starts from these rows
    registered_study     a study of which instances are registered: its number, and its completions

    set_bandwidth        what somebody set for the runs of a campaign that are at work

What `verify` does not find in the store has its key in `lost_key`, too: as long as it is the row's `key`, the
object is lost, and is to be sent again.

Paths are stored escaped (`core/escape.py`). One that ends in a slash is no file's, but that of a directory or
link that was not walked: a file of that path has a row of its own. What the report says is derived from these
rows; nothing is kept twice.
"""

from typing import Any, Final

import sqlalchemy as sa

HEAD: Final = "0017"  # the newest revision in migrations/versions

# An index of PostgreSQL's takes no row longer than 2.7 kB; an escaped path may have 16. A backslash would
# begin an escape of its own in the cast: doubled, it stands for itself, so these are the path's bytes.
PATH_SHA256: Final = r"sha256(CAST(replace(path, '\', '\\') AS bytea))"

# What a run left without storing it, or has not come to yet.
LEFT: Final = (
    "status IN ('', 'changed', 'conflict', 'failed', 'invalid', 'missing', 'not_attempted', 'too_large', "
    "'unreadable')"
)
PATH_HEAD: Final = 500  # characters of a path in an index of PostgreSQL, which takes no more than 2.7 kB

metadata = sa.MetaData()
_text = sa.Text
_big = sa.BigInteger

# Of partial indexes, and of the statements that are to use them. A database compares the text of the two, so
# a value that is bound would not do.
UNSTORED: Final = sa.text("key = ''")  # of an instance: claimed, and nothing stored yet
UNSETTLED: Final = sa.text("NOT settled")  # of a listing
OPEN: Final = sa.text("is_open")  # of an object: to be looked at, by whoever claims it

revision = sa.Table(  # alembic's own
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
run = sa.Table(
    "run",
    metadata,
    sa.Column("run_id", _text, primary_key=True),
    sa.Column("campaign", _text, nullable=False),
    sa.Column("started_ns", _big, nullable=False),
    sa.Column("heartbeat_s", _big, nullable=False),  # by the database's clock; 0: ended, or declared dead
    sa.Column("report_dir", _text, nullable=False),  # of an ingest's run: its registration.csv
    sa.Column("end", sa.JSON),  # RunEnd; null when the run was killed
    sa.Column("progress", sa.JSON),  # its counters at the last heartbeat
    sa.Column("api_host", _text, nullable=False, server_default=""),
    sa.Column("manifest_sha256", _text, nullable=False, server_default=""),
    sa.Column("root", _text, nullable=False, server_default=""),
    sa.Column("serial", _big, nullable=False, server_default="0"),  # grows with each run that begins
    sa.Column("locked", _text, nullable=False, server_default=""),  # by its process: `liveness.kept_lock`
)
storage_host = sa.Table(
    "storage_host",
    metadata,
    sa.Column("run_id", _text, primary_key=True),
    sa.Column("host", _text, primary_key=True),  # host:port, before the run's first file goes there
    sqlite_with_rowid=False,
)
platform = sa.Table(
    "platform",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("api_hosts", sa.JSON, nullable=False),  # host:port: the first, and those said to be the same
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
    sa.Column("ctime_ns", _big),  # as mtime_ns: of what was read; null: by an earlier version
    sa.Column("read_ns", _big),
    sa.Column("last_status", _text, nullable=False, server_default=""),  # of a file that is gone: its own
    sa.Column("crc64nvme", _text, nullable=False, server_default=""),  # empty: by an earlier version
    sa.Column("proof", _text, nullable=False, server_default=""),  # that its object has these bytes
    sa.Column("lost_key", _text, nullable=False, server_default=""),  # an object that the store has lost
    sa.UniqueConstraint("campaign", "path").ddl_if(dialect="sqlite"),
    sa.Index("file_by_path", "campaign", sa.text(PATH_SHA256), unique=True).ddl_if(dialect="postgresql"),
    sa.Index("file_by_end", "run_id", "finished_ns"),
    sa.Index(
        "file_by_uid",
        "campaign",
        "sop_instance_uid",
        sqlite_where=sa.text("status = 'duplicate'"),
    ),
)
stored_file = sa.Table(
    "stored_file",
    metadata,
    sa.Column("file_id", _big, primary_key=True, autoincrement=False),
    sa.Column("status", _text, nullable=False),  # uploaded, or duplicate: of another file's object
    sa.Column("size_bytes", _big),
    sa.Column("mtime_ns", _big),
    sa.Column("sop_instance_uid", _text, nullable=False),
    sa.Column("study_instance_uid", _text, nullable=False),
    sa.Column("series_instance_uid", _text, nullable=False),
    sa.Column("sop_class_uid", _text, nullable=False),
    sa.Column("transfer_syntax_uid", _text, nullable=False),
    sa.Column("modality", _text, nullable=False),
    sa.Column("sha256", _text, nullable=False),
    sa.Column("md5", _text, nullable=False),
    sa.Column("key", _text, nullable=False),
    sa.Column("etag", _text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("http_status", sa.Integer),
    sa.Column("started_ns", _big),
    sa.Column("finished_ns", _big),
    sa.Column("run_id", _text, nullable=False),
    sa.Column("crc64nvme", _text, nullable=False, server_default=""),
    sa.Column("proof", _text, nullable=False, server_default=""),
    sa.Column("lost_key", _text, nullable=False, server_default=""),
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
    sa.Column("said", _text, nullable=False, server_default=""),  # status/reason; empty: what was stored
    sa.Index("listing_by_file", "file_id", "run_id"),
    sa.Index(
        "listing_to_do",
        "run_id",
        "batch_no",
        "study_no",
        "file_no",
        sqlite_where=UNSETTLED,
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
    sa.Column("md5", _text, nullable=False, server_default=""),
    sa.Column("crc64nvme", _text, nullable=False, server_default=""),
    sa.Column("proof", _text, nullable=False, server_default=""),
    sa.Column("lost_key", _text, nullable=False, server_default=""),
    sa.Index("instance_unstored", "run_id", sqlite_where=UNSTORED),
    sqlite_with_rowid=False,
)
other_content = sa.Table(
    "other_content",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("sop_instance_uid", _text, primary_key=True),
    sa.Column("sha256", _text, primary_key=True),
    sa.Column("file_id", _big, nullable=False),
    sa.Column("run_id", _text, nullable=False),
    sa.Column("key", _text, nullable=False, server_default=""),
    sa.Column("etag", _text, nullable=False, server_default=""),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("http_status", sa.Integer),
    sa.Column("started_ns", _big),
    sa.Column("finished_ns", _big),
    sa.Column("md5", _text, nullable=False, server_default=""),
    sa.Column("crc64nvme", _text, nullable=False, server_default=""),
    sa.Column("proof", _text, nullable=False, server_default=""),
    sa.Column("lost_key", _text, nullable=False, server_default=""),
    sa.Index("other_content_unstored", "run_id", sqlite_where=UNSTORED),
    sqlite_with_rowid=False,
)
decision = sa.Table(
    "decision",
    metadata,
    sa.Column("file_id", _big, primary_key=True, autoincrement=False),
    sa.Column("decision", _text, nullable=False),
    sa.Column("status", _text, nullable=False),  # of the row, as its reason
    sa.Column("reason", _text, nullable=False),
    sa.Column("size_bytes", _big),
    sa.Column("mtime_ns", _big),
    sa.Column("ctime_ns", _big),
    sa.Column("sha256", _text, nullable=False),
    sa.Column("stored_sha256", _text, nullable=False),  # of the instance with which it is in conflict
    sa.Column("user_id", _text, nullable=False),  # escaped, as the next
    sa.Column("reason_text", _text, nullable=False),
    sa.Column("decided_ns", _big, nullable=False),
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
bucket_listing = sa.Table(
    "bucket_listing",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("bucket", _text, primary_key=True),
    sa.Column("prefix", _text, primary_key=True),
    sa.Column("after_key", _text, nullable=False),  # the cursor: objects up to this one are in the ledger
    sa.Column("is_whole", sa.Boolean, nullable=False),
    sa.Column("serial", _big, nullable=False),  # of the run that began it
    sqlite_with_rowid=False,
)
bucket_object = sa.Table(
    "bucket_object",
    metadata,
    sa.Column("object_id", sa.Integer().with_variant(_big, "postgresql"), primary_key=True),
    sa.Column("campaign", _text, nullable=False),
    sa.Column("bucket", _text, nullable=False),
    sa.Column("key", _text, nullable=False),
    sa.Column("size_bytes", _big),  # null: it was named, and nobody has looked
    sa.Column("etag", _text, nullable=False, server_default=""),
    sa.Column("modified_ns", _big, nullable=False, server_default="0"),
    sa.Column("status", _text, nullable=False, server_default=""),
    sa.Column("reason", _text, nullable=False, server_default=""),
    sa.Column("detail", _text, nullable=False, server_default=""),
    # As its key says it, by the upload's rows, until it is read.
    sa.Column("sop_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("study_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("sha256", _text, nullable=False, server_default=""),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # STOW requests it was part of
    sa.Column("started_ns", _big),
    sa.Column("finished_ns", _big),
    sa.Column("run_id", _text, nullable=False, server_default=""),  # that this outcome is of
    sa.Column("moved_to", _text, nullable=False, server_default=""),  # its key by now, or in a moment
    sa.Column("tagged", _text, nullable=False, server_default=""),  # the tag that it was given
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("claimed_by", _text, nullable=False, server_default=""),  # the run that has it in work
    sa.Column("batch_no", sa.Integer, nullable=False, server_default="0"),  # of that run
    sa.Column("seen", _big, nullable=False),  # the serial of the last listing that had it to be looked at
    sa.Index("bucket_object_by_key", "campaign", "bucket", "key", unique=True),
    sa.Index(
        "bucket_object_open",
        "campaign",
        "bucket",
        "study_instance_uid",
        "modified_ns",
        "object_id",
        sqlite_where=OPEN,
    ),
)
registered_instance = sa.Table(
    "registered_instance",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("registry", _text, primary_key=True),  # host:port/path of the DICOMweb server
    sa.Column("sop_instance_uid", _text, primary_key=True),
    sa.Column("study_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("series_instance_uid", _text, nullable=False, server_default=""),
    sa.Column("sha256", _text, nullable=False, server_default=""),  # of the object's bytes
    sa.Column("object_id", _big, nullable=False),
    sa.Column("key", _text, nullable=False, server_default=""),  # empty: claimed, not registered yet
    sa.Column("run_id", _text, nullable=False),  # who claims, or who registered
    sa.Column("registered_ns", _big),
    sa.Index("registered_by_study", "campaign", "registry", "study_instance_uid", "sop_instance_uid"),
    sa.Index("registered_unstored", "run_id", sqlite_where=UNSTORED),
    sqlite_with_rowid=False,
)
registered_study = sa.Table(
    "registered_study",
    metadata,
    # Its only name in Prefect.
    sa.Column("study_no", sa.Integer().with_variant(_big, "postgresql"), primary_key=True),
    sa.Column("campaign", _text, nullable=False),
    sa.Column("registry", _text, nullable=False),
    sa.Column("study_instance_uid", _text, nullable=False),
    sa.Column("label", _text, nullable=False, server_default=""),
    sa.Column("instances", _big, nullable=False, server_default="0"),  # that its last completion had
    sa.Column("completion", sa.Integer, nullable=False, server_default="0"),  # how many there were
    sa.Column("event_id", _text, nullable=False, server_default=""),  # of the last one's event
    sa.Column("is_announced", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.UniqueConstraint("campaign", "registry", "study_instance_uid"),
)
set_bandwidth = sa.Table(
    "set_bandwidth",
    metadata,
    sa.Column("campaign", _text, primary_key=True),
    sa.Column("bandwidth", _text, nullable=False),  # as it was given
    sa.Column("serial", _big, nullable=False),  # of the newest run then: it is for that and earlier ones
    sa.Column("user_id", _text, nullable=False, server_default=""),
    sa.Column("set_ns", _big, nullable=False),
)
# On each kind of database other indices, which alembic can't compare: on PostgreSQL over a path's head.
_PATH_HEAD: Final = f"substr(path, 1, {PATH_HEAD})"
_INDICES: Final = {
    "sqlite": (
        (file, f"CREATE INDEX file_left ON file (campaign, (path || '')) WHERE {LEFT}"),
        (study, "CREATE INDEX study_by_dir ON study (study_dir)"),
    ),
    "postgresql": (
        (
            file,
            f'CREATE INDEX file_left ON file (campaign, ({_PATH_HEAD} COLLATE "C")) WHERE {LEFT}',
        ),
        (study, f"CREATE INDEX study_by_dir ON study (substr(study_dir, 1, {PATH_HEAD}))"),
    ),
}
for dialect, indices in _INDICES.items():
    for table, statement in indices:
        ddl = sa.DDL(statement)  # type: ignore[no-untyped-call]
        sa.event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


def _restrict_indices(table: sa.Table, db: sa.Connection, **_: Any) -> None:
    """Partial indices are so in PostgreSQL, too: to name its keyword in a table would import its dialect."""
    if db.dialect.name == "postgresql":
        for index in table.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]


for table in metadata.tables.values():
    sa.event.listen(table, "before_create", _restrict_indices)
