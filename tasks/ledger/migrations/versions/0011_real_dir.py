"""Which real directory a migration found a study entry to be; null where none was decided for all shards."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds study.real_dir."""
    op.add_column("study", sa.Column("real_dir", sa.Text()))
