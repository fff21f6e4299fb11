"""Orthanc with its DICOMweb plugin, of Debian, in a directory and on a port of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import free_port

COMMAND = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
IS_INSTALLED = COMMAND.exists() and PLUGIN.exists()
USER, PASSWORD = "ingest", "s3cret"

# On a test, a class or, as `pytestmark`, a module.
needs_orthanc = pytest.mark.skipif(
    not IS_INSTALLED, reason="Orthanc is not installed: apt install orthanc orthanc-dicomweb"
)


@dataclass(slots=True)
class Orthanc:
    """Where it is, and what it holds by its own REST API, past DICOMweb."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    auth: tuple[str, str] | None = None

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def instances(self) -> dict[str, str]:
        """SOP Instance UID -> Orthanc's own name of each instance."""
        found: list[dict[str, Any]] = self._get("/instances?expand").json()
        return {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in found}

    def file(self, sop_instance_uid: str) -> bytes:
        """As it is stored."""
        return self._get(f"/instances/{self.instances()[sop_instance_uid]}/file").content

    def delete(self, sop_instance_uid: str) -> None:
        """One instance."""
        name = self.instances()[sop_instance_uid]
        httpx.delete(f"{self.url}/instances/{name}", auth=self.auth, timeout=30).raise_for_status()

    def stop(self) -> None:
        """As an operator stops it: what it holds is there when it is started again. Takes seconds."""
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        """At once, and waits for it."""
        self.process.kill()
        self.process.wait(60)

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", auth=self.auth, timeout=30).raise_for_status()


@contextmanager
def orthanc(
    directory: Path,
    *,
    port: int = 0,
    with_user: bool = False,
    dicomweb: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Orthanc]:
    """Started, and killed in the end. `settings`: of its configuration; `dicomweb`: of the plugin's part.

    What it stores is in the directory: after `stop`, one that is started there again has it still.
    """
    port = port or free_port()
    configuration = {
        "Name": "tests",
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": with_user,
        "RegisteredUsers": {USER: PASSWORD},
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "index"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", **(dicomweb or {})},
        **settings,
    }
    file, log = directory / "orthanc.json", directory / "orthanc.log"
    file.write_text(json.dumps(configuration))
    with log.open("a") as said:
        process = subprocess.Popen([COMMAND, file], stdout=said, stderr=said, cwd=directory)
    started = Orthanc(f"http://127.0.0.1:{port}", process, log, (USER, PASSWORD) if with_user else None)
    try:
        _await_it(started)
        yield started
    finally:
        started.kill()


def _await_it(started: Orthanc) -> None:
    """Until it answers. Its own answer counts: a port may have been another's before."""
    until = time.monotonic() + 120
    while True:
        try:
            answer = httpx.get(f"{started.dicomweb_url}/studies", auth=started.auth, timeout=30)
            if answer.status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert started.process.poll() is None, started.log.read_text()
        assert time.monotonic() < until, started.log.read_text()
        time.sleep(0.05)


if __name__ == "__main__":  # python -m tests.orthanc DIRECTORY: until Enter
    with orthanc(Path(sys.argv[1])) as _orthanc:
        input(f"{_orthanc.dicomweb_url}\n")
