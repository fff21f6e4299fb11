"""A DICOMweb server: instances into Orthanc beside a bare loop, which fill one study in turns; then its list.

Both have the same requests: instances in each, and requests at once. Orthanc takes most of the time.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from threading import local
from typing import Any

import requests

from tasks.core.stow_profiles import Said
from tasks.dicomweb_settings import DicomwebServer, DicomwebSettings
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb import DicomwebClient, Part
from tasks.remote.engine_transport import http_client
from tasks.remote.tls import TlsPolicy
from tests.benchmarks.table import Row
from tests.odd_instances import ROOT, instance
from tests.orthanc import IS_INSTALLED, orthanc

INSTANCES = 10_000
PIXELS = bytes(32_000)
IN_A_REQUEST = 50
AT_ONCE = 4
IN_A_TURN = 500
PAGE_ROWS = 1000
LISTINGS = 3
STUDY = f"{ROOT}.1"
JSON = {"Accept": "application/dicom+json"}

Batch = list[tuple[str, bytes]]
Store = Callable[[Sequence[Batch]], None]


def rows(scale: float) -> Iterator[Row]:
    if not IS_INSTALLED:
        yield Row("STOW-RS into Orthanc; QIDO-RS", "Orthanc is not installed")
        return
    count = max(2 * IN_A_REQUEST, int(INSTANCES * scale))
    with (
        tempfile.TemporaryDirectory() as directory,
        orthanc(Path(directory)) as started,
        asyncio.Runner() as runner,
    ):
        client = runner.run(_client(started.dicomweb_url))
        bare = _BareLoop(started.dicomweb_url)
        spent = _in_turns(
            batches(count),
            {"ours": lambda batches: runner.run(_store(client, batches)), "bare": bare.store},
        )
        rate = {who: sum_of / wall_s for who, (sum_of, wall_s, _) in spent.items()}
        yield Row(
            f"STOW-RS into Orthanc, {IN_A_REQUEST} in a request, {AT_ONCE} at once",
            f"{rate['ours']:.0f} instances/s",
            f"bare loop {rate['bare']:.0f}",
            rate["ours"] / rate["bare"],
            "at least 0.9",
        )
        cpu = {who: cpu_s / sum_of * 1e3 for who, (sum_of, _, cpu_s) in spent.items()}
        beside = f"bare loop {cpu['bare']:.2f}"
        yield Row("STOW-RS, CPU ms per instance", f"{cpu['ours']:.2f}", beside, cpu["ours"] / cpu["bare"])
        yield _listing(runner, client, started.dicomweb_url, count)

        async def close() -> None:
            client.close()

        runner.run(close())


def _listing(runner: asyncio.Runner, client: DicomwebClient, url: str, count: int) -> Row:
    bare_times, our_times = [], []
    for _ in range(LISTINGS):
        bare_times.append(_timed(lambda: _bare_listing(url))[0])
        wall_s, found = _timed(lambda: runner.run(client.instances(STUDY)))
        our_times.append(wall_s)
        assert found.is_whole
        assert len(found.uids) == count
    bare_s, ours_s = median(bare_times), median(our_times)
    what = f"QIDO-RS of a study of {count:,} instances"
    beside = f"the same pages by a bare loop {bare_s:.2f} s"
    return Row(what, f"{ours_s:.2f} s", beside, ours_s / bare_s, "at most 3 s more")


def _in_turns(batches: list[Batch], stores: dict[str, Store]) -> dict[str, tuple[int, float, float]]:
    """How many each of them stored, in how many seconds, with how much CPU."""
    spent = dict.fromkeys(stores, (0, 0.0, 0.0))
    turn = max(1, min(IN_A_TURN // IN_A_REQUEST, len(batches) // len(stores)))
    for number, first in enumerate(range(0, len(batches), turn)):
        who = [*stores][number % len(stores)]
        some = batches[first : first + turn]
        cpu_before = time.process_time()
        wall_s, _ = _timed(lambda who=who, some=some: stores[who](some))  # type: ignore[misc]
        stored, before_s, cpu_s = spent[who]
        stored += sum(map(len, some))
        spent[who] = stored, before_s + wall_s, cpu_s + time.process_time() - cpu_before
    return spent


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    found = act()
    return time.monotonic() - began, found


def batches(count: int) -> list[Batch]:
    """Instances of one study: the same but for the last digits of their UID."""
    first = instance(100_000_000, pixels=PIXELS)
    template = f"{STUDY}.1.100000000".encode()
    every = []
    for number in range(100_000_000, 100_000_000 + count):
        uid = f"{STUDY}.1.{number}"
        every.append((uid, first.replace(template, uid.encode())))
    return [every[at : at + IN_A_REQUEST] for at in range(0, count, IN_A_REQUEST)]


async def _client(url: str) -> DicomwebClient:
    engine = Engine(TlsPolicy())
    settings = DicomwebSettings(dicomweb_url=url, dicomweb_server=DicomwebServer.ORTHANC)
    return DicomwebClient(engine, settings, http_client(engine), page_rows=PAGE_ROWS)


async def _store(client: DicomwebClient, batches: Sequence[Batch]) -> None:
    left = iter(batches)

    async def send() -> None:
        for batch in left:
            parts = [Part(len(data), lambda data=data: [data]) for _, data in batch]  # type: ignore[misc]
            answers = await client.store(STUDY, parts, [uid for uid, _ in batch])
            assert all(each.said is Said.STORED for each in answers)

    await asyncio.gather(*(send() for _ in range(AT_ONCE)))


class _BareLoop:
    """What is written first: bytes joined, posted, the status looked at."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/studies/{STUDY}"
        self._of_thread = local()

    def store(self, batches: Sequence[Batch]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._post, batches))

    def _post(self, batch: Batch) -> None:
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = requests.Session()
        head = b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n"
        body = b"".join(head + data + b"\r\n" for _, data in batch) + b"--b0undary--\r\n"
        headers = JSON | {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b0undary'}
        self._of_thread.session.post(self._url, data=body, headers=headers).raise_for_status()


def _bare_listing(url: str) -> int:
    session, offset = requests.Session(), 0
    while found := session.get(
        f"{url}/studies/{STUDY}/instances?limit={PAGE_ROWS}&offset={offset}",
        headers=JSON | {"Accept-Encoding": "identity"},
    ).json():
        offset += len(found)
    return offset
