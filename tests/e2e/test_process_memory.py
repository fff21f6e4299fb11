"""What is left of the memory of a command's processes, and what they inherit."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Dicom, NearSide
from tests.far_side import TOKEN, FarSide
from tests.processes import Command, await_that
from tests.witness import Witness

PASSWORD = "a-password-of-the-ledger"
PROCESSES = ("/dicom-ingest run", "flows.cli.server_process")


@pytest.fixture
def seen(
    tmp_path: Path,
    prefect_home: Path,
    far_side: FarSide,
    let_go: threading.Event,
    dicom: Dicom,
) -> Iterator[dict[str, Any]]:
    """Each process of a run in the middle of it, by a part of its command line."""
    (tmp_path / "study").mkdir()
    for number in range(40):
        (tmp_path / "study" / f"{number}.dcm").write_bytes(dicom(f"1.2.{number}"))
    (tmp_path / "manifest.csv").write_text("study_dir\nstudy\n")
    witness = Witness(tmp_path / "witness")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {"API_ENDPOINT": far_side.url, "TOKEN": TOKEN}
    environment = ours | {f"DICOM_INGEST_{name}": value for name, value in settings.items()}
    more = {"PREFECT_HOME": str(prefect_home), "PGPASSWORD": PASSWORD}
    more["PYTHONPATH"] = str(witness.directory)
    command = Command(tmp_path, environment | more, "run", "manifest.csv")
    try:
        assert far_side.wait_for_puts(2, 240), command.said
        await_that(lambda: witness.seen(*PROCESSES).keys() == set(PROCESSES), said=lambda: command.said)
        yield witness.seen(*PROCESSES)
        let_go.set()
        assert command.ended() == 0, command.said
    finally:
        let_go.set()
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


@pytest.mark.processes
def test_no_process_of_ours_leaves_its_memory_behind_nor_gives_secrets_to_prefects_server(
    seen: dict[str, Any],
) -> None:
    """No core dump of any; the embedded server inherits no setting and no password."""
    assert {part: (each["is_dumpable"], each["core_bytes"]) for part, each in seen.items()} == dict.fromkeys(
        PROCESSES, (False, 0)
    )
    server = seen["flows.cli.server_process"]["inherited"]
    assert [name for name in server if name.startswith("DICOM_INGEST_")] == []
    assert not {TOKEN, PASSWORD} & set(server.values())


def test_a_caller_of_the_function_stays_as_he_is(near_side: NearSide) -> None:
    """His process is his own."""
    import ctypes

    near_side.put_many(1)
    before = ctypes.CDLL(None).prctl(3)
    assert near_side.run().exit_code == 0
    assert ctypes.CDLL(None).prctl(3) == before == 1
