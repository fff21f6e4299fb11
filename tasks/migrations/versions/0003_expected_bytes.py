"""A manifest may say how many bytes a study has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds study.expected_bytes."""
    with op.batch_alter_table("study") as study:
        study.add_column(sa.Column("expected_bytes", sa.BigInteger(), nullable=True))
