"""A body too large to hold, in a thread of its own."""

import asyncio
import hashlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Limits, Request
from tasks.remote.streamed import HeldBody
from tests.raw_server import OK, head_of
from tests.tasks.remote.test_curl_engine import EARLY, LIMITS, Talk, talking

PIECE = bytes(range(256)) * 4096  # 1 MiB


def put(
    talk: Talk,
    pieces: Iterable[bytes],
    size_bytes: int,
    limits: Limits = LIMITS,
) -> Answer:
    request = Request("PUT", talk.server.url, {"Content-Type": "application/dicom"})
    return talk.runner.run(talk.engine.send_streamed(request, pieces, size_bytes, limits))


def read_body(connection: socket.socket, size_bytes: int) -> bytes:
    """What the body's SHA-256 is, once it was asked for."""
    sha256, left = hashlib.sha256(), size_bytes
    while left:
        data = connection.recv(min(left, 1 << 20))
        if not data:
            raise ConnectionError
        sha256.update(data)
        left -= len(data)
    return sha256.digest()


class Server:
    """Takes one body of so many bytes, after it has said that it wants it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.head = b""
        self.digest = b""

    def __call__(self, connection: socket.socket) -> None:
        self.head = head_of(connection)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.digest = read_body(connection, self.size_bytes)
        connection.sendall(OK)


class TestHeldBody:
    def test_arrives_whole_from_pieces_of_any_size(self) -> None:
        pieces = [b"", PIECE[:1], PIECE, b"", PIECE[:700_000], PIECE[:3]]
        server = Server(sum(map(len, pieces)))
        with talking(server) as talk:
            request = Request("POST", talk.server.url)
            sent = talk.engine.send_streamed(request, iter(pieces), server.size_bytes, LIMITS, is_held=True)
            assert talk.runner.run(sent).status == 200
        assert server.digest == hashlib.sha256(b"".join(pieces)).digest()

    def test_needs_no_thread(self) -> None:
        threads = threading.active_count()
        body = HeldBody([PIECE], len(PIECE))
        assert body.read(100) == PIECE[:100]
        assert threading.active_count() == threads

    def test_gives_as_much_as_is_wanted_however_small_its_pieces_are(self) -> None:
        """libcurl sends what one call gives: many small ones would be as many packets."""
        body = HeldBody([PIECE[:100]] * 5, 500)
        assert [body.read(256), body.read(256), body.read(256)] == [
            PIECE[:100] * 2 + PIECE[:56],
            PIECE[56:100] + PIECE[:100] * 2,
            b"",
        ]

    def test_that_raises_is_not_sent_whole(self) -> None:
        def pieces() -> Iterator[bytes]:
            yield PIECE
            raise Fault(FaultKind.CHANGED, "another size")

        with talking(Server(2 * len(PIECE))) as talk:
            request = Request("POST", talk.server.url)
            sent = talk.engine.send_streamed(request, pieces(), 2 * len(PIECE), LIMITS, is_held=True)
            with pytest.raises(Fault, match="another size"):
                talk.runner.run(sent)


class TestBody:
    def test_is_sent_with_its_length_piece_by_piece(self) -> None:
        """The pieces may hash what passes; what arrives is the same."""
        sha256 = hashlib.sha256()
        size_bytes = 40 * len(PIECE) + 3

        def pieces() -> Iterator[bytes]:
            for piece in [*[PIECE] * 40, b"", b"end"]:
                sha256.update(piece)
                yield piece

        server = Server(size_bytes)
        with talking(server) as talk:
            answer = put(talk, pieces(), size_bytes)
        assert (answer.status, answer.body, answer.is_sent_whole) == (200, b"ok", True)
        assert server.digest == sha256.digest()
        assert b"Content-Length: %d\r\n" % size_bytes in server.head
        assert b"Expect: 100-continue\r\n" in server.head
        assert b"Transfer-Encoding" not in server.head

    def test_is_not_held(self) -> None:
        """However large it is."""
        size_bytes = 100 * len(PIECE)
        with talking(Server(size_bytes)) as talk:
            tracemalloc.start()
            put(talk, (bytes(PIECE) for _ in range(100)), size_bytes)
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak_bytes < 8 * len(PIECE)

    def test_is_not_sent_when_the_server_refuses_it(self) -> None:
        """It was asked first, and no byte of the body has left."""
        asked: list[bytes] = []

        def pieces() -> Iterator[bytes]:
            asked.append(PIECE)
            yield PIECE

        def refuse(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(EARLY)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""

        with talking(refuse) as talk:
            answer = put(talk, pieces(), len(PIECE))
            assert (answer.status, answer.is_sent_whole) == (403, False)
            assert asked == []
        assert talk.server.failures == []

    def test_is_sent_to_a_server_that_says_nothing_before(self) -> None:
        """After a second: many know nothing of 100-continue."""

        def read(connection: socket.socket) -> None:
            head_of(connection)
            read_body(connection, len(PIECE))
            connection.sendall(OK)

        with talking(read) as talk:
            assert put(talk, [PIECE], len(PIECE)).status == 200

    def test_that_is_refused_while_it_is_sent_ends_there(self) -> None:
        def refuse(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.recv(1024)
            connection.sendall(EARLY)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while connection.recv(1 << 20):
                    pass

        with talking(refuse) as talk:
            answer = put(talk, (PIECE for _ in range(4000)), 4000 * len(PIECE))
        assert (answer.status, answer.is_sent_whole) == (403, False)

    def test_that_ends_early_is_a_file_that_changed(self) -> None:
        with talking(Server(2 * len(PIECE))) as talk, pytest.raises(Fault) as fault:
            put(talk, [PIECE], 2 * len(PIECE))
        assert fault.value.kind is FaultKind.CHANGED

    def test_that_is_longer_than_was_said_is_cut_to_that(self) -> None:
        """Whoever gives the pieces counts them; the next request is not made of the rest."""
        server = Server(len(PIECE))
        with talking(server) as talk:
            assert put(talk, [PIECE + b"more"], len(PIECE)).status == 200
        assert server.digest == hashlib.sha256(PIECE).digest()

    def test_passes_on_what_its_pieces_raise(self) -> None:
        """A disk that fails is no trouble of the network; the server sees no whole body."""

        def failing() -> Iterator[bytes]:
            yield PIECE
            raise OSError("the disk")

        with talking(Server(2 * len(PIECE))) as talk, pytest.raises(OSError, match="the disk"):
            put(talk, failing(), 2 * len(PIECE))
        assert [type(each) for each in talk.server.failures] == [ConnectionError]

    def test_that_is_read_slowly_is_not_the_servers_silence(self) -> None:
        def slow() -> Iterator[bytes]:
            for _ in range(6):
                time.sleep(0.3)  # the loop is busy while both come
                yield bytes(10_000)

        with talking(Server(60_000)) as talk:
            answer = put(talk, slow(), 60_000, limits=replace(LIMITS, silence_s=0.6))
        assert answer.status == 200

    def test_that_is_read_slowly_holds_up_nobody_else(self) -> None:
        reading, read = threading.Event(), threading.Event()

        def slow() -> Iterator[bytes]:
            reading.set()
            read.wait(10)
            yield PIECE

        async def ask() -> Answer:
            request = Request("PUT", talk.server.url)
            large = asyncio.create_task(talk.engine.send_streamed(request, slow(), len(PIECE), LIMITS))
            await asyncio.to_thread(reading.wait, 10)
            small = await talk.engine.send(Request("GET", talk.server.url), LIMITS)
            assert not large.done()
            read.set()
            assert (await large).status == 200
            return small

        def small(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(OK)

        with talking(Server(len(PIECE)), small) as talk:
            assert talk.runner.run(ask()).status == 200

    def test_that_is_read_slowly_is_cut_off_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """What is read after that is for nobody, and does no harm to the next request of its handle."""
        reading, read = threading.Event(), threading.Event()

        def slow() -> Iterator[bytes]:
            yield PIECE
            reading.set()
            read.wait(10)
            yield PIECE

        async def cancel() -> Answer:
            request = Request("PUT", talk.server.url)
            task = asyncio.create_task(talk.engine.send_streamed(request, slow(), 2 * len(PIECE), LIMITS))
            await asyncio.to_thread(reading.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not read.is_set()
            read.set()
            return await talk.engine.send_streamed(request, [PIECE], len(PIECE), LIMITS)

        server = Server(len(PIECE))
        with talking(Server(2 * len(PIECE)), server) as talk:
            assert talk.runner.run(cancel()).status == 200
        assert server.digest == hashlib.sha256(PIECE).digest()
        assert caplog.records == []

    def test_whose_next_piece_comes_with_the_end_of_the_connection_is_a_fault(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By then libcurl has let go of it, and nobody has heard of that yet."""
        reading, go_on = threading.Event(), threading.Event()

        def slow() -> Iterator[bytes]:
            yield PIECE
            reading.set()
            go_on.wait(10)
            yield PIECE

        def reset(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            read_body(connection, len(PIECE))
            go_on.wait(10)

        async def send() -> None:
            request = Request("PUT", talk.server.url)
            task = asyncio.create_task(talk.engine.send_streamed(request, slow(), 2 * len(PIECE), LIMITS))
            await asyncio.to_thread(reading.wait, 10)
            while not talk.engine._under_way or not all(
                handle._streamed.is_awaited for handle in talk.engine._under_way.values()
            ):
                await asyncio.sleep(0.01)
            go_on.set()
            time.sleep(0.3)  # the loop is busy while both come
            await task

        with talking(reset) as talk, pytest.raises(Fault, match="ended before"):
            talk.runner.run(send())
        assert caplog.records == []


class TestServer:
    def test_that_refuses_while_the_disk_is_slow_is_heard_at_once(self) -> None:
        read, sent = threading.Event(), []

        def slow() -> Iterator[bytes]:
            yield PIECE
            sent.append(read.wait(10))
            yield PIECE

        def refuse(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            read_body(connection, len(PIECE))
            connection.sendall(EARLY)
            connection.shutdown(socket.SHUT_WR)

        with talking(refuse) as talk:
            answer = put(talk, slow(), 2 * len(PIECE))
            assert (answer.status, answer.is_sent_whole, sent) == (403, False, [])
            read.set()

    def test_is_asked_again_on_the_same_connection(self) -> None:
        server = Server(len(PIECE))

        def both(connection: socket.socket) -> None:
            server(connection)
            server(connection)

        with talking(both) as talk:
            assert [put(talk, [PIECE], len(PIECE)).status for _ in range(2)] == [200, 200]
            assert talk.server.connections == 1

    def test_in_a_private_network_is_refused_before_anything_is_read(self) -> None:
        """As for a body that is held."""
        with talking(Server(len(PIECE))) as talk, pytest.raises(Fault, match="private network") as fault:
            request = Request("PUT", f"http://localhost:{talk.server.port}/", allow_private=False)
            talk.runner.run(talk.engine.send_streamed(request, [PIECE], len(PIECE), LIMITS))
        assert fault.value.kind is FaultKind.SETTINGS

    def test_may_take_its_time_for_the_body_after_it_has_asked_for_it(self) -> None:
        """The answer has a limit of its own, and 100 Continue is none."""

        def read(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            for _ in range(4):
                time.sleep(0.4)
                read_body(connection, len(PIECE) // 4)
            connection.sendall(OK)

        with talking(read) as talk:
            assert put(talk, [PIECE], len(PIECE), replace(LIMITS, answer_s=0.8)).status == 200

    def test_that_is_silent_is_a_time_out(self) -> None:
        def hold(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            talk.server.ended.wait(10)

        with talking(hold) as talk:
            with pytest.raises(Fault, match="silent") as fault:
                put(talk, [PIECE], len(PIECE), replace(LIMITS, silence_s=0.5))
            assert fault.value.kind is FaultKind.NETWORK

    @pytest.mark.parametrize("after", [0, 3_000_000])
    def test_that_resets_the_connection_is_a_fault_of_the_network(self, after: int) -> None:
        def reset(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            with suppress(ConnectionError):
                read_body(connection, after)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with talking(reset) as talk, pytest.raises(Fault) as fault:
            put(talk, (PIECE for _ in range(400)), 400 * len(PIECE))
        assert fault.value.kind is FaultKind.NETWORK

    def test_sees_the_end_of_a_request_that_is_cancelled(self) -> None:
        begun, cut = threading.Event(), threading.Event()

        def read(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.recv(1024)
            begun.set()
            talk.server.ended.wait(0.1)
            with suppress(ConnectionError):
                while connection.recv(1 << 20):
                    pass
            cut.set()

        def endless() -> Iterator[bytes]:
            while True:
                yield PIECE

        async def cancel() -> None:
            request = Request("PUT", talk.server.url)
            task = asyncio.create_task(talk.engine.send_streamed(request, endless(), 5 << 40, LIMITS))
            await asyncio.to_thread(begun.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cut.wait, 5)

        with talking(read) as talk:
            talk.runner.run(cancel())
