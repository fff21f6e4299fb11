"""How the engine and its event loop share sockets: nobody watches what is idle, or closed."""

import asyncio
import selectors
import socket
import threading
from contextlib import suppress

import pytest

from tasks.core.http_messages import Request
from tasks.remote.curl_engine import Engine
from tasks.remote.tls import TlsPolicy
from tests.raw_server import OK, RawServer, head_of, reply
from tests.tasks.remote.test_curl_engine import STALE, directly, said, talking

CLOSING = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")


class Counting(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """How often the loop has looked what there is to do."""

    looks = 0

    def select(self, timeout: float | None = None) -> object:
        self.looks += 1
        return super().select(timeout)


@pytest.mark.parametrize("last_words", [b"", STALE])
def test_a_connection_that_ends_while_it_is_idle_keeps_no_loop_busy(last_words: bytes) -> None:
    """Its socket is readable for ever, and nobody reads it."""
    answered, has_ended = threading.Event(), threading.Event()

    def play(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(OK)
        answered.wait(10)
        connection.sendall(last_words)
        connection.shutdown(socket.SHUT_WR)
        has_ended.set()
        server.ended.wait(10)

    async def ask_and_wait() -> int:
        engine = Engine(TlsPolicy(), directly)
        request = Request("GET", server.url)
        assert said(await engine.send(request)) == (200, b"ok")
        answered.set()
        await asyncio.to_thread(has_ended.wait, 10)
        before = selector.looks
        for _ in range(20):
            await asyncio.sleep(0.02)
        looks = selector.looks - before
        assert said(await engine.send(request)) == (200, b"ok")
        engine.close()
        return looks

    server, selector = RawServer(play, reply(OK)), Counting()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(ask_and_wait()) < 100
    server.close()


def test_a_socket_that_gets_the_number_of_a_closed_one_is_another() -> None:
    """As the system always does it: the lowest that is free."""
    numbers: list[int] = []

    def number() -> int:
        with socket.socket() as lowest:
            return lowest.fileno()

    with talking(*[reply(CLOSING)] * 5) as talk:
        for _ in range(5):
            numbers.append(number())
            assert said(talk.ask()) == (200, b"ok")
        assert len(set(numbers)) < 5, "else the test would hold for nothing"
        assert talk.server.connections == 5


def test_what_comes_while_a_body_is_sent_is_read() -> None:
    """Also by a connection that was idle before."""

    def play(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(OK)
        head_of(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        with suppress(OSError):
            talk.server.ended.wait(10)

    with talking(play) as talk:
        assert said(talk.ask()) == (200, b"ok")
        assert talk.ask(bytes(20_000_000)).status == 413
