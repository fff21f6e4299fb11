"""The CRC64NVME of what is stored, and what vouches for it; empty for what an earlier version stored."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_NEW = {
    "file": ("crc64nvme", "proof"),
    "stored_file": ("crc64nvme", "proof"),
    "instance": ("md5", "crc64nvme", "proof"),
    "other_content": ("md5", "crc64nvme", "proof"),
}


def upgrade() -> None:
    """Adds crc64nvme and proof, and to claims the MD5, which a duplicate does not have of its own."""
    for table, names in _NEW.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text(), server_default="", nullable=False))
