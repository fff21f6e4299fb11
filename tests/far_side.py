"""A far side on loopback with a script of faults, which keeps the truth of what it stored.

    GET  /upload/              ->  {"url", "key"}: a presigned PUT URL with SigV4's query parameters
    PUT  /bucket/<key>?X-Amz-  ->  200, ETag; refused as S3 refuses: expired, wrong signature, wrong digest
    POST /token                ->  a bearer token, for the client credentials

A script is asked about each request before its body is read, in the thread that serves it: so it may wait,
change files, or raise a flag. It returns what is to go wrong, or None.
"""

import _thread
import base64
import hashlib
import json
import random
import secrets
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from email.utils import formatdate
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

TOKEN = "a-static-token"  # accepted from the start
CLIENT_ID = "client"
CLIENT_SECRET = "s3cret:/ &"  # needs the form encoding of RFC 6749, 2.3.1


class Step(StrEnum):
    PRESIGN = "presign"
    PUT = "put"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; `n` counts those of its step from 1."""

    step: Step
    n: int
    key: str
    headers: Message = field(repr=False)

    @property
    def md5(self) -> str:
        """What Content-MD5 says, in hex; empty for a body that is hashed while it is sent."""
        return base64.b64decode(self.headers.get("Content-MD5", "")).hex()


@dataclass(frozen=True, slots=True)
class Reply:
    """This answer in place of the right one; nothing is stored."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reset:
    """No answer: the connection ends, before the body is read or after it is stored."""

    stored: bool = False


