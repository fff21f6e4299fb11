"""A file's modality, for studies.csv; empty for what an earlier version looked at."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds file.modality."""
    op.add_column("file", sa.Column("modality", sa.Text(), server_default="", nullable=False))
