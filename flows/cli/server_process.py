"""Prefect's API server on an inherited socket, as long as its parent lives.

The parent has the other end of standard input: it closes however the parent ends, also by kill -9. Signals
end nothing here: systemd, too, sends them to every process, and a run needs its server to its end.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from tasks.process_memory import forbid_memory_dumps

_SHUTDOWN_S: Final = 5.0  # until what is queued in the server's memory is in its database


def main() -> None:
    """Serves until standard input closes."""
    forbid_memory_dumps()
    parser = argparse.ArgumentParser(prog="python -m flows.cli.server_process")
    parser.add_argument("--listen-fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--temporary-home", default="", help="a directory that is removed with the server")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serving, stopping = threading.Event(), threading.Event()
    parent = threading.Thread(
        target=_end_with_parent, args=(serving, stopping, arguments.temporary_home), daemon=True
    )
    parent.start()
    _serve(socket.socket(fileno=arguments.listen_fd), serving, stopping)
    _remove(arguments.temporary_home)


def _end_with_parent(serving: threading.Event, stopping: threading.Event, temporary_home: str) -> None:
    """In order, when the server manages that in time; one that is still starting has nothing to lose."""
    os.read(0, 1)
    stopping.set()
    if serving.is_set():
        time.sleep(_SHUTDOWN_S)
    _remove(temporary_home)
    os._exit(1)


def _remove(temporary_home: str) -> None:
    if temporary_home:
        shutil.rmtree(temporary_home, ignore_errors=True)


def _start_alone(home: Path) -> IO[bytes]:
    """No other server starts here until it is closed: two first starts at once would both make the tables."""
    lock = (home / "dicom-ingest-start.lock").open("wb")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _serve(listener: socket.socket, serving: threading.Event, stopping: threading.Event) -> None:
    """As `prefect server start` does, and Prefect's own ephemeral server."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    start = _start_alone(settings.home)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def on_tick(self, counter: int) -> bool:
            serving.set()
            start.close()
            return await super().on_tick(counter) or stopping.is_set()

    api = settings.server.api
    config = uvicorn.Config(
        create_app(final=True),
        log_level="error",
        timeout_keep_alive=api.keepalive_timeout,
        timeout_graceful_shutdown=2,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
    )
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
