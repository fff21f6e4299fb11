"""Indexes by which every statement finds its rows, however many there are."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds those of a run's last file and of its claims; listing_to_do has the report's order now."""
    op.create_index("file_by_end", "file", ["run_id", "finished_ns"])
    unstored, to_do = sa.text("key = ''"), sa.text("NOT settled")
    op.create_index(
        "instance_unstored", "instance", ["run_id"], sqlite_where=unstored, postgresql_where=unstored
    )
    op.drop_index("listing_to_do", "listing")
    op.create_index(
        "listing_to_do",
        "listing",
        ["run_id", "batch_no", "study_no", "file_no"],
        sqlite_where=to_do,
        postgresql_where=to_do,
    )
