"""The Prefect server of a process's own."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from flows.cli.prefect_server import START_TIMEOUT_S, Server, without_our_secrets
from tasks.core.errors import UsageError
from tests.processes import descendants


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return ours | {"PREFECT_HOME": str(tmp_path)}


class TestEnvironment:
    SECRETS: ClassVar = {"DICOM_INGEST_TOKEN": "t", "dicom_ingest_api_key": "k"}
    OF_DATABASES: ClassVar = {"PGPASSWORD": "p", "PGPASSFILE": "/p", "AWS_SECRET_ACCESS_KEY": "s"}
    NO_SECRETS: ClassVar = {"PATH": "/bin", "PGHOST": "db", "AWS_REGION": "r", "PREFECT_API_KEY": "its"}

    def test_is_without_our_secrets(self, tmp_path: Path) -> None:
        home = {"PREFECT_HOME": str(tmp_path)}
        everything = self.SECRETS | self.OF_DATABASES | self.NO_SECRETS | home
        assert without_our_secrets(everything) == self.NO_SECRETS | home

    @pytest.mark.parametrize("where", ["URL", "driver", "profile", "file"])
    def test_has_a_databases_password_where_its_own_needs_it(
        self, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However Prefect is given its address."""
        url = "postgresql+asyncpg://db/prefect"
        more = {"HOME": str(tmp_path)}
        monkeypatch.chdir(tmp_path)
        if where == "URL":
            more["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        elif where == "driver":
            more["PREFECT_SERVER_DATABASE_DRIVER"] = "postgresql+asyncpg"
        elif where == "profile":
            (tmp_path / ".prefect").mkdir()
            (tmp_path / ".prefect" / "profiles.toml").write_text(f"PREFECT_API_DATABASE = '{url}'")
        else:
            (tmp_path / "prefect.toml").write_text(f"connection_url = '{url}'")
        everything = self.SECRETS | self.OF_DATABASES | self.NO_SECRETS | more
        assert without_our_secrets(everything) == self.OF_DATABASES | self.NO_SECRETS | more


@pytest.mark.processes
class TestServer:
    @pytest.mark.long
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
