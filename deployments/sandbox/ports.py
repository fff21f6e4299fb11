"""The ports that a sandbox's servers had last: their addresses stay the same from one start to the next."""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from deployments.sandbox.storage import open_private
from tasks.core.errors import UsageError

GATEWAY: Final = "gateway"
DICOMWEB: Final = "dicomweb"
_LAST_PORT: Final = 65_535


def last_port(data_dir: Path, server: str = GATEWAY) -> int | None:
    """The port that a server with this data directory had last; None when that is not known."""
    try:
        text = (data_dir / f"{server}.port").read_text(encoding="ascii").strip()
        return int(text) if text.isdecimal() and 0 < int(text) <= _LAST_PORT else None
    except (OSError, ValueError):
        return None


def keep_port(data_dir: Path, port: int, server: str = GATEWAY) -> None:
    """The next one with this data directory takes this port when it is free."""
    with suppress(OSError), open_private(data_dir / f"{server}.port") as file:
        file.write(f"{port}\n")


def listen(port: int | None, data_dir: Path, server: str = GATEWAY) -> socket.socket:
    """A listening socket for a server to inherit: no other program gets the port, and early clients queue.

    Without a `port` on the last one, or when that is taken on a free one. Raises UsageError for a port that
    cannot be had.
    """
    if port is None and (last := last_port(data_dir, server)):
        with suppress(UsageError):
            return _listen_on(last)
    return _listen_on(port)


def _listen_on(port: int | None) -> socket.socket:
    unusable = UsageError(f"Port {port} cannot be used here: choose another, or none for a free one.")
    if not 0 <= (port or 0) <= _LAST_PORT:  # create_server would leave its socket open
        raise unusable
    try:
        return socket.create_server(("127.0.0.1", port or 0), backlog=128)
    except OSError:
        raise unusable from None
