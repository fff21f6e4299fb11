"""In PostgreSQL the index on paths is over a digest: an index takes no row longer than 2.7 kB."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_PATH_SHA256 = r"sha256(CAST(replace(path, '\', '\\') AS bytea))"


def upgrade() -> None:
    """Replaces the unique index."""
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("file_by_path", "file", ["campaign", sa.text(_PATH_SHA256)], unique=True)
        op.drop_constraint("file_campaign_path_key", "file", type_="unique")
