"""What an httpx client makes of the engine."""

import asyncio
import gzip
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from tasks.core.errors import Fault, FaultKind
from tasks.remote.curl_engine import Engine
from tasks.remote.engine_transport import EngineTransport, answer_of, http_client
from tasks.remote.tls import TlsPolicy
from tests.raw_server import OK, RawServer, Script, head_of, reply
from tests.tasks.remote.test_curl_engine import LIMITS, directly

Asked = Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]


def answered(script: Script, ask: Asked) -> httpx.Response:
    """What a client gets that asks relative to the server's address."""

    async def send() -> httpx.Response:
        engine = Engine(TlsPolicy(), directly)
        try:
            transport = EngineTransport(engine, LIMITS)
            async with httpx.AsyncClient(base_url=server.url, transport=transport) as client:
                return await ask(client)
        finally:
            engine.close()

    server = RawServer(script)
    try:
        return asyncio.run(send())
    finally:
        server.close()


def test_a_form_is_sent_and_its_answer_read() -> None:
    """As OAuth2 asks for a token."""
    seen: list[bytes] = []

    def token(connection: Any) -> None:
        seen.append(head_of(connection))
        seen.append(connection.recv(100))
        connection.sendall(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
        )

    response = answered(token, lambda client: client.post("token", data={"grant_type": "client_credentials"}))
    assert response.json() == {"a": 1}
    assert response.headers["content-type"] == "application/json"
    assert seen[0].startswith(b"POST /token HTTP/1.1\r\n")
    assert b"content-type: application/x-www-form-urlencoded\r\n" in seen[0]
    assert seen[0].lower().count(b"content-length: 29\r\n") == 1
    assert seen[1] == b"grant_type=client_credentials"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH"])
def test_every_method_is_sent_as_it_is(method: str) -> None:
    seen: list[bytes] = []

    def note(connection: Any) -> None:
        seen.append(head_of(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert answered(note, lambda client: client.request(method, "/")).status_code == 204
    assert seen[0].startswith(method.encode() + b" / HTTP/1.1\r\n")


def test_a_compressed_answer_is_decoded_once() -> None:
    body = gzip.compress(b"hello")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    seen: list[bytes] = []

    def compressed(connection: Any) -> None:
        seen.append(head_of(connection))
        connection.sendall(head + body)

    asked = {"Accept-Encoding": "br, zstd"}
    assert answered(compressed, lambda client: client.get("/", headers=asked)).text == "hello"
    assert b"accept-encoding: identity\r\n" in seen[0], "nothing else is asked for"


def test_a_redirect_is_an_answer() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    assert answered(reply(moved), lambda client: client.get("/")).headers["location"] == "/elsewhere"


def test_an_answer_longer_than_the_bound_is_a_fault() -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000
    with pytest.raises(Fault, match="no end") as fault:
        answered(reply(long), lambda client: client.get("/"))
    assert fault.value.kind is FaultKind.NETWORK


def test_a_time_out_is_the_requests_own() -> None:
    """And a Fault as the engine says it, which every caller knows."""

    def hold(connection: Any) -> None:
        connection.recv(4096)
        connection.recv(4096)  # until it is closed

    with pytest.raises(Fault, match="silent"):
        answered(hold, lambda client: client.get("/", timeout=httpx.Timeout(5, read=0.2)))


def test_answers_are_those_of_one_connection() -> None:
    async def twice(client: httpx.AsyncClient) -> httpx.Response:
        await client.get("/")
        return await client.get("/")

    assert answered(reply(OK, requests=2), twice).text == "ok"


class TestClient:
    """As the OAuth2 client has it."""

    @staticmethod
    def got(script: Script, *paths: str) -> list[httpx.Response]:
        async def get() -> list[httpx.Response]:
            engine = Engine(TlsPolicy(), directly)
            try:
                client = http_client(engine)
                return [await client.get(f"{server.url}{path}") for path in paths]
            finally:
                engine.close()

        server = RawServer(script)
        try:
            return asyncio.run(get())
        finally:
            server.close()

    def test_keeps_no_cookie(self) -> None:
        heads: list[bytes] = []
        given = OK.replace(b"OK\r\n", b"OK\r\nSet-Cookie: a=b\r\n")

        def note(connection: Any) -> None:
            for _ in range(2):
                heads.append(head_of(connection))
                connection.sendall(given)

        assert [each.text for each in self.got(note, "", "")] == ["ok"] * 2
        assert b"cookie" not in heads[1].lower()

    def test_says_no_url_in_a_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """It may name a patient's study."""
        with caplog.at_level(logging.DEBUG):
            self.got(reply(OK), "studies/1.2.3")
        assert "1.2.3" not in caplog.text

    def test_asks_for_what_can_be_decoded_alone(self) -> None:
        heads: list[bytes] = []

        def note(connection: Any) -> None:
            heads.append(head_of(connection))
            connection.sendall(OK)

        self.got(note, "")
        assert b"accept-encoding: identity\r\n" in heads[0].lower()

    def test_has_answers_whose_trouble_is_known(self) -> None:
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
        answer = answer_of(self.got(reply(busy), "")[0])
        assert (answer.trouble(), answer.retry_after_s()) == (FaultKind.THROTTLED, 7)
