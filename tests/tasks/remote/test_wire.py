"""One connection: when it is used again, and what becomes of an exchange that goes wrong."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from tasks.remote import wire
from tasks.remote.wire import DirectTransport

TIMEOUT = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 2.0)}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STALE = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nold"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Accepts connections one after another; each is given to the next of its scripts."""

    def __init__(self, *scripts: Callable[[socket.socket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits until every script has been played."""
        self._thread.join(5)
        self._listening.close()

    def _serve(self, scripts: tuple[Callable[[socket.socket], None], ...]) -> None:
        for script in scripts:
            connection, _ = self._listening.accept()
            self.connections += 1
            with connection:
                script(connection)


def reply(answer: bytes, requests: int = 1) -> Callable[[socket.socket], None]:
    """A script: so many requests without a body are answered alike, then the connection is closed."""

    def play(connection: socket.socket) -> None:
        for _ in range(requests):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(4096)
            connection.sendall(answer)

    return play


@contextmanager
def talking(*scripts: Callable[[socket.socket], None]) -> Iterator[tuple[DirectTransport, Server]]:
    server = Server(*scripts)
    transport = DirectTransport(httpx.URL(server.url), ssl.create_default_context())
    try:
        yield transport, server
    finally:
        transport.close()
        server.close()


def exchange(transport: DirectTransport, server: Server, content: bytes = b"") -> tuple[int, bytes]:
    method = "PUT" if content else "GET"
    request = httpx.Request(method, server.url, content=content, extensions=TIMEOUT)
    response = transport.handle_request(request)
    try:
        return response.status_code, b"".join(response.iter_raw())
    finally:
        response.close()


class TestConnection:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(OK, id="with a length"),
            pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="without a body"),
            pytest.param(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", id="with an empty one"),
            pytest.param(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", id="chunked"
            ),
        ],
    )
    def test_is_used_again(self, answer: bytes) -> None:
        with talking(reply(answer, requests=3)) as (transport, server):
            told = {exchange(transport, server) for _ in range(3)}
        assert len(told) == 1
        assert server.connections == 1

    def test_that_the_server_closes_is_opened_anew(self) -> None:
        closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
        with talking(reply(closing), reply(OK)) as (transport, server):
            assert [exchange(transport, server) for _ in range(2)] == [(200, b"ok")] * 2

    @pytest.mark.parametrize("more", [STALE, b"rubbish", b"\0"])
    @pytest.mark.parametrize("at_once", [True, False])
    def test_on_which_more_came_than_was_asked_for_is_not_used_again(
        self, more: bytes, at_once: bool
    ) -> None:
        """Whose answer it is nobody knows: it is not the next file's. The first one holds."""
        answered, all_sent = threading.Event(), threading.Event()

        def play(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(OK + more if at_once else OK)
            answered.wait(5)
            if not at_once:
                connection.sendall(more)
            all_sent.set()
            with suppress(ConnectionError):
                connection.recv(4096)  # until it is closed

        with talking(play, reply(OK)) as (transport, server):
            assert exchange(transport, server) == (200, b"ok")
            answered.set()
            assert all_sent.wait(5)
            assert exchange(transport, server) == (200, b"ok")
        assert server.connections == 2

    def test_after_head_is_used_again(self) -> None:
        """Its answer says how long a body would be, and has none."""

        def play(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(OK[:-2])
            connection.recv(4096)
            connection.sendall(OK)

        with talking(play) as (transport, server):
            response = transport.handle_request(httpx.Request("HEAD", server.url, extensions=TIMEOUT))
            assert (response.status_code, response.headers["content-length"]) == (200, "2")
            assert list(response.iter_raw()) == []
            response.close()
            assert exchange(transport, server) == (200, b"ok")

    def test_that_was_closed_while_it_was_idle_is_opened_anew(self) -> None:
        with talking(reply(OK), reply(OK)) as (transport, server):
            exchange(transport, server)
            time.sleep(0.2)  # the server's close arrives
            assert exchange(transport, server) == (200, b"ok")
        assert server.connections == 2

    def test_whose_answer_was_not_read_is_not_used_again(self) -> None:
        long = OK.replace(b": 2", b": 200000") + b"x" * 199_998
        with talking(reply(long), reply(OK)) as (transport, server):
            transport.handle_request(httpx.Request("GET", server.url, extensions=TIMEOUT)).close()
            assert exchange(transport, server) == (200, b"ok")
        assert server.connections == 2


class TestAnswer:
    def test_comes_after_any_that_are_no_final_ones(self) -> None:
        informed = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"
        with talking(reply(informed + OK, requests=2)) as (transport, server):
            assert [exchange(transport, server) for _ in range(2)] == [(200, b"ok")] * 2
        assert server.connections == 1

    def test_without_a_length_ends_with_the_connection(self) -> None:
        with talking(reply(b"HTTP/1.1 200 OK\r\n\r\nok"), reply(OK)) as (transport, server):
            assert [exchange(transport, server) for _ in range(2)] == [(200, b"ok")] * 2
        assert server.connections == 2

    def test_in_pieces_is_put_together(self) -> None:
        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            for byte in OK:
                connection.sendall(bytes([byte]))
                time.sleep(0.001)

        with talking(drip) as (transport, server):
            assert exchange(transport, server) == (200, b"ok")

    def test_that_comes_before_the_body_is_sent_is_the_answer(self) -> None:
        """A store that refuses a large object says why and closes."""

        def refuse(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            while connection.recv(1 << 20):
                pass

        with talking(refuse) as (transport, server):
            assert exchange(transport, server, bytes(20_000_000))[0] == 403

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            pytest.param(b"", httpx.RemoteProtocolError, id="nothing"),
            pytest.param(b"SSH-2.0-OpenSSH\r\n", httpx.RemoteProtocolError, id="another protocol"),
            pytest.param(OK[:20], httpx.RemoteProtocolError, id="a cut head"),
            pytest.param(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                httpx.RemoteProtocolError,
                id="an upgrade",
            ),
            pytest.param(OK[:-1], httpx.RemoteProtocolError, id="a cut body"),
            pytest.param(CHUNKED + b"zz\r\n", httpx.RemoteProtocolError, id="no chunk"),
            pytest.param(
                CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000,
                httpx.RemoteProtocolError,
                id="trailers without end",
            ),
            pytest.param(
                CHUNKED + b"2;" + b"x" * 300_000,
                httpx.RemoteProtocolError,
                id="a chunk extension without end",
            ),
            pytest.param(
                b"HTTP/1.1 099 None\r\nContent-Length: 4\r\n\r\nEVIL" + OK,
                httpx.RemoteProtocolError,
                id="no status",
            ),
        ],
    )
    def test_that_is_none_is_an_error(self, answer: bytes, error: type[Exception]) -> None:
        with talking(reply(answer)) as (transport, server), pytest.raises(error):
            exchange(transport, server)

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, id="its head"),
            pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000, id="its trailers"),
            pytest.param(CHUNKED + b"2;" + b"x" * 300_000, id="a chunk's extension"),
        ],
    )
    def test_without_end_is_an_error(self, answer: bytes) -> None:
        def flood(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                reply(answer)(connection)

        with talking(flood) as (transport, server), pytest.raises(httpx.RemoteProtocolError, match="no end"):
            exchange(transport, server)

    def test_that_drips_without_end_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Never silent, and its head is never whole."""
        monkeypatch.setattr(wire, "LONGEST_ANSWER_S", 0.1)

        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            with suppress(ConnectionError):
                for _ in range(200):
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.01)

        with talking(drip) as (transport, server), pytest.raises(httpx.RemoteProtocolError, match="no end"):
            exchange(transport, server)

    def test_that_comes_before_the_body_is_sent_holds_though_nothing_more_is_read(self) -> None:
        """A proxy that refuses a large object may say why, and keep the connection."""
        hold = threading.Event()

        def refuse(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            hold.wait(5)

        with talking(refuse) as (transport, server):
            timeout = {"timeout": {**TIMEOUT["timeout"], "write": 0.2}}
            request = httpx.Request("PUT", server.url, content=bytes(20_000_000), extensions=timeout)
            response = transport.handle_request(request)
            response.close()
            hold.set()
        assert response.status_code == 413

    def test_that_never_comes_is_a_time_out(self) -> None:
        hold = threading.Event()
        with talking(lambda _connection: bool(hold.wait(5))) as (transport, server):
            request = httpx.Request(
                "GET", server.url, extensions={"timeout": {**TIMEOUT["timeout"], "read": 0.1}}
            )
            with pytest.raises(httpx.ReadTimeout):
                transport.handle_request(request)
            hold.set()


class TestRequest:
    def test_passes_on_what_its_body_raises(self) -> None:
        """A disk that fails is no trouble of the network; the connection is not used again."""

        def failing() -> Iterator[bytes]:
            yield b"some"
            raise OSError("the disk")

        with talking(lambda connection: bool(connection.recv(4096)), reply(OK)) as (transport, server):
            headers = {"Content-Length": "100"}
            request = httpx.Request("PUT", server.url, headers=headers, content=failing(), extensions=TIMEOUT)
            with pytest.raises(OSError, match="the disk"):
                transport.handle_request(request)
            assert exchange(transport, server) == (200, b"ok")
        assert server.connections == 2

    def test_cannot_smuggle_a_header(self) -> None:
        """It is refused before anything is opened."""
        with talking() as (transport, server):
            request = httpx.Request("GET", server.url, headers={"X": "a\r\nY: b"}, extensions=TIMEOUT)
            with pytest.raises(httpx.LocalProtocolError):
                transport.handle_request(request)
        assert server.connections == 0

    def test_needs_a_length(self) -> None:
        """Or its body would be taken for requests of its own."""
        with talking() as (transport, server):
            request = httpx.Request("PUT", server.url, content=iter([b"ok"]), extensions=TIMEOUT)
            with pytest.raises(httpx.LocalProtocolError):
                transport.handle_request(request)
        assert server.connections == 0

    @pytest.mark.parametrize(
        "url", ["https://127.0.0.1:{port}/", "http://localhost:{port}/", "http://127.0.0.1:1/"]
    )
    def test_goes_to_its_own_origin_alone(self, url: str) -> None:
        transport = DirectTransport(httpx.URL("http://127.0.0.1:2/"), None)
        request = httpx.Request("GET", url.format(port=2), extensions=TIMEOUT)
        with pytest.raises(httpx.UnsupportedProtocol):
            transport.handle_request(request)

    def test_needs_http(self) -> None:
        request = httpx.Request("GET", "ftp://127.0.0.1/", extensions=TIMEOUT)
        with pytest.raises(httpx.UnsupportedProtocol):
            DirectTransport(request.url, ssl.create_default_context()).handle_request(request)
