"""libcurl on an event loop, against real sockets: when a connection is used again, what ends a request."""

import asyncio
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Limits, Origin, Request
from tasks.remote.curl_engine import Engine
from tasks.remote.tls import TlsPolicy
from tests.raw_server import OK, RawServer, Script, head_of, reply

LIMITS = Limits(connect_s=5, silence_s=5, answer_s=5)
STALE = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nold"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
LARGE = bytes(20_000_000)


def directly(origin: Origin) -> str:
    """No proxy."""
    return ""


class Talk:
    """A server of scripts, and an engine that asks it."""

    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.runner = asyncio.Runner()
        self.engine = self.runner.run(self._made())

    async def _made(self) -> Engine:
        return Engine(TlsPolicy(), directly)

    def ask(self, body: bytes = b"", limits: Limits = LIMITS, method: str = "", **more: object) -> Answer:
        request = Request(method or ("PUT" if body else "GET"), self.server.url, {}, body)
        return self.runner.run(self.engine.send(replace(request, **more), limits))  # type: ignore[arg-type]

    def close(self) -> None:
        async def close() -> None:
            self.engine.close()

        self.runner.run(close())
        self.runner.close()
        self.server.close()


@contextmanager
def talking(*scripts: Script, **server: Any) -> Iterator[Talk]:
    talk = Talk(RawServer(*scripts, **server))
    try:
        yield talk
    finally:
        talk.close()


def whole(connection: socket.socket) -> None:
    """A script: reads LARGE, then answers."""
    head_of(connection)
    left = len(LARGE)
    while left:
        left -= len(connection.recv(left))
    connection.sendall(OK)


def said(answer: Answer) -> tuple[int, bytes]:
    return answer.status, answer.body


