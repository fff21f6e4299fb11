"""A manifest may say how many bytes a study has."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds study.expected_bytes."""
    op.add_column("study", sa.Column("expected_bytes", sa.BigInteger(), nullable=True))
