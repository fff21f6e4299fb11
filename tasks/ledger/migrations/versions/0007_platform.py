"""Which platform a campaign belongs to, and where each run's files went; unknown of what was before."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds platform and storage_host, and what run knows of its target."""
    for name in ("api_host", "manifest_sha256", "root"):
        op.add_column("run", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.create_table(
        "storage_host",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("host", sa.Text(), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "platform",
        sa.Column("campaign", sa.Text(), primary_key=True),
        sa.Column("api_hosts", sa.JSON(), nullable=False),
    )
