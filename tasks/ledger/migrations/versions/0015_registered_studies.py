"""Studies that have arrived: their numbers, and which completion was announced."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Adds registered_study."""
    op.create_table(
        "registered_study",
        sa.Column("study_no", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), primary_key=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("campaign", "registry", "study_instance_uid")
        ),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("instances", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion", sa.Integer(), server_default="0", nullable=False),
        sa.Column("event_id", sa.Text(), server_default="", nullable=False),
        sa.Column("is_announced", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.UniqueConstraint("campaign", "registry", "study_instance_uid"),
    )
