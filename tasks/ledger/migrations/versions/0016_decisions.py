"""What a person decided about rows of a report that are not fine, and about which file as it was then."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Adds decision."""
    op.create_table(
        "decision",
        sa.Column("file_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("decision", "status", "reason")),
        *(sa.Column(name, sa.BigInteger()) for name in ("size_bytes", "mtime_ns", "ctime_ns")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("sha256", "stored_sha256")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("user_id", "reason_text")),
        sa.Column("decided_ns", sa.BigInteger(), nullable=False),
    )
