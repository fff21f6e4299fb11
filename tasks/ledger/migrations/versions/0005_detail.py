"""Why a file failed, in the platform's own terms; empty for what an earlier version gave up."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds file.detail."""
    op.add_column("file", sa.Column("detail", sa.Text(), server_default="", nullable=False))
