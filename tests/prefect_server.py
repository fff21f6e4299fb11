"""A real Prefect server, with all its services: Prefect's test harness runs but some of them."""

import binascii
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.processes import await_answer, free_port


class PrefectServer:
    """`prefect server start` on a port and in a session of its own; it can be killed and started again."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {  # of whoever uses it
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        prefect = Path(sys.executable).with_name("prefect")
        self._command = [str(prefect), "server", "start", "--no-ui", "--port", str(port)]
        self._log = home / "server.log"
        self._settings = settings  # of the server alone
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers; a first start in a home takes half a minute. What it says is kept there."""
        self.home.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | self.environment | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await_answer(f"{self.url}/health", self._process)

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """The server and what it started, if it is there."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, by)
            self._process.wait(240)

    def __enter__(self) -> "PrefectServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def make_ready_home(home: Path) -> None:
    """A home whose database is migrated and holds what a first start puts there: half a minute, once."""
    draft = home.with_name(f"{home.name}-draft")
    with PrefectServer(draft) as server:
        server.kill(signal.SIGTERM)
    with closing(sqlite3.connect(draft / "prefect.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (draft / "server.log").unlink()
    draft.rename(home)


@contextmanager
def slowed(url: str, delay_s: float) -> Iterator[str]:
    """The same server at another address, where whatever it is sent comes so much later."""
    there = url.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = "{}:{}".format(*listening.getsockname())
        thread = threading.Thread(target=_accept, args=(listening, (there[0], int(there[2])), delay_s))
        thread.start()
        try:
            yield url.replace("".join(there), here)
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listening: socket.socket, there: tuple[str, int], delay_s: float) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:  # shut down
            return
        server = socket.create_connection(there)
        for source, sink, late_s in ((client, server, delay_s), (server, client, 0.0)):
            threading.Thread(target=_pass_on, args=(source, sink, late_s), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, late_s: float) -> None:
    try:
        while data := source.recv(65536):
            time.sleep(late_s)
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for each in (source, sink):
            each.close()


def database_with(*texts: str) -> str:
    """All of Prefect's database as text, once it has these."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    url = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())
    until = time.monotonic() + 20
    while True:
        with closing(sqlite3.connect(url.partition("///")[2])) as database:
            said = "\n".join(database.iterdump())
        if all(text in said for text in texts):
            return said
        assert time.monotonic() < until
        time.sleep(0.2)


def texts_below(home: Path) -> Iterator[str]:
    for path in home.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            yield body.decode("utf-8", "replace")
            if path.parent.name == "storage":
                yield binascii.a2b_base64(body).decode("utf-8", "replace")


def events_of(campaign: str, expected: int, name: str = "") -> list[dict[str, Any]]:
    """Ours about this campaign, of this name when one is given; the server hears of them a moment later."""
    wanted: dict[str, Any] = {"resource": {"id_prefix": [f"dicom-ingest.campaign.{campaign}"]}}
    if name:
        wanted["event"] = {"name": [name]}
    from prefect.settings import PREFECT_API_URL

    until = time.monotonic() + 20
    while True:
        answer = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json={"filter": wanted})
        events: list[dict[str, Any]] = answer.json()["events"]
        if len(events) >= expected or time.monotonic() > until:
            return events
        time.sleep(0.2)