class TestConnection:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(OK, id="with a length"),
            pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="without a body"),
            pytest.param(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", id="with an empty one"),
            pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", id="chunked"),
        ],
    )
    def test_is_used_again(self, answer: bytes) -> None:
        with talking(reply(answer, requests=3)) as talk:
            answers = [talk.ask() for _ in range(3)]
            assert len({said(each) for each in answers}) == 1
            assert talk.server.connections == 1
            assert answers[0].address == "127.0.0.1"

    def test_is_used_again_by_another_method(self) -> None:
        with talking(reply(OK, requests=3)) as talk:
            assert said(talk.ask()) == (200, b"ok")
            assert said(talk.ask(method="DELETE")) == (200, b"ok")
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 1

    def test_that_the_server_closes_is_opened_anew(self) -> None:
        closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
        with talking(reply(closing), reply(OK)) as talk:
            assert [said(talk.ask()) for _ in range(2)] == [(200, b"ok")] * 2

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

        with talking(play, reply(OK)) as talk:
            assert said(talk.ask()) == (200, b"ok")
            answered.set()
            assert all_sent.wait(5)
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 2

    def test_is_a_new_one_after_the_first_that_was_tried(self) -> None:
        """Others that are idle may be as bad."""
        answered, all_sent = threading.Event(), threading.Barrier(3, timeout=5)

        def play(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(OK)
            answered.wait(5)
            connection.sendall(STALE)
            all_sent.wait()
            with suppress(ConnectionError):
                connection.recv(4096)  # until it is closed

        async def ask_twice() -> None:
            request = Request("GET", talk.server.url)
            await asyncio.gather(*(talk.engine.send(request, LIMITS) for _ in range(2)))

        with talking(play, play, reply(OK)) as talk:
            talk.runner.run(ask_twice())
            answered.set()
            all_sent.wait()
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 3

    def test_after_head_is_used_again(self) -> None:
        """Its answer says how long a body would be, and has none."""

        def play(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(OK[:-2])
            connection.recv(4096)
            connection.sendall(OK)

        with talking(play) as talk:
            answer = talk.ask(method="HEAD")
            assert (said(answer), answer.headers["content-length"]) == ((200, b""), "2")
            assert said(talk.ask()) == (200, b"ok")

    def test_that_was_closed_while_it_was_idle_is_opened_anew(self) -> None:
        with talking(reply(OK), reply(OK)) as talk:
            talk.ask()
            time.sleep(0.2)  # the server's close arrives
            assert said(talk.ask(b"body")) == (200, b"ok")
            assert talk.server.connections == 2

    def test_that_is_closed_when_the_next_request_comes_is_a_fault(self) -> None:
        """libcurl would send it again: whether it was stored nobody knows, and nobody would count it."""

        def play(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(OK)
            connection.recv(1)

        with talking(play, reply(OK), reply(OK)) as talk:
            talk.ask()
            with pytest.raises(Fault, match="ended before the answer did") as fault:
                talk.ask(b"body")
            assert fault.value.kind is FaultKind.NETWORK
            assert said(talk.ask(b"body")) == (200, b"ok")

    @pytest.mark.parametrize("line", [b"X : y\r\n", b"X: y\n", b"Transfer-Encoding: chunked\r\n"])
    def test_that_brought_what_is_no_answer_is_not_used_again(self, line: bytes) -> None:
        """Where that one ends others may see elsewhere."""
        with talking(reply(OK.replace(b"OK\r\n", b"OK\r\n" + line), requests=2), reply(OK)) as talk:
            with pytest.raises(Fault):
                talk.ask()
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 2

    def test_whose_answer_was_not_read_is_not_used_again(self) -> None:
        long = OK.replace(b": 2", b": 200000") + b"x" * 199_998

        def play(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                reply(long)(connection)

        with talking(play, reply(OK)) as talk:
            assert talk.ask().is_cut
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 2


class TestAnswer:
    def test_comes_after_any_that_are_no_final_ones(self) -> None:
        informed = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"
        with talking(reply(informed + OK, requests=2)) as talk:
            answers = [talk.ask() for _ in range(2)]
            assert [said(each) for each in answers] == [(200, b"ok")] * 2
            assert "x" not in answers[0].headers
            assert talk.server.connections == 1

    def test_without_a_length_ends_with_the_connection(self) -> None:
        with talking(reply(b"HTTP/1.1 200 OK\r\n\r\nok"), reply(OK)) as talk:
            assert [said(talk.ask()) for _ in range(2)] == [(200, b"ok")] * 2
            assert talk.server.connections == 2

    def test_in_pieces_is_put_together(self) -> None:
        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            for byte in OK:
                connection.sendall(bytes([byte]))
                time.sleep(0.001)

        with talking(drip) as talk:
            assert said(talk.ask()) == (200, b"ok")

    def test_names_its_headers_in_small_letters(self) -> None:
        more = OK.replace(b"OK\r\n", b'OK\r\nETag: "a"\r\nX-A:  b \r\nx-a: \xe9\r\nEmpty:\r\n')
        with talking(reply(more)) as talk:
            headers = talk.ask().headers
        assert headers == {"content-length": "2", "etag": '"a"', "x-a": "b, \xe9", "empty": ""}

    def test_that_comes_before_the_body_is_sent_is_the_answer(self) -> None:
        """A store that refuses a large object says why and closes."""

        def refuse(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(EARLY)
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            while connection.recv(1 << 20):
                pass

        with talking(refuse, whole) as talk:
            answer = talk.ask(LARGE)
            assert (answer.status, answer.is_sent_whole) == (403, False)
            answer = talk.ask(LARGE)
            assert (answer.status, answer.is_sent_whole) == (200, True)

    def test_that_comes_before_the_body_is_sent_holds_though_nothing_more_is_read(self) -> None:
        """A proxy that refuses a large object may say why, and keep the connection."""

        def refuse(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            talk.server.ended.wait(10)

        with talking(refuse) as talk:
            assert talk.ask(LARGE).status == 413

    def test_that_praises_what_was_not_sent_is_a_fault(self) -> None:
        """No store has a file of which it saw a part."""

        def praise(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(OK)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                if time.monotonic() > until:
                    break

        until = time.monotonic() + 0.1
        with talking(praise) as talk, pytest.raises(Fault) as fault:
            talk.ask(bytes(200_000_000))
        assert fault.value.kind is FaultKind.NETWORK

    def test_that_comes_after_the_next_request_is_nobodys(self) -> None:
        """The first was given up, and its connection with it."""
        asked_again = threading.Event()

        def late(connection: socket.socket) -> None:
            head_of(connection)
            asked_again.wait(5)
            with suppress(ConnectionError):
                connection.sendall(STALE)

        def second(connection: socket.socket) -> None:
            head_of(connection)
            asked_again.set()
            time.sleep(0.1)
            connection.sendall(OK)

        with talking(late, second) as talk:
            with pytest.raises(Fault, match="silent"):
                talk.ask(limits=replace(LIMITS, silence_s=0.1))
            assert said(talk.ask()) == (200, b"ok")

    @pytest.mark.parametrize("is_closed", [True, False])
    def test_that_leads_elsewhere_before_the_body_is_sent_is_the_answer(self, is_closed: bool) -> None:
        """As S3 does to a bucket of another region."""
        moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"

        def redirect(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(moved)
            if is_closed:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass
            talk.server.ended.wait(10)

        with talking(redirect) as talk:
            answer = talk.ask(LARGE)
            assert (answer.status, answer.redirect("http://a/")) == (307, "http://a/b")

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another protocol"),
            pytest.param(OK[:20], id="a cut head"),
            pytest.param(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                id="an upgrade",
            ),
            pytest.param(OK[:-1], id="a cut body"),
            pytest.param(CHUNKED + b"2\r\nok\r\n", id="a cut body of chunks"),
            pytest.param(CHUNKED + b"zz\r\n", id="no chunk"),
            pytest.param(b"HTTP/1.1 099 None\r\nContent-Length: 4\r\n\r\nEVIL" + OK, id="no status"),
            pytest.param(OK.replace(b"\r\n", b"\n"), id="bare line feeds"),
            pytest.param(OK.replace(b"OK\r\n", b"OK\r\nX: y\n"), id="one bare line feed"),
            pytest.param(OK.replace(b"OK\r\n", b"OK\r\nno header\r\n"), id="a line that is no header"),
            pytest.param(OK.replace(b"OK\r\n", b"OK\r\nX : y\r\n"), id="a space before the colon"),
            pytest.param(OK.replace(b"OK\r\n", b"OK\r\nContent-Length: 1\r\n"), id="two lengths"),
            pytest.param(OK.replace(b": 2", b": -2"), id="a length below nothing"),
            pytest.param(
                CHUNKED.replace(b"OK\r\n", b"OK\r\nContent-Length: 12\r\n") + b"2\r\nok\r\n0\r\n\r\n",
                id="a length beside chunks",
            ),
        ],
    )
    def test_that_is_none_is_a_fault_of_the_network(self, answer: bytes) -> None:
        with talking(*[reply(answer)] * 6) as talk, pytest.raises(Fault) as fault:
            talk.ask()
        assert fault.value.kind is FaultKind.NETWORK
        assert "libcurl" not in str(fault.value)

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, id="a header"),
            pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000, id="its head"),
            pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000, id="what comes before it"),
            pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000, id="its trailers"),
        ],
    )
    def test_without_end_is_a_fault_at_once(self, answer: bytes) -> None:
        def flood(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                reply(answer)(connection)
                talk.server.ended.wait(10)

        with talking(flood) as talk, pytest.raises(Fault, match="the answer has no end"):
            talk.ask(limits=Limits())

    def test_with_a_chunk_extension_without_end_is_a_fault(self) -> None:
        """None of it is kept; libcurl reads over it, so it counts as silence."""

        def flood(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(CHUNKED + b"2;")
            with suppress(OSError):
                while not talk.server.ended.is_set():
                    connection.sendall(b"x" * 100)
                    time.sleep(0.01)

        with talking(flood) as talk, pytest.raises(Fault, match="silent"):
            talk.ask(limits=replace(LIMITS, silence_s=0.4))

    @pytest.mark.parametrize("declared", [b"Content-Length: 5000000", b"Transfer-Encoding: chunked"])
    def test_with_a_body_without_end_is_cut(self, declared: bytes) -> None:
        """What it says before is enough to know what it means."""
        head = b"HTTP/1.1 503 Busy\r\n" + declared + b"\r\n\r\n"
        piece = b"1000\r\n" + b"x" * 0x1000 + b"\r\n" if b"chunked" in declared else b"x" * 5000

        def flood(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(head)
            with suppress(OSError):
                for _ in range(1000):
                    connection.sendall(piece)

        with talking(flood) as talk:
            answer = talk.ask()
        assert (answer.status, len(answer.body), answer.is_cut) == (503, LIMITS.body_bytes, True)

    @pytest.mark.parametrize("line", [b"X: y\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
    def test_whose_head_drips_without_end_is_a_fault(self, line: bytes) -> None:
        """Never silent, and never whole."""

        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"" if line.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
            with suppress(OSError):
                while not talk.server.ended.is_set():
                    connection.sendall(line)
                    time.sleep(0.01)

        with talking(drip) as talk, pytest.raises(Fault, match="came too slowly"):
            talk.ask(limits=replace(LIMITS, answer_s=0.3))

    def test_whose_body_drips_without_end_is_a_fault(self) -> None:
        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            with suppress(OSError):
                while not talk.server.ended.is_set():
                    connection.sendall(b"x")
                    time.sleep(0.01)

        with talking(drip) as talk, pytest.raises(Fault, match="came too slowly") as fault:
            talk.ask(limits=replace(LIMITS, answer_s=0.3))
        assert fault.value.kind is FaultKind.NETWORK

    def test_that_never_comes_is_a_time_out(self) -> None:
        with talking(lambda _: bool(talk.server.ended.wait(10))) as talk:
            with pytest.raises(Fault, match="silent") as fault:
                talk.ask(limits=replace(LIMITS, silence_s=0.2))
            assert fault.value.kind is FaultKind.NETWORK

    @pytest.mark.parametrize("piece_bytes", [0, 1000])
    def test_to_a_body_that_is_not_read_is_a_time_out(self, piece_bytes: int) -> None:
        """Or read so slowly that it is never sent."""
        pieces: list[bytes] = []

        def read(connection: socket.socket) -> None:
            with suppress(OSError):
                while not talk.server.ended.wait(0.02):
                    pieces.append(connection.recv(piece_bytes) if piece_bytes else b"")

        with talking(read, kernel_bytes=8192) as talk, pytest.raises(Fault, match="silent"):
            talk.ask(bytes(200_000), limits=replace(LIMITS, silence_s=0.5))
        assert len(b"".join(pieces)) < 150_000

    def test_to_a_body_that_the_kernel_holds_is_awaited_while_it_moves(self) -> None:
        """A slow link takes its time for what libcurl has long given away."""
        body = bytes(2_000_000)

        def read(connection: socket.socket) -> None:
            head_of(connection)
            left = len(body)
            while left:
                left -= len(connection.recv(min(left, 100_000)))
                time.sleep(0.1)
            connection.sendall(OK)

        with talking(read, kernel_bytes=65_536) as talk:
            assert talk.ask(body, limits=replace(LIMITS, silence_s=1)).status == 200

    def test_that_takes_its_time_is_awaited_while_the_body_moves(self) -> None:
        """The limit is for silence, not for a whole transfer."""

        def read(connection: socket.socket) -> None:
            head_of(connection)
            left = len(LARGE)
            while left:
                left -= len(connection.recv(min(left, 1_000_000), socket.MSG_WAITALL))
                time.sleep(0.06)
            connection.sendall(OK)

        with talking(read) as talk:
            began = time.monotonic()
            answer = talk.ask(LARGE, limits=replace(LIMITS, silence_s=1))
            assert (answer.status, answer.is_sent_whole) == (200, True)
            assert time.monotonic() - began > 1

    @pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], ids=["length", "chunks"])
    @pytest.mark.parametrize("is_reset", [True, False])
    def test_that_ends_at_any_byte_is_a_fault(self, answer: bytes, is_reset: bool) -> None:
        """But the last one."""

        def cut(length: int) -> Script:
            def play(connection: socket.socket) -> None:
                head_of(connection)
                connection.sendall(answer[:length])
                if is_reset:
                    time.sleep(0.001)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

            return play

        with talking(*(cut(length) for length in range(len(answer) + 1))) as talk:
            for _ in range(len(answer)):
                with pytest.raises(Fault) as fault:
                    talk.ask()
                assert fault.value.kind is FaultKind.NETWORK
            assert said(talk.ask()) == (200, b"ok")

    @pytest.mark.parametrize("after", [0, 100, 20_000_000])
    def test_is_a_fault_when_the_connection_is_reset(self, after: int) -> None:
        """At any moment: at once, while the body is sent, before the answer."""

        def reset(connection: socket.socket) -> None:
            left = after
            while left > 0:
                left -= len(connection.recv(1 << 20))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with talking(*[reset] * 6) as talk, pytest.raises(Fault) as fault:
            talk.ask(LARGE)
        assert fault.value.kind is FaultKind.NETWORK

    @pytest.mark.parametrize(
        ("coding", "body"),
        [
            (b"gzip", gzip.compress(b"hello", mtime=0)),
            (b"x-gzip", gzip.compress(b"hello", mtime=0)),
            (b"deflate", zlib.compress(b"hello")),
            (b"deflate", zlib.compress(b"hello")[2:-4]),
            (b"identity", b"hello"),
        ],
    )
    def test_that_is_compressed_is_decoded(self, coding: bytes, body: bytes) -> None:
        """Though nobody asked for that."""
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
        with talking(reply(head + body)) as talk:
            answer = talk.ask()
        assert (answer.body, answer.is_cut) == (b"hello", False)

    def test_that_is_compressed_and_large_is_cut(self) -> None:
        body = gzip.compress(bytes(50_000_000))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
        with talking(reply(head + body)) as talk:
            answer = talk.ask()
        assert (len(answer.body), answer.is_cut) == (LIMITS.body_bytes, True)

    def test_that_cannot_be_decoded_keeps_its_status(self) -> None:
        head = b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\nno gzip"
        with talking(reply(head)) as talk:
            assert said(talk.ask()) == (201, b"no gzip")


class TestRequest:
    def test_says_what_it_was_given_and_where_it_goes(self) -> None:
        """No User-Agent, no Accept, no Expect: a signature may cover what is sent."""
        heads: list[bytes] = []

        def note(connection: socket.socket) -> None:
            for _ in range(2):
                heads.append(head_of(connection))
                connection.recv(4) if b"PUT" in heads[-1] else None
                connection.sendall(OK)

        with talking(note) as talk:
            headers = {"Content-Type": "application/dicom", "X-Empty": ""}
            talk.ask(b"body", headers=headers, url=talk.server.url + "a/../b//%41?X-Amz-Signature=a%2Fb")
            talk.ask(headers={"Accept": "application/json"})
            host = f"Host: 127.0.0.1:{talk.server.port}"
        put, get = (set(head.decode().strip().split("\r\n")) for head in heads)
        assert put == {
            "PUT /a/../b//%41?X-Amz-Signature=a%2Fb HTTP/1.1",
            host,
            "Content-Type: application/dicom",
            "X-Empty:",
            "Accept-Encoding: identity",
            "Content-Length: 4",
        }
        assert get == {"GET / HTTP/1.1", host, "Accept: application/json", "Accept-Encoding: identity"}

    def test_carries_neither_cookies_nor_what_netrc_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does it ask a proxy that nobody chose."""
        (tmp_path / ".netrc").write_text("default login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        heads: list[bytes] = []

        def note(connection: socket.socket) -> None:
            for _ in range(2):
                heads.append(head_of(connection))
                connection.sendall(OK.replace(b"OK\r\n", b"OK\r\nSet-Cookie: a=b\r\n"))

        with talking(note) as talk:
            talk.ask()
            talk.ask()
        expected = "GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept-Encoding: identity\r\n\r\n"
        assert heads == [expected.format(talk.server.port).encode()] * 2

    def test_goes_to_addresses_of_the_sixth_version(self) -> None:
        with talking(reply(OK, requests=2), family=socket.AF_INET6) as talk:
            answers = [talk.ask() for _ in range(2)]
            assert [(each.status, each.address) for each in answers] == [(200, "::1")] * 2
            assert talk.server.connections == 1
            with pytest.raises(Fault, match="private network"):
                talk.ask(allow_private=False)

    def test_is_followed_by_another_of_another_length(self) -> None:
        def read(connection: socket.socket) -> None:
            for length in (5, 0, 3):
                head = head_of(connection)
                assert b"Content-Length: %d\r\n" % length in head
                connection.recv(length) if length else None
                connection.sendall(OK)

        with talking(read) as talk:
            assert [said(talk.ask(body, method="PUT"))[0] for body in (b"12345", b"", b"123")] == [200] * 3

    @pytest.mark.parametrize(
        "headers",
        [{"X": "a\r\nY: b"}, {"X": "a\0"}, {"X\r\nY": "b"}, {"X:": "y"}, {"X": "\u2028"}, {"": "y"}],
    )
    def test_cannot_smuggle_a_header(self, headers: dict[str, str]) -> None:
        """It is refused before anything is opened."""
        with talking(reply(OK)) as talk:
            with pytest.raises(Fault) as fault:
                talk.ask(headers=headers)
            assert fault.value.kind is FaultKind.SETTINGS
            assert said(talk.ask()) == (200, b"ok")
            assert talk.server.connections == 1

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "http:///",
            "127.0.0.1",
            "http://user:password@127.0.0.1/",
            "http://127.0.0.1:99999999/",
            "http://[::1/",
            "http://a\\@b/",
            "http://%31%32%37.0.0.1/",
            "http://\udcff/",
            "",
        ],
    )
    def test_needs_http_and_one_host(self, url: str) -> None:
        with talking() as talk, pytest.raises(Fault) as fault:
            talk.ask(url=url)
        assert fault.value.kind is FaultKind.SETTINGS
        assert str(fault.value) == "the URL can't be used"

    def test_that_is_cancelled_is_cut_off(self) -> None:
        """The server sees the end of the connection, in the middle of the body."""
        begun, cut = threading.Event(), threading.Event()

        def read(connection: socket.socket) -> None:
            connection.recv(1024)
            begun.set()
            time.sleep(0.1)
            with suppress(ConnectionError):
                while connection.recv(1 << 20):
                    pass
            cut.set()

        async def cancel() -> None:
            task = asyncio.create_task(talk.engine.send(Request("PUT", talk.server.url, {}, LARGE), LIMITS))
            await asyncio.to_thread(begun.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cut.wait, 5)

        with talking(read, reply(OK)) as talk:
            talk.runner.run(cancel())
            assert said(talk.ask(b"body")) == (200, b"ok")
            assert talk.server.connections == 2

    def test_that_is_cancelled_when_its_answer_is_there_cuts_nobody_else_off(self) -> None:
        """Its handle is the next request's by then."""

        async def cancel() -> Answer:
            request = Request("GET", talk.server.url)
            task = asyncio.create_task(talk.engine.send(request, LIMITS))
            await asyncio.sleep(0)
            while talk.engine._under_way:
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            async with asyncio.timeout(5):
                return await talk.engine.send(request, LIMITS)

        with talking(reply(OK, requests=2)) as talk:
            assert said(talk.runner.run(cancel())) == (200, b"ok")
            assert talk.server.connections == 1

    def test_under_way_ends_with_the_engine(self) -> None:
        begun = threading.Event()

        def hold(connection: socket.socket) -> None:
            begun.set()
            talk.server.ended.wait(10)

        async def close() -> None:
            task = asyncio.create_task(talk.engine.send(Request("GET", talk.server.url), LIMITS))
            await asyncio.to_thread(begun.wait, 5)
            talk.engine.close()
            with pytest.raises(Fault):
                await task

        with talking(hold) as talk:
            talk.runner.run(close())

    def test_is_one_of_many(self) -> None:
        """A hundred at once, on as many connections; no answer is another's."""

        def echo(connection: socket.socket) -> None:
            for _ in range(2):
                path = head_of(connection).split()[1]
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)
                connection.sendall(answer)

        async def ask_all() -> list[bytes]:
            requests = [Request("GET", f"{talk.server.url}{n}") for n in range(100)]
            answers = await asyncio.gather(*(talk.engine.send(each, LIMITS) for each in requests))
            return [answer.body for answer in answers]

        with talking(*[echo] * 100) as talk:
            for _ in range(2):
                assert talk.runner.run(ask_all()) == [b"/%d" % n for n in range(100)]

    def test_to_nobody_is_a_fault_of_the_network(self) -> None:
        with talking() as talk:
            talk.server.close()
            with pytest.raises(Fault, match="can't be made") as fault:
                talk.ask()
            assert fault.value.kind is FaultKind.NETWORK

    def test_to_a_name_that_nobody_knows_is_a_fault_of_the_network(self) -> None:
        with talking() as talk, pytest.raises(Fault, match="name can't be resolved") as fault:
            talk.ask(url="http://api.invalid/")
        assert fault.value.kind is FaultKind.NETWORK


def test_the_end_does_not_wait_for_a_resolver_that_does_not_answer() -> None:
    """As libcurl does, once for each name that it has been asked for."""
    may_end, has_ended = threading.Event(), threading.Event()

    class Waiting:
        def __init__(self, multi: Any) -> None:
            self.multi = multi

        def close(self) -> None:
            may_end.wait(60)
            self.multi.close()
            has_ended.set()

    async def close() -> None:
        engine: Any = Engine(TlsPolicy())
        engine._multi = Waiting(engine._multi)
        engine.close()
        engine.close()

    asyncio.run(close())
    assert not has_ended.is_set()
    may_end.set()
    assert has_ended.wait(60)


class TestAddress:
    """Of plain http to a name: whoever answers for it."""

    def test_in_a_private_network_is_refused_before_anything_is_sent(self) -> None:
        with talking(reply(OK), reply(OK)) as talk:
            named = f"http://localhost:{talk.server.port}/"
            assert talk.ask(url=named).status == 200
            for _ in range(2):
                with pytest.raises(Fault, match="private network") as fault:
                    talk.ask(url=named, allow_private=False)
                assert fault.value.kind is FaultKind.SETTINGS

    def test_of_a_connection_that_is_kept_is_checked_too(self) -> None:
        """It was opened for a request that allowed it."""
        heads: list[bytes] = []

        def note(connection: socket.socket) -> None:
            while head := head_of(connection):
                heads.append(head)
                connection.sendall(OK)

        with talking(note, note) as talk:
            named = f"http://localhost:{talk.server.port}/"
            assert talk.ask(url=named).status == 200
            with pytest.raises(Fault, match="private network"):
                talk.ask(url=named, allow_private=False)
        assert len(heads) == 1
