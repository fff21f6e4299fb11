"""Who did what: a line for each key given out or filled, each search, each retrieval. No UID, no path.

JSON lines, appended one by one to a file for its owner alone; without a data directory they go to stdout,
which a container's log keeps.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tasks.core.errors import UsageError

FILE: Final = "gateway-audit.jsonl"


def _now() -> datetime:
    return datetime.now(UTC)


class GatewayAudit:
    """Writes them."""

    def __init__(self, data_dir: Path | None, now: Callable[[], datetime] = _now) -> None:
        """Raises UsageError when the file cannot be opened, or is a link."""
        self._now = now
        self._descriptor = _opened(data_dir) if data_dir else sys.stdout.fileno()

    def add(self, user: str, action: str, key: str = "") -> None:
        """Appends one line. OSError when it cannot: what the line says must not be confirmed then."""
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": time, "user": user, "action": action, "key": key}) + "\n"
        data = line.encode()
        if os.write(self._descriptor, data) != len(data):
            raise OSError("the disk is full")


def _opened(data_dir: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(data_dir / FILE, flags, 0o600)
    except OSError:
        raise UsageError(
            "The data directory of the sandbox cannot be made or written: choose another."
        ) from None