@dataclass(frozen=True, slots=True)
class StoredAs:
    """Stored and answered with this ETag (None: without one), status and headers."""

    etag: str | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredWith:
    """Stored and answered with headers that say something of the body."""

    headers: Callable[[bytes], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Minted:
    """A URL with other properties than usual."""

    key: str = ""
    host: str = ""
    lifetime_s: int = 900
    signed_headers: str = "host"


Deviation = Reply | Reset | StoredAs | StoredWith | Minted
Script = Callable[[Request], Deviation | None]


def status(code: int, retry_after: str = "") -> Reply:
    return Reply(code, headers={"Retry-After": retry_after} if retry_after else {})


def s3_error(code: int, name: str, message: str = "", retry_after: str = "") -> Reply:
    """An error as S3 writes it."""
    xml = f'<?xml version="1.0"?>\n<Error><Code>{name}</Code><Message>{message}</Message></Error>'
    return Reply(code, xml.encode(), status(code, retry_after).headers)


def url_expired() -> Reply:
    """AWS answers 403, others 400."""
    return s3_error(403, "AccessDenied", "Request has expired")


def scripted(*planned: tuple[Step, int, Deviation]) -> Script:
    """Deviations by step and number: `scripted((Step.PUT, 1, Reset()))`."""
    plan = {(step, n): deviation for step, n, deviation in planned}
    return lambda request: plan.get((request.step, request.n))


def always(step: Step, deviation: Deviation) -> Script:
    return lambda request: deviation if request.step is step else None


def once_begun(script: Script) -> Script:
    """The URL that a run asks for at its start is a good one, and is not counted."""

    def counted(request: Request) -> Deviation | None:
        if request.step is not Step.PRESIGN:
            return script(request)
        return script(replace(request, n=request.n - 1)) if request.n > 1 else None

    return counted


def interrupting(n: int) -> Script:
    """At the nth PUT, of which each takes a while, comes a signal that ends no wait of the main thread."""

    def script(request: Request) -> None:
        if request.step is Step.PUT:
            time.sleep(0.1)
            if request.n == n:
                _thread.interrupt_main()

    return script


def at_random(seed: int, share: float, by_step: Mapping[Step, list[Deviation]]) -> Script:
    """Some of the requests deviate, the same ones for the same seed."""

    def script(request: Request) -> Deviation | None:
        dice = random.Random(f"{seed} {request.step} {request.n}")
        choices = by_step.get(request.step, [])
        return dice.choice(choices) if choices and dice.random() < share else None

    return script


def all_good(_request: Request) -> None:
    """The script of a far side that works."""


@dataclass(slots=True)
class _Grant:
    signature: str
    expires_at: float


class FarSide:
    """Serves from `with` until its end. What it stored, was asked and is asked now is public."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """Plain HTTP, unless a context for TLS is given."""
        self.script: Script = all_good
        self._scheme = "https" if context else "http"
        self.objects: dict[str, list[bytes]] = {}  # key -> each body stored under it, the newest last
        self.requests: list[Request] = []
        self.clock_skew_s = 0.0
        self.tokens = {f"Bearer {TOKEN}"}
        self.api_keys: set[str] = set()  # accepted in x-api-key in place of a token
        self.token_lifetime_s = 3600
        self.puts_under_way = 0
        self.most_puts_under_way = 0
        self.lock = threading.Condition()
        self._counts: defaultdict[Step, int] = defaultdict(int)
        self._grants: dict[str, _Grant] = {}
        self._server = _Server(self)
        if context:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    @property
    def bodies(self) -> dict[str, bytes]:
        """What is stored now, by key."""
        return {key: versions[-1] for key, versions in self.objects.items()}

    @property
    def keys_handed_out(self) -> set[str]:
        return set(self._grants)

    @property
    def minted(self) -> list[str]:
        """The keys in the order in which they were handed out."""
        return [*self._grants]

    @property
    def signatures(self) -> list[str]:
        """Of the URLs that were handed out."""
        return [grant.signature for grant in self._grants.values()]

    def asked(self, step: Step) -> list[Request]:
        return [request for request in self.requests if request.step is step]

    def wait_for_puts(self, count: int, timeout_s: float = 60) -> bool:
        """Whether so many PUTs were under way at once before the time was over; for scripts."""
        with self.lock:
            return self.lock.wait_for(lambda: self.most_puts_under_way >= count, timeout_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- what the handlers call, each from its own thread ------------------------------------------------

    def now(self) -> float:
        return time.time() + self.clock_skew_s

    def take_down(self, step: Step, key: str, headers: Message) -> Request:
        with self.lock:
            self._counts[step] += 1
            request = Request(step, self._counts[step], key, headers)
            self.requests.append(request)
        return request

    def put_begins(self) -> None:
        with self.lock:
            self.puts_under_way += 1
            self.most_puts_under_way = max(self.most_puts_under_way, self.puts_under_way)
            self.lock.notify_all()

    def put_ends(self) -> None:
        with self.lock:
            self.puts_under_way -= 1

    def store(self, key: str, body: bytes) -> None:
        with self.lock:
            self.objects.setdefault(key, []).append(body)

    def knows(self, headers: Message) -> bool:
        return headers.get("Authorization") in self.tokens or headers.get("x-api-key") in self.api_keys

    def mint(self, wanted: Minted) -> Reply:
        key = wanted.key or f"uploads/{secrets.token_hex(12)}"
        signed = int(self.now())
        grant = self._grants.setdefault(key, _Grant(secrets.token_hex(32), signed + wanted.lifetime_s))
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(signed)),
            "X-Amz-Expires": str(wanted.lifetime_s),
            "X-Amz-SignedHeaders": quote(wanted.signed_headers),
            "X-Amz-Signature": grant.signature,
        }
        host = wanted.host or f"127.0.0.1:{self._server.server_port}"
        pairs = "&".join(f"{name}={value}" for name, value in query.items())
        return _json(200, {"url": f"{self._scheme}://{host}/bucket/{quote(key)}?{pairs}", "key": key})

    def objection(self, key: str, query: Mapping[str, list[str]], headers: Message) -> Reply | None:
        """Why S3 would refuse it, whatever is in its body."""
        grant = self._grants.get(key)
        if grant is None or query.get("X-Amz-Signature") != [grant.signature]:
            return s3_error(403, "SignatureDoesNotMatch")
        if self.now() >= grant.expires_at:
            return url_expired()
        if headers.get("Content-Type") != "application/dicom" or "Authorization" in headers:
            return s3_error(400, "InvalidArgument", "Only one auth mechanism allowed, or a wrong type")
        return None if "Content-Length" in headers else s3_error(501, "NotImplemented")

    def grant_token(self, headers: Message) -> Reply:
        secret = "s3cret%3A%2F%20%26"
        expected = base64.b64encode(f"{CLIENT_ID}:{secret}".encode()).decode()
        if headers.get("Authorization") != f"Basic {expected}":
            return _json(401, {"error": "invalid_client"})
        token = secrets.token_hex(16)
        self.tokens.add(f"Bearer {token}")
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.token_lifetime_s}
        return _json(200, answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, far_side: FarSide) -> None:
        self.far_side = far_side
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

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
    def far_side(self) -> FarSide:
        return self.server.far_side

    def do_HEAD(self) -> None:
        self._answer(Reply(404))

    def do_GET(self) -> None:
        if self.path != "/upload/":
            self._answer(Reply(404))
            return
        request = self.far_side.take_down(Step.PRESIGN, "", self.headers)
        deviation = self.far_side.script(request)
        if isinstance(deviation, Reset):
            self._reset()
        elif isinstance(deviation, Reply):
            self._answer(deviation)
        elif not self.far_side.knows(self.headers):
            self._answer(_json(401, {"detail": "not authorised"}))
        else:
            self._answer(self.far_side.mint(deviation if isinstance(deviation, Minted) else Minted()))

    def do_POST(self) -> None:
        request = self.far_side.take_down(Step.TOKEN, "", self.headers)
        self._body()
        deviation = self.far_side.script(request)
        if isinstance(deviation, Reset):
            self._reset()
        elif isinstance(deviation, Reply):
            self._answer(deviation)
        else:
            self._answer(self.far_side.grant_token(self.headers))

    def do_PUT(self) -> None:
        self.far_side.put_begins()
        try:
            reply = self._put()
        finally:
            self.far_side.put_ends()  # before the sender can know of it, and begin another
        if isinstance(reply, Reply):
            self._answer(reply)
        else:
            self._reset()

    def _put(self) -> Reply | Reset:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/bucket/")
        request = self.far_side.take_down(Step.PUT, key, self.headers)
        deviation = self.far_side.script(request)
        if deviation == Reset():
            return Reset()
        body = self._body()
        refusal = self.far_side.objection(key, parse_qs(parts.query), self.headers)
        if isinstance(deviation, Reply):
            refusal = deviation
        if body is None:
            return Reset()
        if refusal is not None:
            return refusal
        if request.md5 not in ("", _md5(body)):
            return s3_error(400, "BadDigest")
        return self._store(key, body, deviation)

    def _store(self, key: str, body: bytes, deviation: Deviation | None) -> Reply | Reset:
        self.far_side.store(key, body)
        if isinstance(deviation, Reset):
            return Reset()
        if isinstance(deviation, StoredWith):
            return Reply(200, headers=deviation.headers(body))
        if isinstance(deviation, StoredAs):
            etag = {} if deviation.etag is None else {"ETag": deviation.etag}
            return Reply(deviation.status, headers={**etag, **deviation.headers})
        return Reply(200, headers={"ETag": f'"{_md5(body)}"'})

    def _body(self) -> bytes | None:
        """The whole body; None when the client breaks off."""
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _answer(self, reply: Reply) -> None:
        """One write: head and body of a small answer leave together."""
        lines = [f"HTTP/1.1 {reply.status} Scripted", f"Date: {formatdate(self.far_side.now(), usegmt=True)}"]
        if reply.status != 204:
            lines.append(f"Content-Length: {len(reply.body)}")
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        self.wfile.write(head if self.command == "HEAD" else head + reply.body)

    def _reset(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def log_message(self, *_: object) -> None:
        """Silent."""


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _json(code: int, body: dict[str, Any]) -> Reply:
    return Reply(code, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
