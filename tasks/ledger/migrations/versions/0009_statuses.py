"""What was stored of a path keeps its row when a later look finds the file otherwise, and when it was read.

A file of an older ledger takes its ctime when it is listed next.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# What an earlier version overwrote: a path's newest instance, with the UIDs that its row still has of it.
_SET_ASIDE = """
INSERT INTO stored_file (
    file_id, status, sop_instance_uid, study_instance_uid, series_instance_uid, sop_class_uid,
    transfer_syntax_uid, modality, sha256, md5, key, etag, attempts, http_status, started_ns, finished_ns,
    run_id
)
SELECT file_id, 'uploaded', uid, CASE WHEN same THEN study ELSE '' END,
    CASE WHEN same THEN series ELSE '' END,
    CASE WHEN same THEN sop_class ELSE '' END, CASE WHEN same THEN syntax ELSE '' END,
    CASE WHEN same THEN modality ELSE '' END, sha256, '', key, etag, attempts, http_status, started_ns,
    finished_ns, run_id
FROM (
    SELECT i.file_id, i.sop_instance_uid AS uid, i.sop_instance_uid = f.sop_instance_uid AS same,
        f.study_instance_uid AS study, f.series_instance_uid AS series, f.sop_class_uid AS sop_class,
        f.transfer_syntax_uid AS syntax, f.modality, i.sha256, i.key, i.etag, i.attempts, i.http_status,
        i.started_ns, i.finished_ns, i.run_id,
        row_number() OVER (PARTITION BY i.file_id ORDER BY i.finished_ns DESC, i.sop_instance_uid) AS age
    FROM instance i JOIN file f ON f.file_id = i.file_id
    WHERE i.key <> '' AND f.status NOT IN ('uploaded', 'duplicate')
) AS overwritten
WHERE age = 1
"""
_LEFT = (
    "status IN ('', 'changed', 'conflict', 'failed', 'invalid', 'missing', 'not_attempted', 'too_large', "
    "'unreadable')"
)
_TEXTS = (
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "modality",
    "sha256",
    "md5",
    "key",
    "etag",
)


def upgrade() -> None:
    """Adds file.ctime_ns, read_ns and last_status, and stored_file, filled with what is known."""
    for name in ("ctime_ns", "read_ns"):
        op.add_column("file", sa.Column(name, sa.BigInteger()))
    op.add_column("file", sa.Column("last_status", sa.Text(), nullable=False, server_default=""))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    path = "(path || '')" if is_sqlite else '(substr(path, 1, 500) COLLATE "C")'
    op.execute(f"CREATE INDEX file_left ON file (campaign, {path}) WHERE {_LEFT}")
    op.execute(
        f"CREATE INDEX study_by_dir ON study ({'study_dir' if is_sqlite else 'substr(study_dir, 1, 500)'})"
    )
    op.create_table(
        "stored_file",
        sa.Column("file_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("mtime_ns", sa.BigInteger()),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("http_status", sa.Integer()),
        sa.Column("started_ns", sa.BigInteger()),
        sa.Column("finished_ns", sa.BigInteger()),
        sa.Column("run_id", sa.Text(), nullable=False),
    )
    op.execute(_SET_ASIDE)
