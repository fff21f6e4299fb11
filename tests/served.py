"""`dicom-ingest serve` as a process, for whoever asks its API or looks at its UI."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.processes import DICOM_INGEST, free_port


@dataclass(frozen=True, slots=True)
class Served:
    """Where it is, what it runs as, and what it said."""

    ui: str  # as it was printed
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def api(self) -> str:
        return re.sub("/v2/.*", "/api", self.ui)

    def asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's answer, once it has a good one: deployments come up after the server."""
        until = time.monotonic() + 120
        while True:
            answer = httpx.request(method, f"{self.api}{path}", json=body, timeout=30)
            if answer.status_code < 400:
                return answer.json()
            assert time.monotonic() < until, answer.text
            time.sleep(0.2)


@contextmanager
def served(directory: Path, prefect_home: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """Started in `directory` with a server of its own; what still runs in the end is killed."""
    # Prefect's server writes its UI's files into the package unless told: two that start at once spoil them.
    ui = {"PREFECT_UI_STATIC_DIRECTORY": str(prefect_home / "ui")}
    home = {"PREFECT_HOME": str(prefect_home), **ui}
    others = {name: text for name, text in environment.items() if name != "PREFECT_API_URL"}
    log = directory / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*DICOM_INGEST, "serve", "--port", str(free_port())],
            cwd=directory,
            env=others | home,
            stdout=file,
            stderr=file,
        )
    try:
        yield Served(_printed_address(log, process), process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(240)
            finally:
                process.kill()


def _printed_address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + 300
    while not (printed := re.search(r"The UI is at (\S+)\. ", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    return printed[1]
