"""verify of one study of 10,000 instances: how much it takes beyond what the registry itself does.

The registry is a QIDO-RS server on loopback that answers in pages of its own size, and counts its own time.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.bucket_settings import BucketAddress
from tasks.remote.bucket import Bucket
from tasks.run.verification import VerifyEdges
from tests.benchmarks.archives import scratch
from tests.benchmarks.large_report import LargeBucket, LargeReport, study_uid
from tests.benchmarks.table import Row

INSTANCES = 10_000
PAGE_ROWS = 500
ROUNDS = 3


def rows(scale: float) -> Iterator[Row]:
    count = max(100, int(INSTANCES * scale))
    with scratch() as directory, Server(count) as server:
        report = LargeReport(directory / "report", count, 1)
        report.report_dir.mkdir()
        report.write()
        took = min(_took(report, server) for _ in range(ROUNDS))
        ours, theirs = took
        yield Row(
            f"verify of a study of {count:,} instances, beyond the registry's own time",
            f"{ours:.2f} s",
            f"registry itself {theirs:.2f} s",
            bar="at most 3 s",
        )


def _took(report: LargeReport, server: "Server") -> tuple[float, float]:
    def open_bucket(address: BucketAddress) -> Bucket:
        return Bucket(address, LargeBucket(report.instances))  # type: ignore[arg-type]

    server.busy_s, began = 0.0, time.monotonic()
    found = report.verify(VerifyEdges(open_bucket=open_bucket), bucket="s3://bucket", dicomweb_url=server.url)
    took = time.monotonic() - began
    assert found.confirmed == report.instances, found
    return took - server.busy_s, server.busy_s


class Server:
    """So many instances of one study, in pages."""

    def __init__(self, instances: int) -> None:
        self.busy_s = 0.0
        self._study = {"0020000D": _text("UI", study_uid(0)), "00201208": _number(instances)}
        uids = [f"{study_uid(0)}.1.{number}" for number in range(instances)]
        self._rows = [json.dumps(_row(uid)).encode() for uid in uids]
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server.busy():
                    body = server.answer(self.path)
                    self.send_response(200)
                    self.send_header("Content-Type", "application/dicom+json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def busy(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.busy_s += time.monotonic() - began

    def answer(self, path: str) -> bytes:
        parts = urlsplit(path)
        if not parts.path.endswith("/instances"):
            return json.dumps([self._study]).encode()
        offset = int(parse_qs(parts.query).get("offset", ["0"])[0])
        return b"[" + b",".join(self._rows[offset : offset + PAGE_ROWS]) + b"]"


def _row(uid: str) -> dict[str, Any]:
    return {
        "0020000D": _text("UI", study_uid(0)),
        "0020000E": _text("UI", f"{study_uid(0)}.1"),
        "00080016": _text("UI", "1.2.840.10008.5.1.4.1.1.2"),
        "00080018": _text("UI", uid),
        "00200013": {"vr": "IS", "Value": [1]},
    }


def _text(vr: str, value: str) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _number(value: int) -> dict[str, Any]:
    return {"vr": "IS", "Value": [value]}
