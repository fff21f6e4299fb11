"""Messages to a webhook: signed, with one id for each try, and no more tries than may help."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook as Receiver

from tasks.core.errors import Fault, FaultKind
from tasks.remote.curl_engine import Engine
from tasks.remote.tls import TlsPolicy
from tasks.remote.webhook import Webhook

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BODY = '{"type":"dicom.study.registered","study":17}'


@dataclass
class Receiving:
    """A server that answers so, one status after the other, the last one for good."""

    statuses: list[int]
    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiving]:
    server = Receiving([*statuses])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append(({**self.headers}, body))
            status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
            self.send_response(status)
            self.send_header("content-length", "0")
            self.send_header("retry-after", "7")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/results"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()


def posted(server: Receiving) -> list[float]:
    """How long was waited between the tries to post one message."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async def post() -> None:
        engine = Engine(TlsPolicy())
        try:
            webhook = Webhook(engine, server.url, SECRET, sleep=note, jitter=lambda: 0.5)
            await webhook.post("message-1", BODY)
        finally:
            engine.close()

    asyncio.run(post())
    return waits


def test_a_message_verifies_by_the_secret() -> None:
    """By the library that receivers use."""
    with receiving(204) as server:
        assert posted(server) == []
    ((headers, body),) = server.got
    seen: Any = Receiver(SECRET).verify(body, headers)
    assert seen["study"] == 17


def test_what_may_pass_is_tried_again_under_the_same_id() -> None:
    """As long as the receiver asks to wait."""
    with receiving(503, 500, 200) as server:
        assert posted(server) == [7.0, 7.0]
    assert {headers["webhook-id"] for headers, _ in server.got} == {"message-1"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, FaultKind.UNAUTHORIZED), (404, FaultKind.REJECTED), (302, FaultKind.REJECTED)],
)
def test_what_will_not_pass_is_not_tried_again(status: int, kind: FaultKind) -> None:
    """A redirect is not followed: the message would go to somebody else."""
    with receiving(status) as server, pytest.raises(Fault) as caught:
        posted(server)
    assert caught.value.kind is kind
    assert len(server.got) == 1
    assert server.url not in str(caught.value)


def test_tries_come_to_an_end() -> None:
    with receiving(500) as server, pytest.raises(Fault):
        posted(server)
    assert len(server.got) == 9
