"""An httpx transport of one connection: a socket, and llhttp (by httptools) for what comes back.

A request costs half the CPU that it costs through httpcore and h11, and nearly all of that is spent under
the interpreter lock: it decides on a fast network. Answers are parsed by llhttp, TLS is done by ssl. What
is written here is when a connection is used again, and how long the far side may be silent.

llhttp is strict where http.client is not: an answer with bare line feeds, folded fields, or both a length and
chunks is no answer (RFC 9112, 2.2, 5.2 and 6.3).
"""

import re
import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Final

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

_LONGEST_IDLE_S: Final = 15.0  # servers close idle connections: after this time a new one is opened instead
_SENT_AT_ONCE_BYTES: Final = 256 * 1024  # the time-out is one for each piece, not for a whole body
_SENT_WITH_HEAD_BYTES: Final = 64 * 1024  # so small a body is copied rather than sent by itself
_READ_AT_ONCE_BYTES: Final = 64 * 1024
_MOST_BESIDE_BODY_BYTES: Final = 64 * 1024  # head, trailers, chunk extensions
LONGEST_ANSWER_S: Final = 120.0  # from its first byte to its last: one that drips is never silent
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, 5.5: in no header


class DirectTransport(httpx.BaseTransport):
    """One connection to one origin, for one request at a time. Opens it when it is needed.

    Raises httpx's exceptions, as its own transport does, and what the request's body raises.
    """

    def __init__(self, url: httpx.URL, context: ssl.SSLContext | None) -> None:
        """`context` is for https."""
        is_tls = url.scheme == "https"
        self._origin = _origin(url)
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or (443 if is_tls else 80)
        self._context = context if is_tls else None
        self._socket: socket.socket | None = None
        self._idle_since = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends it and reads the head of the answer, whose body has to be read or closed before the next."""
        if _origin(request.url) != self._origin or request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol("neither http nor https, or not to where this connection goes")
        timeouts = request.extensions["timeout"]
        head = _head(request)
        try:
            connection = self._connected(timeouts["connect"])
            _limit_silence(connection, timeouts["write"])
            broken = _send(connection, head, request.stream)  # type: ignore[arg-type]
            _limit_silence(connection, timeouts["read"])
            answer = _Answer(connection, is_to_head=request.method == "HEAD")
            answer.read_head(broken)
        except BaseException:  # whatever it was: nobody knows what is on the wire now
            self.close()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(self, answer))

    def release(self, answer: "_Answer") -> None:
        """The answer is done with: the connection may be used again when all of it was read."""
        if not answer.leaves_connection_open:
            self.close()
        self._idle_since = time.monotonic()

    def close(self) -> None:
        """Closes the connection; the next request would open another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._socket is not None:
            idle_s = time.monotonic() - self._idle_since
            if idle_s < _LONGEST_IDLE_S and not _is_readable(self._socket):
                return self._socket
            self.close()
        try:
            self._socket = self._connect(timeout_s)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("") from error
        except (OSError, ValueError) as error:  # ValueError: a host name that can't be one
            raise httpx.ConnectError("") from error
        return self._socket

    def _connect(self, timeout_s: float) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), timeout_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._context.wrap_socket(plain, server_hostname=self._host) if self._context else plain
        except BaseException:
            plain.close()
            raise


