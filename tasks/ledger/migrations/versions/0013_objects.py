"""The platform's side: objects of a bucket, how far it is listed, and what is registered where."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Adds bucket_listing, bucket_object and registered_instance."""
    op.create_table(
        "bucket_listing",
        sa.Column("campaign", sa.Text(), primary_key=True),
        sa.Column("bucket", sa.Text(), primary_key=True),
        sa.Column("prefix", sa.Text(), primary_key=True),
        sa.Column("after_key", sa.Text(), nullable=False),
        sa.Column("is_whole", sa.Boolean(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    _create_objects()
    _create_registered()


def _create_objects() -> None:
    texts = ("status", "reason", "detail", "sop_instance_uid", "study_instance_uid", "sha256")
    op.create_table(
        "bucket_object",
        sa.Column(
            "object_id",
            sa.Integer().with_variant(sa.BigInteger(), "postgresql"),
            primary_key=True,
        ),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("campaign", "bucket", "key")),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("etag", sa.Text(), server_default="", nullable=False),
        sa.Column("modified_ns", sa.BigInteger(), server_default="0", nullable=False),
        *(sa.Column(name, sa.Text(), server_default="", nullable=False) for name in texts),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_ns", sa.BigInteger()),
        sa.Column("finished_ns", sa.BigInteger()),
        sa.Column("run_id", sa.Text(), server_default="", nullable=False),
        sa.Column("moved_to", sa.Text(), server_default="", nullable=False),
        sa.Column("tagged", sa.Text(), server_default="", nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("claimed_by", sa.Text(), server_default="", nullable=False),
        sa.Column("batch_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
    )
    op.create_index("bucket_object_by_key", "bucket_object", ["campaign", "bucket", "key"], unique=True)
    order = ["campaign", "bucket", "study_instance_uid", "modified_ns", "object_id"]
    _create_partial("bucket_object_open", "bucket_object", order, "is_open")


def _create_registered() -> None:
    op.create_table(
        "registered_instance",
        sa.Column("campaign", sa.Text(), primary_key=True),
        sa.Column("registry", sa.Text(), primary_key=True),
        sa.Column("sop_instance_uid", sa.Text(), primary_key=True),
        sa.Column("study_instance_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("series_instance_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("object_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), server_default="", nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("registered_ns", sa.BigInteger()),
        sqlite_with_rowid=False,
    )
    by_study = ["campaign", "registry", "study_instance_uid", "sop_instance_uid"]
    op.create_index("registered_by_study", "registered_instance", by_study)
    _create_partial("registered_unstored", "registered_instance", ["run_id"], "key = ''")


def _create_partial(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
