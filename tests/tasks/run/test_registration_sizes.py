"""What is large: an object of 5 GiB, and a bucket of a million objects. Long tests; the store is made up."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from tasks.bucket_settings import BucketAddress
from tasks.ingest_settings import load_ingest
from tasks.remote.bucket import Bucket
from tasks.run.registration import register
from tests.conftest import instance, padded
from tests.dicomweb_side import DicomwebSide
from tests.memory_store import MemoryS3, Stored
from tests.pipeline_side import PipelineSide

pytestmark = pytest.mark.long
MIB = 1024 * 1024
GIB = 1024 * MIB
OBJECTS = 1_000_000


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


@contextmanager
def watched_memory(seen: list[float], every_s: float = 0.2) -> Iterator[None]:
    """What this process holds, as long as the block lasts."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            seen.append(resident_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


class _Sink(BaseHTTPRequestHandler):
    """A DICOMweb server that hashes what it gets, keeps nothing, and says that it is stored."""

    protocol_version = "HTTP/1.1"
    hashes: dict[str, int]

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_POST(self) -> None:
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            piece = self.rfile.read(min(MIB, left))
            left -= len(piece)
            digest.update(piece)
        type(self).hashes[digest.hexdigest()] = int(self.headers["Content-Length"])
        done = {"00081155": {"vr": "UI", "Value": [padded("1.2.1")]}}
        body = json.dumps({"00081199": {"vr": "SQ", "Value": [done]}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


def of_five_gib() -> Stored:
    """Encapsulated pixel data of five fragments: no length of 32 bits holds more than 4 GiB."""
    whole = instance("1.2.1").replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    head = whole[: whole.rindex(b"\xe0\x7f\x10\x00")]
    head += b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + pack("<HHL", 0xFFFE, 0xE000, 0)
    item, end = pack("<HHL", 0xFFFE, 0xE000, GIB - 8), pack("<HHL", 0xFFFE, 0xE0DD, 0)
    size_bytes = len(head) + 5 * GIB + len(end)

    def read(begin: int, until: int) -> bytes:
        out = bytearray(until - begin)
        marks = [(0, head), *((len(head) + n * GIB, item) for n in range(5)), (size_bytes - len(end), end)]
        for at, mark in marks:
            first, last = max(begin, at), min(until, at + len(mark))
            if first < last:
                out[first - begin : last - begin] = mark[first - at : last - at]
        return bytes(out)

    return Stored(size_bytes, "5e", read)


def test_an_object_of_5_gib_passes_in_flat_memory(tmp_path: Path, only_our_settings: None) -> None:
    s3 = MemoryS3()
    s3.objects["huge"] = of_five_gib()
    s3.objects["cut"] = Stored(3 * GIB, "3c", s3.objects["huge"].read)
    _Sink.hashes = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = load_ingest(
        bucket="s3://uploads",
        dicomweb_url=f"http://127.0.0.1:{server.server_port}/dicom-web",
        report_dir=tmp_path / "report",
    )
    before, seen = resident_mib(), [0.0]
    with watched_memory(seen):
        summary = register(settings, bucket=Bucket(BucketAddress("uploads"), s3))
    server.shutdown()
    server.server_close()
    assert summary.by_status == {"registered": 1, "quarantined": 1}
    (size_bytes,) = _Sink.hashes.values()
    assert size_bytes > 5 * GIB
    assert max(seen) - before < 250


class _Listing:
    """A bucket of so many objects without a byte: each has an outcome without being read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        after = asked.get("ContinuationToken") or asked.get("StartAfter") or ""
        begin = int(after) + 1 if after else 0
        end = min(self._count, begin + asked["MaxKeys"])
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        page = [
            {"Key": f"{n:09}", "Size": 0, "ETag": '"e"', "LastModified": moment} for n in range(begin, end)
        ]
        return {
            "Contents": page,
            "IsTruncated": end < self._count,
            "NextContinuationToken": f"{end - 1:09}",
        }


def test_a_million_objects_are_listed_and_settled_in_flat_memory(
    tmp_path: Path, only_our_settings: None
) -> None:
    """From a tenth of the time on. It takes about a quarter of an hour."""
    client: Any = _Listing(OBJECTS)
    seen: list[float] = []
    began = time.monotonic()
    with DicomwebSide() as registry, watched_memory(seen, every_s=1.0):
        settings = load_ingest(
            bucket="s3://uploads", dicomweb_url=registry.url, report_dir=tmp_path / "report"
        )
        summary = register(settings, bucket=Bucket(BucketAddress("uploads"), client))
    assert summary.by_status == {"quarantined": OBJECTS}
    assert summary.objects == OBJECTS
    assert max(seen[len(seen) // 2 :]) - max(seen[: len(seen) // 10]) < 100, time.monotonic() - began


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_large_study_asks_no_more_than_it_must(side: PipelineSide, at_once: int) -> None:
    """What the registry has of it is asked for once, not for each request; then its count is enough."""
    for number in range(1500):
        side.put(f"k{number:05}", instance(f"1.2.{number}"))
    side.registry.script = lambda _request: time.sleep(0.1)  # meanwhile others could be stored
    side.run(dicomweb_server="orthanc", stow_parallel=at_once)
    assert len(side.registry.bodies) == 1500
    assert sum(request.path.endswith("/instances") for request in side.registry.requests) <= 2
    assert len(side.registry.requests) < 2 * 15 + 10
