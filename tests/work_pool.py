"""A work pool with the deployments of deployments/prefect.yaml, and processes that are at work there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.far_side import TOKEN, FarSide
from tests.prefect_server import PrefectServer
from tests.processes import descendants

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class Site:
    """One Prefect server with the deployments, and processes that are at work there."""

    def __init__(self, directory: Path, far_side: FarSide, ledger: str, server: PrefectServer) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = (
            os.environ
            | server.environment
            | {
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
                "DICOM_INGEST_HOME": str(ROOT),
                "DICOM_INGEST_API_ENDPOINT": far_side.url,
                "DICOM_INGEST_TOKEN": TOKEN,
                "DICOM_INGEST_LEDGER": ledger,
                "DICOM_INGEST_DEAD_AFTER": "8",
                "DICOM_INGEST_REPORT_DIR": str(directory / "report"),
            }
        )

    def do(self, *command: str) -> str:
        """A command of Prefect's, to its end."""
        done = subprocess.run(
            [BIN / "prefect", *command], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        """With a home of its own, as on a machine of its own."""
        home = self.directory / name
        home.mkdir()
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [BIN / command[0], *command[1:]],
                cwd=ROOT,
                env=self.environment | {"PREFECT_HOME": str(home), "HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.processes[name]

    def told(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """With -9, and all that it started: the machine is gone."""
        process = self.processes[name]
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.kill(name)
