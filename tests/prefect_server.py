"""A real Prefect server, with all its services: Prefect's test harness runs but some of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.processes import await_answer, free_port


class PrefectServer:
    """`prefect server start` on a port and in a session of its own; it can be killed and started again."""

    def __init__(self, home: Path) -> None:
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
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers; a first start in a home takes half a minute."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | self.environment,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        await_answer(f"{self.url}/health", self._process)

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """The server and what it started, if it is there."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, by)
            self._process.wait(60)

    def __enter__(self) -> "PrefectServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
