"""ingest: from a bucket into Orthanc, beside a bare loop that reads and posts the same, one after the other.

Both have the same objects, instances in a request and requests at once; each has studies of its own. The bare
loop reads the next objects while it posts, and keeps no record of anything.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import requests

from deployments.sandbox.storage import BUCKET
from tasks.ingest_settings import load_ingest
from tasks.run.registration import register
from tests.benchmarks.table import Row
from tests.object_store import ObjectStore, object_store
from tests.odd_instances import ROOT, instance
from tests.orthanc import IS_INSTALLED, orthanc

INSTANCES = 6000
OF_A_STUDY = 300
PIXELS = bytes(128_000)
IN_A_REQUEST = 100
AT_ONCE = 2
READERS = 8
TURNS = 2


def rows(scale: float) -> Iterator[Row]:
    if not IS_INSTALLED:
        yield Row("ingest into Orthanc", "Orthanc is not installed")
        return
    count = max(IN_A_REQUEST, int(INSTANCES * scale))
    with tempfile.TemporaryDirectory() as name, object_store(Path(name) / "store") as store:
        directory = Path(name)
        with orthanc(_made(directory / "orthanc")) as started:
            ours_s = bare_s = 0.0
            for turn in range(TURNS):
                _fill(store, f"bare-{turn}/", count, 1000 + 100 * turn)
                bare_s += _timed_bare_loop(store, f"bare-{turn}/", started.dicomweb_url, 1000 + 100 * turn)
                _fill(store, f"ours-{turn}/", count, 2000 + 100 * turn)
                ours_s += _timed_ingest(f"ours-{turn}/", started.dicomweb_url, directory / f"report-{turn}")
    rate, bare = TURNS * count / ours_s, TURNS * count / bare_s
    how = f"studies of {OF_A_STUDY}, {IN_A_REQUEST} in a request, {AT_ONCE} at once"
    what = f"ingest: a bucket into Orthanc, {how}"
    yield Row(what, f"{rate:.0f} instances/s", f"bare loop {bare:.0f}", rate / bare, "at least 0.9")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _fill(store: ObjectStore, prefix: str, count: int, first_study: int) -> None:
    for at in range(0, count, OF_A_STUDY):
        study = first_study + at // OF_A_STUDY
        first = instance(100_000_000, study_number=study, pixels=PIXELS)
        for number in range(100_000_000 + at, 100_000_000 + min(count, at + OF_A_STUDY)):
            body = first.replace(b".1.100000000", f".1.{number}".encode())
            store.client.put_object(Bucket=BUCKET, Key=f"{prefix}{number}", Body=body)


def _timed_ingest(prefix: str, url: str, report_dir: Path) -> float:
    settings = load_ingest(
        bucket=f"s3://{BUCKET}/{prefix}",
        dicomweb_url=url,
        dicomweb_server="orthanc",
        stow_parallel=AT_ONCE,
        report_dir=report_dir,
    )
    began = time.monotonic()
    summary = register(settings)
    wall_s = time.monotonic() - began
    assert set(summary.by_status) == {"registered"}, summary
    return wall_s


def _timed_bare_loop(store: ObjectStore, prefix: str, url: str, first_study: int) -> float:
    of_thread = local()

    def post(study: int, bodies: list[bytes]) -> None:
        if not hasattr(of_thread, "session"):
            of_thread.session = requests.Session()
        head = b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n"
        body = b"".join(head + data + b"\r\n" for data in bodies) + b"--b0undary--\r\n"
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=b0undary',
        }
        answer = of_thread.session.post(f"{url}/studies/{ROOT}.{study}", data=body, headers=headers)
        answer.raise_for_status()

    began = time.monotonic()
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(AT_ONCE) as senders:
        keys = store.keys(prefix)
        posted = []
        for at in range(0, len(keys), IN_A_REQUEST):
            bodies = list(readers.map(store.get, keys[at : at + IN_A_REQUEST]))
            posted.append(senders.submit(post, first_study + at // OF_A_STUDY, bodies))
        for each in posted:
            each.result()
    return time.monotonic() - began
