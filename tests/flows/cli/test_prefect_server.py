"""The Prefect server of a process's own."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.prefect_server import START_TIMEOUT_S, Server
from tasks.core.errors import UsageError
from tests.processes import descendants


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return ours | {"PREFECT_HOME": str(tmp_path)}


@pytest.mark.processes
class TestServer:
    def test_that_ends_is_noticed_at_once(self, environ: dict[str, str], tmp_path: Path) -> None:
        """Its database can't be made."""
        environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/gone/prefect.db"
        before = descendants(os.getpid())
        with pytest.raises(UsageError, match="ended while it started"):
            Server.start(environ)
        assert set(descendants(os.getpid())) <= set(before)

    def test_that_lives_and_does_not_answer_is_given_up(
        self, environ: dict[str, str], tmp_path: Path
    ) -> None:
        """It waits for another one's start in the same home."""
        before = descendants(os.getpid())
        with (tmp_path / "dicom-ingest-start.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="does not answer after 3 s"):
                Server.start(environ, timeout_s=3)
        assert set(descendants(os.getpid())) <= set(before)

    def test_is_given_two_minutes(self) -> None:
        """A first start prepares a database."""
        assert START_TIMEOUT_S == 120

    @pytest.mark.parametrize("port", [70_000, -1])
    def test_takes_no_port_that_is_none(self, port: int, environ: dict[str, str]) -> None:
        with pytest.raises(UsageError, match="can't be used for Prefect's server"):
            Server.start(environ, port)

    @pytest.mark.long
    @pytest.mark.parametrize("streams", [(0,), (1,), (0, 1, 2)])
    def test_starts_for_a_process_without_standard_streams(
        self, streams: tuple[int, ...], environ: dict[str, str]
    ) -> None:
        """As some schedulers start one."""
        script = """if True:
            import os, sys
            for number in map(int, sys.argv[1:]):
                os.close(number)
            from flows.cli.prefect_server import Server
            Server.start(os.environ).stop()
        """
        command = [sys.executable, "-c", script, *map(str, streams)]
        assert subprocess.run(command, env=environ, timeout=240).returncode == 0
