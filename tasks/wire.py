"""An httpx transport of one connection, on the standard library's HTTP/1.1 client.

A request costs half the CPU that it costs through httpcore and h11, and nearly all of it is spent under the
interpreter lock: that decides on a fast network. Messages are written and parsed by http.client, TLS is done
by ssl. What is written here is when a connection is used again, and how long the far side may be silent.
"""

import http.client
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import httpx

_LONGEST_IDLE_S: Final = 15.0  # servers close idle connections: after this time a new one is opened instead
_CHECKED_AFTER_S: Final = 0.5  # a connection that was idle so long may have been closed by the server
_SENT_AT_ONCE_BYTES: Final = 256 * 1024  # the time-out is one for each piece, not for a whole body
_READ_AT_ONCE_BYTES: Final = 64 * 1024

_T = TypeVar("_T")


class DirectTransport(httpx.BaseTransport):
    """One connection to one origin, for one request at a time. Opens it when it is needed.

    Raises httpx's exceptions, as its own transport does, and what the request's body raises.
    """

    def __init__(self, url: httpx.URL, context: ssl.SSLContext | None) -> None:
        """`context` is for https."""
        self._connection = (
            http.client.HTTPSConnection(url.host, url.port, context=context)
            if url.scheme == "https"
            else http.client.HTTPConnection(url.host, url.port)
        )
        self._idle_since = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends it and reads the head of the answer, whose body has to be read or closed before the next."""
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol("neither http nor https")
        timeouts = request.extensions["timeout"]
        connection = self._connection
        try:
            self._connect(timeouts["connect"])
            self._limit_silence(timeouts["write"])
            may_answer = self._send(request)
            self._limit_silence(timeouts["read"])
            answer = self._head_of_answer(may_answer)
        except BaseException:  # whatever it was: nobody knows what is on the wire now
            connection.close()
            raise
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=_Body(self, answer))

    def release(self, answer: http.client.HTTPResponse) -> None:
        """The answer is done with: the connection may be used again when all of it was read."""
        if not (answer.isclosed() or answer.length == 0):
            self._connection.close()
        answer.close()
        self._idle_since = time.monotonic()

    def close(self) -> None:
        """Closes the connection; the next request would open another."""
        self._connection.close()

    def _connect(self, timeout_s: float) -> None:
        connection = self._connection
        if connection.sock is not None:
            idle_s = time.monotonic() - self._idle_since
            if idle_s < _CHECKED_AFTER_S or (idle_s < _LONGEST_IDLE_S and not _is_readable(connection.sock)):
                return
            connection.close()
        connection.timeout = timeout_s
        try:
            connection.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("") from error
        except (OSError, ValueError) as error:  # ValueError: a host name that can't be one
            raise httpx.ConnectError("") from error

    def _limit_silence(self, timeout_s: float) -> None:
        """To set what is set already would be a system call."""
        if self._connection.sock.gettimeout() != timeout_s:
            self._connection.sock.settimeout(timeout_s)

    def _send(self, request: httpx.Request) -> Exception | None:
        """Sends the request. What broke on the way is returned: the far side may have said why before."""
        broken = self._write(self._send_head, request)
        # What the body raises is the file's trouble, not the connection's: it passes.
        for piece in _pieces(request.stream):  # type: ignore[arg-type]
            if broken := broken or self._write(self._connection.sock.sendall, piece):
                break
        return broken

    def _send_head(self, request: httpx.Request) -> None:
        connection = self._connection
        connection.putrequest(
            request.method,
            request.url.raw_path.decode("ascii"),
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in request.headers.raw:
            connection.putheader(name, value)
        connection.endheaders()

    def _write(self, write: Callable[[_T], object], what: _T) -> Exception | None:
        try:
            write(what)
        except TimeoutError as error:
            raise httpx.WriteTimeout("") from error
        except ConnectionError as error:
            return error
        except OSError as error:
            raise httpx.WriteError("") from error
        except (http.client.HTTPException, ValueError) as error:
            raise httpx.LocalProtocolError("") from error
        return None

    def _head_of_answer(self, broken: Exception | None) -> http.client.HTTPResponse:
        try:
            answer = self._connection.getresponse()
        except TimeoutError as error:
            raise httpx.ReadTimeout("") from error
        except http.client.RemoteDisconnected as error:
            raise httpx.RemoteProtocolError("") from error
        except OSError as error:
            raise (httpx.WriteError("") if broken else httpx.ReadError("")) from error
        except (http.client.HTTPException, ValueError) as error:
            raise httpx.RemoteProtocolError("") from error
        if broken:
            answer.will_close = True
        return answer


class _Body(httpx.SyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, transport: DirectTransport, answer: http.client.HTTPResponse) -> None:
        self._transport = transport
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        try:
            while chunk := self._answer.read1(_READ_AT_ONCE_BYTES):
                yield chunk
            if self._answer.length:
                raise httpx.RemoteProtocolError("the answer ended too early")
        except TimeoutError as error:
            raise httpx.ReadTimeout("") from error
        except OSError as error:
            raise httpx.ReadError("") from error
        except (http.client.HTTPException, ValueError) as error:
            raise httpx.RemoteProtocolError("") from error

    def close(self) -> None:
        self._transport.release(self._answer)


def _pieces(stream: Iterable[bytes]) -> Iterator[memoryview]:
    """The body in pieces that are sent at once, none of them copied."""
    for chunk in stream:
        view = memoryview(chunk)
        for start in range(0, len(view), _SENT_AT_ONCE_BYTES):
            yield view[start : start + _SENT_AT_ONCE_BYTES]


def _is_readable(sock: socket.socket) -> bool:
    """Nothing is asked, so whatever there is to read is a close, or rubbish."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
