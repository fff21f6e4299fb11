"""Runs have an order and a lock; other bytes may be stored beside those of their UID."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds run.serial, by the clock for earlier runs, run.locked, listing.said, and other_content."""
    op.add_column("run", sa.Column("serial", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("run", sa.Column("locked", sa.Text(), server_default="", nullable=False))
    op.execute(
        "UPDATE run SET serial ="
        " (SELECT count(*) FROM run AS earlier WHERE earlier.started_ns <= run.started_ns)"
    )
    op.add_column("listing", sa.Column("said", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "other_content",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("file_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), server_default="", nullable=False),
        sa.Column("etag", sa.Text(), server_default="", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("started_ns", sa.BigInteger(), nullable=True),
        sa.Column("finished_ns", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("campaign", "sop_instance_uid", "sha256"),
        sqlite_with_rowid=False,
    )
    unstored = sa.text("key = ''")
    op.create_index(
        "other_content_unstored",
        "other_content",
        ["run_id"],
        sqlite_where=unstored,
        postgresql_where=unstored,
    )
