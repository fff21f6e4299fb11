"""What a run needs is gone for a while, or for good: nothing is lost, and the next run ends the job."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from deployments.sandbox.storage import BUCKET, bucket_dir, rclone_binary
from tasks.report.reader import read_report
from tests.conftest import superseded
from tests.databases import PostgreSQL
from tests.e2e.archive import FILES, Archive
from tests.far_side import Step
from tests.prefect_server import PrefectServer, slowed
from tests.processes import await_answer, await_gone, descendants, free_port

NewArchive = Callable[..., Archive]


@pytest.fixture
def archive(new_archive: NewArchive) -> Archive:
    return new_archive()


@pytest.fixture
def archive_on_postgresql(new_archive: NewArchive, postgresql: PostgreSQL) -> Archive:
    return new_archive(ledger=postgresql.new_database())


class TestPrefectsServer:
    @pytest.mark.long
    def test_killed_in_mid_run_costs_its_bookkeeping_alone(
        self, archive: Archive, prefect_home: Path
    ) -> None:
        """The files go on, the report is written, and its exit code is the command's."""
        with PrefectServer(prefect_home) as server:
            process = archive.start("run", **server.environment, PREFECT_CLIENT_MAX_RETRIES="0")
            archive.await_puts(20, process)
            server.kill()
            assert process.wait(timeout=240) == 1, archive.told  # one conflict was planted
        assert "Prefect's server went away" in archive.told
        archive.check()

    @pytest.mark.long
    def test_started_again_in_mid_run_knows_how_the_run_ended(
        self, archive: Archive, prefect_home: Path
    ) -> None:
        with PrefectServer(prefect_home) as server:
            process = archive.start("run", **server.environment)
            archive.await_puts(20, process)
            server.kill()
            time.sleep(2)
            server.start()
            assert process.wait(timeout=240) == 1, archive.told
            assert newest_state(server) == "1 of 123 files, 1 study incomplete, see report"
        archive.check()

    @pytest.mark.long
    def test_slow_to_answer_slows_its_bookkeeping_alone(self, archive: Archive, prefect_home: Path) -> None:
        """Half a second for each request."""
        with PrefectServer(prefect_home) as server, slowed(server.url, delay_s=0.5) as url:
            process = archive.start("run", **server.environment | {"PREFECT_API_URL": url})
            assert process.wait(timeout=180) == 1, archive.told
            assert newest_state(server) == "1 of 123 files, 1 study incomplete, see report"
        archive.check()

    @pytest.mark.long
    def test_whose_database_is_locked_is_waited_for(self, archive: Archive, prefect_home: Path) -> None:
        with PrefectServer(prefect_home) as server:
            process = archive.start("run", **server.environment)
            archive.await_puts(20, process)
            with closing(
                sqlite3.connect(prefect_home / "prefect.db", timeout=60, isolation_level=None)
            ) as other:
                other.execute("BEGIN IMMEDIATE")
                time.sleep(5)
                other.execute("ROLLBACK")
            assert process.wait(timeout=240) == 1, archive.told
            assert newest_state(server) == "1 of 123 files, 1 study incomplete, see report"
        archive.check()

    def test_that_does_not_answer_is_known_before_anything_is_sent(self, archive: Archive) -> None:
        """Exit code 2, and what to do."""
        process = archive.start(
            "run", PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES="0"
        )
        assert process.wait(timeout=240) == 2
        assert "PREFECT_API_URL does not answer" in archive.told
        assert archive.far_side.requests == []

    @pytest.mark.long
    def test_terminated_together_with_the_run_ends_in_order(
        self, archive: Archive, prefect_home: Path
    ) -> None:
        """As systemd does it: SIGTERM reaches the embedded server as well, which waits for the run's end."""
        process = archive.start("run", PREFECT_HOME=str(prefect_home), PREFECT_CLIENT_MAX_RETRIES="1")
        archive.await_puts(20, process)
        everything = descendants(process.pid)
        for pid in (*everything, process.pid):
            os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=240) == 130, archive.told
        assert "server went away" not in archive.told
        await_gone(everything)
        rows = list(read_report(archive.report_dir))
        assert len(rows) == FILES + 3
        assert "not_attempted" in {row["status"] for row in rows}
        archive.take_stock()
        assert archive.finish() == 1
        archive.check()


