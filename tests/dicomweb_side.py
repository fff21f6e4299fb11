"""A DICOMweb server on loopback with a script of faults, which keeps the truth of what it stored.

    POST /dicom-web/studies[/{study}]                    multipart/related; says what became of each instance
    GET  /dicom-web/studies?...  /studies/{study}/instances?...  /instances?...     QIDO-RS
    GET  /dicom-web/studies/{study}/series/{series}/instances/{sop}                 WADO-RS
    GET  /dicom-web/studies/{study}/metadata
    POST /token                                          a bearer token, for the client credentials

A script is asked about each request, once its body is read: it may wait, and returns what goes wrong or None.
"""

import base64
import json
import re
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pydicom

from tests.far_side import CLIENT_ID, CLIENT_SECRET, Reply, Reset, status

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "Reply", "Reset", "status"]

ROOT = "/dicom-web"
JSON = {"Content-Type": "application/dicom+json"}


class Step(StrEnum):
    STORE = "store"
    QUERY = "query"
    RETRIEVE = "retrieve"
    METADATA = "metadata"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; `n` counts those of its step from 1. `uids`: of instances sent or asked for."""

    step: Step
    n: int
    path: str
    query: Mapping[str, list[str]]
    headers: Message = field(repr=False)
    uids: tuple[str, ...] = ()
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Half:
    """The right answer, of which a half comes; then the connection ends."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The right answer, but later; everything is stored before."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unnamed:
    """Stored, but the answer names none of it."""

    status: int = 200
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed:
    """Not stored: each of these UIDs (all, if none) is failed for this reason; the others are stored."""

    reason: Any = 272  # None: no reason is given
    uids: tuple[str, ...] = ()
    status: int = 202


@dataclass(frozen=True, slots=True)
class Rows:
    """A page with its rows changed so."""

    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


Deviation = Reply | Reset | Half | Slow | Unnamed | Failed | Rows
Script = Callable[[Request], Deviation | None]


def all_good(_request: Request) -> None:
    """The script of a server that works."""


def scripted(*planned: tuple[Step, int, Deviation]) -> Script:
    """Deviations by step and number: `scripted((Step.STORE, 1, Reset()))`."""
    plan = {(step, n): deviation for step, n, deviation in planned}
    return lambda request: plan.get((request.step, request.n))


def always(step: Step, deviation: Deviation) -> Script:
    return lambda request: deviation if request.step is step else None


RUBBISH = Reply(200, b"<html><title>Sign in</title></html>", {"Content-Type": "text/html"})


@dataclass(frozen=True, slots=True)
class Instance:
    """As it was sent."""

    study: str
    series: str
    uid: str
    sop_class: str
    data: bytes = field(repr=False)


