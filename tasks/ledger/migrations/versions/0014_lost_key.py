"""What the store has lost, as `verify` found: the key of the object, beside where it is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Adds lost_key."""
    for table in ("file", "stored_file", "instance", "other_content"):
        op.add_column(table, sa.Column("lost_key", sa.Text(), server_default="", nullable=False))