class TestFarSide:
    def test_killed_and_back_again_costs_only_the_outage(self, archive: Archive, tmp_path: Path) -> None:
        """A real gateway and object store, killed with -9 in mid-run and started again after seconds."""
        ports = free_port(), free_port()
        far = RealFarSide(tmp_path / "far", *ports)
        try:
            process = archive.start("upload", DICOM_INGEST_PARALLEL="3", **far.settings)
            await_objects(far.bucket, 15, process)
            far.kill()
            time.sleep(2)
            far.start()
            assert process.wait(timeout=240) == 1, archive.told
        finally:
            far.kill()
        rows = list(read_report(archive.report_dir))
        keys = {row["key"] for row in rows} | {key for row in rows for key in superseded(row)}
        in_store = {path.relative_to(far.bucket).as_posix() for path in files_below(far.bucket)}
        assert in_store <= keys
        for row in rows:
            if row["status"] == "uploaded":
                assert (far.bucket / row["key"]).read_bytes() == Path(row["path"]).read_bytes()
        assert sum(row["status"] == "uploaded" for row in rows) == FILES


class TestLedger:
    def test_locked_by_somebody_else_is_waited_for(self, archive: Archive) -> None:
        process = archive.start("upload")
        archive.await_puts(20, process)
        with closing(sqlite3.connect(archive.ledger, timeout=60, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(3)
            other.execute("ROLLBACK")
        assert process.wait(timeout=240) == 1, archive.told
        archive.check()

    def test_whose_server_restarts_is_waited_for(
        self, archive_on_postgresql: Archive, postgresql: PostgreSQL
    ) -> None:
        archive = archive_on_postgresql
        process = archive.start("upload")
        archive.await_puts(20, process)
        postgresql.stop("immediate")
        time.sleep(1)
        postgresql.start()
        assert process.wait(timeout=240) == 1, archive.told
        archive.check()


class TestDisk:
    """A file system of two MiB."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "small"
        path.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs root")
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True)

    def test_full_under_the_ledger_stops_the_run(self, archive: Archive, small: Path) -> None:
        """Exit code 3 and a sentence; with room again the same command goes on."""
        archive.ledger = str(small / "ledger.sqlite")
        process = archive.start("upload")
        archive.await_puts(10, process)
        fill(small)
        assert process.wait(timeout=240) == 3, archive.told
        assert "disk is full" in archive.told
        (small / "filler").unlink()
        archive.take_stock()
        assert archive.finish() == 1, archive.told
        archive.check()

    def test_full_under_the_report_loses_no_outcome(self, archive: Archive, small: Path) -> None:
        """Exit code 3, for the audit trail is there too; with room again `dicom-ingest report` writes it."""
        archive.report_dir = small / "report"
        process = archive.start("upload")
        archive.await_puts(10, process)
        fill(small)
        assert process.wait(timeout=240) == 3, archive.told
        assert "dicom-ingest report" in archive.told
        sent = len(archive.far_side.asked(Step.PUT))
        (small / "filler").unlink()
        again = [sys.executable, "-m", "flows.cli", "report", str(archive.report_dir)]
        ended = subprocess.run([*again, "--ledger", archive.ledger], capture_output=True, check=False)
        assert ended.returncode == 3, ended.stderr
        assert len(archive.far_side.asked(Step.PUT)) == sent
        assert len(list(read_report(archive.report_dir))) == FILES + 3
        archive.take_stock()
        assert archive.finish() == 1, archive.told
        archive.check()


class TestAnotherRun:
    @pytest.mark.parametrize("where", ["archive", "archive_on_postgresql"])
    def test_on_the_same_ledger_shares_the_work(self, where: str, request: pytest.FixtureRequest) -> None:
        """Each file is sent by one of them; both reports name what is stored."""
        archive: Archive = request.getfixturevalue(where)
        reports = [archive.directory / name for name in ("one", "two")]
        processes = []
        for archive.report_dir in reports:
            processes.append(archive.start("upload"))
        assert [process.wait(timeout=240) for process in processes] == [1, 1], archive.told
        for archive.report_dir in reports:
            archive.check()

    @pytest.mark.parametrize("where", ["archive", "archive_on_postgresql"])
    def test_takes_over_what_a_killed_one_had_claimed(
        self, where: str, request: pytest.FixtureRequest
    ) -> None:
        """It neither waits for ever nor sends again what is stored."""
        archive: Archive = request.getfixturevalue(where)
        archive.report_dir = archive.directory / "killed"
        killed = archive.start("upload")
        archive.report_dir = archive.directory / "report"
        archive.await_puts(10, killed)
        survivor = archive.start("upload")
        archive.await_puts(20, survivor)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        time.sleep(0.5)  # what it had in flight arrives
        archive.take_stock()
        assert survivor.wait(timeout=240) == 1, archive.told
        archive.check()

    def test_of_another_campaign_knows_nothing_of_it(self, archive: Archive) -> None:
        """Two platforms may share a ledger: each gets every file."""
        names = ("first", "second")
        processes = []
        for name in names:
            archive.report_dir = archive.directory / name
            processes.append(archive.start("upload", DICOM_INGEST_CAMPAIGN=name))
        assert [process.wait(timeout=240) for process in processes] == [1, 1], archive.told
        keys = [{row["key"] for row in read_report(archive.directory / name) if row["key"]} for name in names]
        assert [len(each) for each in keys] == [FILES, FILES]
        assert not keys[0] & keys[1]


def newest_state(server: PrefectServer) -> str:
    """What the server says of the flow run that began last."""
    newest = {"sort": "START_TIME_DESC", "limit": 1}
    run = httpx.post(f"{server.url}/flow_runs/filter", json=newest, timeout=30).json()[0]
    return str(run["state"]["message"])


class RealFarSide:
    """The sandbox's gateway before `rclone serve s3`, on ports that stay theirs over a restart."""

    def __init__(self, directory: Path, api_port: int, store_port: int) -> None:
        self.url = f"http://127.0.0.1:{api_port}"
        self.bucket = bucket_dir(directory)
        self.bucket.mkdir(parents=True)
        self.settings = {
            "DICOM_INGEST_API_ENDPOINT": self.url,
            "DICOM_INGEST_TOKEN": "",
            "DICOM_INGEST_TOKEN_URL": f"{self.url}/oauth2/token",
            "DICOM_INGEST_CLIENT_ID": "operator",
            "DICOM_INGEST_CLIENT_SECRET": "secret",
        }
        store = f"127.0.0.1:{store_port}"
        rclone = [rclone_binary(), "serve", "s3", "--addr", store, "--auth-key", "KEY,SECRET"]
        gateway = [sys.executable, "-m", "deployments.sandbox.gateway"]
        self._commands = [[*rclone, str(self.bucket.parent)], gateway]
        ours = {
            "CLIENT_ID": "operator",
            "CLIENT_SECRET": "secret",
            "BUCKET": BUCKET,
            "S3_ENDPOINT": f"http://{store}",
            "ACCESS_KEY_ID": "KEY",
            "SECRET_ACCESS_KEY": "SECRET",
            "HOST": "127.0.0.1",
            "PORT": str(api_port),
        }
        self._environment = os.environ | {f"DICOM_INGEST_SANDBOX_{name}": text for name, text in ours.items()}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self._processes = [
            subprocess.Popen(command, env=self._environment, stdout=quiet, stderr=quiet)
            for command in self._commands
        ]
        await_answer(f"{self.url}/upload/")

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def await_objects(bucket: Path, count: int, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while len(files_below(bucket)) < count and process.poll() is None:
        assert time.monotonic() < until, "nothing is stored"
        time.sleep(0.01)


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def fill(directory: Path) -> None:
    """Leaves no byte of the file system free."""
    with (directory / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            assert shutil.disk_usage(directory).free < 4096
