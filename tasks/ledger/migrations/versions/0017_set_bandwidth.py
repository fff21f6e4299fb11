"""A bandwidth that is set for runs at work."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Adds set_bandwidth."""
    op.create_table(
        "set_bandwidth",
        sa.Column("campaign", sa.Text(), primary_key=True),
        sa.Column("bandwidth", sa.Text(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Text(), server_default="", nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
    )
