"""`ingest` from a bucket into Orthanc, beside a bare loop of as many in a request and as many at once.

Both read the same objects from the same store, each into an Orthanc of its own, and take turns. Ours is the
whole command; from its first object to its last outcome Prefect's start is left out.
"""

import csv
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median

import requests

from tests.benchmarks.bench_dicomweb import JSON, STUDY, batches
from tests.benchmarks.senders import BIN, rounds
from tests.benchmarks.table import Row
from tests.object_store import ObjectStore, object_store
from tests.orthanc import IS_INSTALLED, orthanc

OBJECTS = 4000
ROUNDS = 3
IN_A_REQUEST = 100
AT_ONCE = 4
READERS = 4


def rows(scale: float) -> Iterator[Row]:
    if not IS_INSTALLED:
        yield Row("ingest into Orthanc", "Orthanc is not installed")
        return
    count = max(2 * IN_A_REQUEST, int(OBJECTS * scale))
    ours: list[tuple[float, float]] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as directory, object_store(Path(directory)) as store:
        for batch in batches(count):
            for uid, data in batch:
                store.put(f"in/{uid}", data)
        for _ in range(rounds(ROUNDS, scale)):
            ours.append(_ingest(store, count))
            bare.append(_bare_loop(store, count))
    whole, between = (median(each) for each in zip(*ours, strict=True))
    beside = f"bare loop {count / median(bare):.0f}"
    what = f"ingest into Orthanc, {IN_A_REQUEST} in a request, {AT_ONCE} at once"
    ratio = between / (count / median(bare))
    steady = f"{what}, from first object to last outcome"
    yield Row(steady, f"{between:.0f} objects/s", beside, ratio, "at least 0.9")
    yield Row(f"{what}, whole process", f"{whole:.1f} s", f"bare loop {median(bare):.1f} s")


def _ingest(store: ObjectStore, count: int) -> tuple[float, float]:
    """Seconds of the whole process, and objects a second between the first outcome and the last."""
    with tempfile.TemporaryDirectory() as directory, orthanc(Path(directory)) as registry:
        report_dir = Path(directory, "report")
        command = [str(BIN / "dicom-ingest"), "ingest", "--bucket", f"{store.address}in/"]
        command += ["--dicomweb-url", registry.dicomweb_url, "--dicomweb-server", "orthanc"]
        command += ["--report-dir", str(report_dir), "--stow-parallel", str(AT_ONCE)]
        began = time.monotonic()
        environment = dict(os.environ)
        if ready := environment.get("READY_PREFECT_HOME"):  # of the smoke test
            environment["PREFECT_HOME"] = ready
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        wall_s = time.monotonic() - began
        assert len(registry.instances()) == count
        with (report_dir / "registration.csv").open(newline="") as file:
            found = [*csv.DictReader(file)]
    begins, ends = (
        [datetime.fromisoformat(row[when]).timestamp() for row in found]
        for when in ("started_at", "finished_at")
    )
    return wall_s, count / (max(ends) - min(begins))


def _bare_loop(store: ObjectStore, count: int) -> float:
    """Lists, reads, joins, posts; it looks at the status alone."""
    with tempfile.TemporaryDirectory() as directory, orthanc(Path(directory)) as registry:
        url = f"{registry.dicomweb_url}/studies/{STUDY}"
        began = time.monotonic()
        keys = store.keys(f"{store.prefix}in/")
        some = [keys[at : at + IN_A_REQUEST] for at in range(0, len(keys), IN_A_REQUEST)]
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(AT_ONCE) as senders:

            def send(batch: list[str]) -> None:
                bodies = readers.map(store.get, batch)
                head = b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n"
                body = b"".join(head + data + b"\r\n" for data in bodies) + b"--b0undary--\r\n"
                kind = 'multipart/related; type="application/dicom"; boundary=b0undary'
                requests.post(url, data=body, headers=JSON | {"Content-Type": kind}).raise_for_status()

            list(senders.map(send, some))
        wall_s = time.monotonic() - began
        assert len(registry.instances()) == count
    return wall_s
