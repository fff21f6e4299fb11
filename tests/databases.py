"""The databases a ledger may live in, for tests: SQLite files and a PostgreSQL server of our own."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.ledger import database
from tasks.ledger.schema import run
from tests.processes import free_port

_numbers = count(1)


class PostgreSQL:
    """A server on loopback in a directory of its own; started here, and stopped by `stop`."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._home = Path(tempfile.mkdtemp(prefix="dicom-ingest-pg-"))
        self._as_user: list[str] = []
        if getpass.getuser() == "root":  # the server refuses to run as root
            shutil.chown(self._home, "postgres", "postgres")
            self._as_user = ["runuser", "-u", "postgres", "--"]
        self.port = free_port()
        self._run("initdb", "-D", str(self._home / "data"), "-U", "tester", "-A", "trust", "--no-sync")
        self.start()

    def start(self) -> None:
        """What a killed server wrote is the kernel's: only a power cut needs what costs a restart minutes."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._home}"
        options += " -c fsync=off"
        self._control("start", "-w", "-o", options, "-l", str(self._home / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "-w", "-m", mode)

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the process whose children serve the connections."""
        return int((self._home / "data" / "postmaster.pid").read_text().split()[0])

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"ledger_{next(_numbers)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tester", name)
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    def demand(self, method: str, url: str) -> None:
        """From now on the server wants this of whoever comes to a database: `password`, `scram-sha-256`."""
        rules = self._home / "data" / "pg_hba.conf"
        name = url.rpartition("/")[2]
        rules.write_text(f"host {name} all 127.0.0.1/32 {method}\n{rules.read_text()}")
        self._control("reload")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._home / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / program), *arguments]
        patient = os.environ | {"PGCTLTIMEOUT": "240"}  # where others have the processors
        subprocess.run(command, check=True, capture_output=True, cwd="/", env=patient)


def binaries() -> Path | None:
    """Where Debian's package, or the PATH, has the server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    on_path = shutil.which("pg_ctl")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def server() -> Iterator[PostgreSQL]:
    """A running server; skips where none is installed."""
    where = binaries()
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    postgresql = PostgreSQL(where)
    try:
        yield postgresql
    finally:
        postgresql.remove()


def long_ago(ledger_at: str | Path) -> None:
    """Every sign of life was given so long ago that its run counts as dead."""
    engine = database.connect(ledger_at)
    with engine.execution_options(writes=True).begin() as db:
        db.execute(sa.update(run).values(heartbeat_s=1))
    engine.dispose()
