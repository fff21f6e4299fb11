"""A run tells how far it is with each sign of life."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds run.progress."""
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("progress", sa.JSON(), nullable=True))