class DicomwebSide:
    """Serves from `with` until its end. What it stored and was asked is public.

    It keeps the old bytes of a UID that it has, and says that it was stored, as Orthanc does; `duplicates`:
    the FailureReason that it gives for one in place of that, with 409 when nothing else was stored.
    """

    def __init__(self, port: int = 0) -> None:
        self.script: Script = all_good
        self.stored: dict[str, Instance] = {}
        self.requests: list[Request] = []
        self.authorizations: set[str] = set()  # that are accepted; none: everybody is
        self.duplicates: int | None = None
        self.dropped: set[str] = set()  # it says that it stored these, and does not
        self.most_rows = 1_000_000  # of a page, whatever limit says
        self.related_offset: int | None = 0  # what NumberOfStudyRelatedInstances is off by; None: not said
        self.searches_studies = True  # for instances; else series by series alone
        self.refused = 0  # how often it was asked for that all the same
        self.stores_under_way = 0
        self.most_stores_under_way = 0
        self.lock = threading.Condition()
        self._counts: defaultdict[Step, int] = defaultdict(int)
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{ROOT}"

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    @property
    def bodies(self) -> dict[str, bytes]:
        """What is stored now, by SOP Instance UID."""
        return {uid: instance.data for uid, instance in self.stored.items()}

    def asked(self, step: Step) -> list[Request]:
        return [request for request in self.requests if request.step is step]

    def put(self, *files: bytes) -> None:
        """These are there already."""
        for data in files:
            instance = instance_of(data)
            self.stored[instance.uid] = instance

    def delete(self, uid: str) -> None:
        del self.stored[uid]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- what the handlers call, each from its own thread ------------------------------------------------

    def take_down(self, step: Step, path: str, headers: Message, uids: Iterable[str], body: bytes) -> Request:
        parts = urlsplit(path)
        query = parse_qs(parts.query, keep_blank_values=True)
        with self.lock:
            self._counts[step] += 1
            request = Request(step, self._counts[step], parts.path, query, headers, tuple(uids), body)
            self.requests.append(request)
        return request

    def begin_store(self) -> None:
        with self.lock:
            self.stores_under_way += 1
            self.most_stores_under_way = max(self.most_stores_under_way, self.stores_under_way)
            self.lock.notify_all()

    def end_store(self) -> None:
        with self.lock:
            self.stores_under_way -= 1

    def knows(self, headers: Message) -> bool:
        return not self.authorizations or headers.get("Authorization") in self.authorizations

    def store(self, study: str, files: list[bytes], failed: Failed | None) -> Reply:
        done, failures, unread = [], [], 0
        for data in files:
            try:
                instance = instance_of(data)
            except (pydicom.errors.InvalidDicomError, AttributeError):
                unread += 1
                continue
            reason = self._refusal(instance, study, failed)
            with self.lock:
                if reason is _STORED:
                    if instance.uid not in self.dropped:
                        self.stored.setdefault(instance.uid, instance)
                    done.append(_reference(instance))
                else:
                    failures.append(_reference(instance) | _reason(reason))
        body: dict[str, Any] = {"00081199": {"vr": "SQ", "Value": done}} if done else {}
        if failures:
            body["00081198"] = {"vr": "SQ", "Value": failures}
        code = 200 if not failures and not unread else 202 if done else 409
        return _json(failed.status if failed else code, body)

    def _refusal(self, instance: Instance, study: str, failed: Failed | None) -> Any:
        if failed and instance.uid in (failed.uids or (instance.uid,)):
            return failed.reason
        if study and instance.study != study:
            return 272
        return self.duplicates if instance.uid in self.stored and self.duplicates else _STORED

    def rows(self, path: str, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        """What QIDO-RS answers."""
        found = sorted(self.stored.values(), key=lambda each: each.uid)
        if match := re.fullmatch(
            rf"{ROOT}/studies/([^/]+)/(?:series|instances|series/([^/]+)/instances)", path
        ):
            found = [each for each in found if each.study == unquote(match[1])]
            found = [each for each in found if match[2] in (None, each.series)]
        if wanted := query.get("SOPInstanceUID"):
            found = [each for each in found if each.uid in wanted]
        if wanted := query.get("StudyInstanceUID"):
            found = [each for each in found if each.study in wanted]
        if path == f"{ROOT}/studies":
            rows = [self._study_row(each) for each in {each.study: each for each in found}.values()]
        elif path.endswith("/series"):
            rows = [_series_row(uid) for uid in {each.series: each for each in found}]
        else:
            rows = [_row(each) for each in found]
        offset, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["1000000"])[0])
        return rows[offset : offset + min(limit, self.most_rows)]

    def _study_row(self, instance: Instance) -> dict[str, Any]:
        count = sum(each.study == instance.study for each in self.stored.values())
        row = {"0020000D": {"vr": "UI", "Value": [instance.study]}}
        if self.related_offset is None:
            return row
        return row | {"00201208": {"vr": "IS", "Value": [count + self.related_offset]}}

    def grant_token(self, headers: Message) -> Reply:
        secret = "s3cret%3A%2F%20%26"
        expected = base64.b64encode(f"{CLIENT_ID}:{secret}".encode()).decode()
        if headers.get("Authorization") != f"Basic {expected}":
            return _json(401, {"error": "invalid_client"})
        token = secrets.token_hex(16)
        self.authorizations.add(f"Bearer {token}")
        return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})


_STORED = object()
_SEARCHES = rf"{ROOT}/(studies|instances|studies/[^/]+/(instances|series|series/[^/]+/instances))"


def instance_of(data: bytes) -> Instance:
    """What a file says of itself."""
    found = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return Instance(*(str(getattr(found, name)) for name in names), data)


def _reference(instance: Instance) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [instance.sop_class]},
        "00081155": {"vr": "UI", "Value": [instance.uid]},
    }


def _reason(reason: Any) -> dict[str, Any]:
    return {} if reason is None else {"00081197": {"vr": "US", "Value": [reason]}}


def _series_row(uid: str) -> dict[str, Any]:
    return {"0020000E": {"vr": "UI", "Value": [uid]}}


def _row(instance: Instance) -> dict[str, Any]:
    return {
        "00080018": {"vr": "UI", "Value": [instance.uid]},
        "0020000D": {"vr": "UI", "Value": [instance.study]},
        "0020000E": {"vr": "UI", "Value": [instance.series]},
    }