class _Answer:
    """One answer as it comes. The methods called `on_` are for the parser, which knows what its bytes are."""

    def __init__(self, connection: socket.socket, *, is_to_head: bool) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._connection = connection
        self._is_to_head = is_to_head
        self._parser = HttpResponseParser(self)
        self._until: float | None = None  # when it has to be over, by time.monotonic()
        self._beside_body_bytes = 0
        self._body: list[bytes] = []  # what has come of it and was not asked for yet
        self._ended = False
        self._keeps_alive = False
        self._until_close = False  # the body has no length: it ends with the connection

    @property
    def leaves_connection_open(self) -> bool:
        """Whether all of it was read, and another request may follow."""
        return self._ended and self._keeps_alive

    def read_head(self, broken: OSError | None) -> None:
        """`broken`: what went wrong while the request was sent; the far side may have said why before."""
        while not self.status:
            try:
                self._read()
            except httpx.ReadError as error:
                if broken:
                    raise httpx.WriteError("") from broken
                raise error from error.__cause__
        self._keeps_alive = self._keeps_alive and not broken

    def body(self) -> Iterator[bytes]:
        """Piece by piece."""
        while True:
            yield from self._body
            self._body.clear()
            if self._ended:
                return
            self._read()

    def _read(self) -> None:
        """Takes what has come."""
        try:
            data = self._connection.recv(_READ_AT_ONCE_BYTES)
        except TimeoutError as error:
            raise httpx.ReadTimeout("") from error
        except OSError as error:
            raise httpx.ReadError("") from error
        if data:
            self._parse(data)
            self._look_at_limits(len(data))
        elif self.status and self._until_close:
            self._ended = True
        else:
            raise httpx.RemoteProtocolError("the answer ended too early")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._ended:
                raise httpx.RemoteProtocolError("") from error
            self._keeps_alive = False  # the answer is whole; what follows it is none

    def _look_at_limits(self, read_bytes: int) -> None:
        now = time.monotonic()
        self._until = self._until or now + LONGEST_ANSWER_S
        if not self._body:
            self._beside_body_bytes += read_bytes
        if not self._ended and (now > self._until or self._beside_body_bytes > _MOST_BESIDE_BODY_BYTES):
            raise httpx.RemoteProtocolError("the answer has no end")

    def on_message_begin(self) -> None:
        """Of this answer, whose head will say whether it does; or of one that nobody asked for."""
        self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # a trailer is none
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.status:  # of a second answer
            return
        status = self._parser.get_status_code()
        if status < 100:
            raise ValueError("no status")
        if status < 200:  # RFC 9110, 15.2: the answer itself is still to come
            self.headers.clear()
            return
        self.status = status
        fields = {name.lower(): value.lower() for name, value in self.headers}
        is_chunked = fields.get(b"transfer-encoding", b"").endswith(b"chunked")
        self._until_close = b"content-length" not in fields and not is_chunked
        self._keeps_alive = self._parser.should_keep_alive()
        self._ended = self._is_to_head

    def on_body(self, data: bytes) -> None:
        if self.status and not self._ended:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._ended = self.status != 0


class _Body(httpx.SyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, transport: DirectTransport, answer: _Answer) -> None:
        self._transport = transport
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.body()

    def close(self) -> None:
        self._transport.release(self._answer)


def _origin(url: httpx.URL) -> tuple[bytes, bytes, int | None]:
    return url.raw_scheme, url.raw_host, url.port


def _head(request: httpx.Request) -> bytes:
    if "Transfer-Encoding" in request.headers:
        raise httpx.LocalProtocolError("a body without a length")
    fields = [b"%s: %s" % field for field in request.headers.raw]
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path), *fields]
    if any(map(_CONTROL.search, lines)):
        raise httpx.LocalProtocolError("a header with a control character")
    return b"\r\n".join([*lines, b"", b""])


def _send(connection: socket.socket, head: bytes, body: Iterable[bytes]) -> OSError | None:
    """Sends the request. What broke on the way is returned: the far side may have said why before.

    What the body raises is the file's trouble, not the connection's: it passes.
    """
    for piece in _pieces(head, body):
        try:
            connection.sendall(piece)
        except TimeoutError as error:
            if _is_readable(connection):
                return error
            raise httpx.WriteTimeout("") from error
        except OSError as error:
            return error
    return None


def _pieces(head: bytes, body: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """What is sent at once: a small body together with the head; of a large one nothing is copied."""
    for chunk in body:
        if head and len(chunk) <= _SENT_WITH_HEAD_BYTES:
            yield head + chunk
        else:
            if head:
                yield head
            view = memoryview(chunk)
            for start in range(0, len(view), _SENT_AT_ONCE_BYTES):
                yield view[start : start + _SENT_AT_ONCE_BYTES]
        head = b""
    if head:
        yield head


def _limit_silence(connection: socket.socket, timeout_s: float) -> None:
    """To set what is set already would be a system call."""
    if connection.gettimeout() != timeout_s:
        connection.settimeout(timeout_s)


def _is_readable(connection: socket.socket) -> bool:
    """Nothing is asked, so whatever there is to read is a close, or rubbish."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