def _json(code: int, body: Any) -> Reply:
    return Reply(code, json.dumps(body).encode(), JSON)


def files_of(content_type: str, body: bytes) -> list[bytes]:
    """The parts of a multipart body, taken apart as simply as can be."""
    message = Message()
    message["content-type"] = content_type
    delimiter = f"\r\n--{message.get_param('boundary')}".encode()
    *parts, end = (b"\r\n" + body).split(delimiter)[1:]
    assert end.startswith(b"--"), "the last delimiter is missing"
    return [part.partition(b"\r\n\r\n")[2] for part in parts]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, side: DicomwebSide, port: int) -> None:
        self.side = side
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def side(self) -> DicomwebSide:
        return self.server.side

    def do_POST(self) -> None:
        if self.path == "/token":
            self._play(
                Step.TOKEN, (), self._body(), lambda request, _: self.side.grant_token(request.headers)
            )
            return
        self.side.begin_store()
        try:
            body = self._body()
            if len(body) == int(self.headers.get("Content-Length", -1)):
                files = files_of(self.headers.get("Content-Type", ""), body)
                uids = [*filter(None, map(_uid_of, files))]
                self._play(Step.STORE, uids, body, lambda request, how: self._stored(request, files, how))
        finally:
            self.side.end_store()

    def _stored(self, request: Request, files: list[bytes], how: Deviation | None) -> Reply:
        study = unquote(request.path.removeprefix(f"{ROOT}/studies").strip("/"))
        reply = self.side.store(study, files, how if isinstance(how, Failed) else None)
        return Reply(how.status, how.body, JSON) if isinstance(how, Unnamed) else reply

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.endswith("/metadata"):
            self._play(Step.METADATA, (), b"", self._metadata)
        elif re.fullmatch(rf"{ROOT}/studies/[^/]+/series/[^/]+/instances/[^/]+", path):
            self._play(Step.RETRIEVE, (unquote(path.rpartition("/")[2]),), b"", self._instance)
        elif not self.side.searches_studies and re.fullmatch(rf"{ROOT}/(studies/[^/]+/)?instances", path):
            self.side.refused += 1
            self._answer(Reply(404))
        elif re.fullmatch(_SEARCHES, path):
            self._play(Step.QUERY, (), b"", self._rows)
        else:
            self._answer(Reply(404))

    def _rows(self, request: Request, how: Deviation | None) -> Reply:
        rows = self.side.rows(request.path, request.query)
        return _json(200, how.change(rows) if isinstance(how, Rows) else rows)

    def _metadata(self, request: Request, _how: Deviation | None) -> Reply:
        study = unquote(request.path.split("/")[-2])
        found = [each for each in self.side.stored.values() if each.study == study]
        read = [pydicom.dcmread(BytesIO(each.data), stop_before_pixels=True) for each in found]
        return _json(200, [each.to_json_dict() for each in read]) if found else Reply(404)

    def _instance(self, request: Request, _how: Deviation | None) -> Reply:
        found = self.side.stored.get(request.uids[0])
        if found is None:
            return Reply(404)
        boundary = secrets.token_hex(8)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
        body = head + found.data + f"\r\n--{boundary}--\r\n".encode()
        return Reply(200, body, {"Content-Type": content_type})

    def _play(
        self,
        step: Step,
        uids: Iterable[str],
        body: bytes,
        right: Callable[[Request, Deviation | None], Reply],
    ) -> None:
        request = self.side.take_down(step, self.path, self.headers, uids, body)
        how = self.side.script(request)
        if isinstance(how, Reset) and not how.stored:
            self._reset()
            return
        if isinstance(how, Reply):
            self._answer(how)
            return
        if step is not Step.TOKEN and not self.side.knows(self.headers):
            self._answer(Reply(401))
            return
        reply = right(request, how)
        if isinstance(how, Slow):
            time.sleep(how.seconds)
        if isinstance(how, Reset):
            self._reset()
        else:
            self._answer(reply, is_half=isinstance(how, Half))

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, reply: Reply, *, is_half: bool = False) -> None:
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        self.wfile.write(head + (reply.body[: len(reply.body) // 2] if is_half else reply.body))
        if is_half:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def log_message(self, *_: object) -> None:
        """Silent."""


def _uid_of(data: bytes) -> str:
    try:
        return instance_of(data).uid
    except (pydicom.errors.InvalidDicomError, AttributeError):
        return ""


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
