"""One handle of libcurl: what is set on it, and what it makes of an answer.

libcurl is lenient where a client that asks for keys and URLs should not be: bare line feeds and a length
beside chunks (RFC 9112, 2.2 and 6.3) are refused here, as is an answer without end.
"""

import fcntl
import re
import select
import socket
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import pycurl

from tasks.core.allowed_hosts import is_private
from tasks.core.curl_faults import ENDED, NO_ANSWER, NO_END, PRIVATE, fault_of
from tasks.core.errors import Fault, FaultKind
from tasks.remote.content_coding import decoded
from tasks.remote.exchange import Answer, Limits, Request
from tasks.remote.tls import Option

_LONGEST_IDLE_S: Final = 15  # servers close idle connections: after this time a new one is opened instead
_PIECE_BYTES: Final = 64 * 1024  # who takes less of a body, as long as he may be silent, is as good as that
_SENT_AT_ONCE_BYTES: Final = 256 * 1024
_SUPPRESS_CONNECT_HEADERS: Final = 265  # pycurl has no name for it
_OF_THE_ENGINE: Final = frozenset({"content-length", "transfer-encoding", "host", "expect", "connection"})
_CONTROL: Final = re.compile(r"[^\t\x20-\x7e]")  # RFC 9110, 5.5; and no bytes that are none
_TOKEN: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, 5.6.2
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: [^\r\n]*)?\r\n\Z")

_ALWAYS: Final[list[Option]] = [
    (pycurl.NOSIGNAL, 1),
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.REDIR_PROTOCOLS, 0),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.NETRC, pycurl.NETRC_IGNORED),
    (pycurl.NOPROXY, ""),
    (pycurl.USERAGENT, ""),
    (pycurl.PATH_AS_IS, 1),
    (pycurl.HTTP09_ALLOWED, 0),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.HTTP_CONTENT_DECODING, 0),
    (pycurl.MAXAGE_CONN, _LONGEST_IDLE_S),
    (pycurl.UPLOAD_BUFFERSIZE, _SENT_AT_ONCE_BYTES),
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
    (pycurl.SSL_VERIFYPEER, 1),
    (pycurl.SSL_VERIFYHOST, 2),
    (_SUPPRESS_CONNECT_HEADERS, 1),
]
_WRITE_ERROR: Final = 23  # we wanted no more

Sockets = dict[tuple[str, int], int]  # by their own address and port


class Handle:
    """Made for one method and one origin, used for one request after the other."""

    def __init__(
        self, method: str, options: Iterable[Option], sockets: Sockets, *, checks_address: bool = False
    ) -> None:
        """`sockets`: of all connections that libcurl may choose from, by their own address."""
        self._sockets = sockets
        self._checks_address = checks_address
        self.curl = curl = pycurl.Curl()
        for option, value in [*_ALWAYS, *options]:
            curl.setopt(option, value)
        self._has_body = method in ("POST", "PUT", "PATCH")
        self._headers_set: Mapping[str, str] | None = None
        if method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif method != "GET":
            curl.setopt(pycurl.CUSTOMREQUEST, method)
        curl.setopt(pycurl.HEADERFUNCTION, self._take_line)
        curl.setopt(pycurl.WRITEFUNCTION, self._take_body)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._note_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._check_connection)

    def begin(self, request: Request, url: str, limits: Limits) -> None:
        """All that differs from request to request. Raises Fault for a header that can't be sent."""
        self._start(request, url, limits, len(request.body))
        if self._has_body:
            self.curl.setopt(pycurl.POSTFIELDS, request.body)  # refers to it, copies nothing

    def begin_streamed(self, request: Request, url: str, limits: Limits, size_bytes: int) -> None:
        """The same with a body that READFUNCTION gives, and that the server may refuse before it comes."""
        self._start(request, url, limits, size_bytes, "Expect: 100-continue")
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)
        self.curl.setopt(pycurl.UPLOAD, 1)
        self.curl.setopt(pycurl.INFILESIZE_LARGE, size_bytes)

    def _start(
        self, request: Request, url: str, limits: Limits, size_bytes: int, expect: str = "Expect:"
    ) -> None:
        self.curl.setopt(pycurl.URL, url)
        if request.headers != self._headers_set:  # most requests of a kind have the same
            self.curl.setopt(pycurl.HTTPHEADER, [*_lines(request), expect, "Accept:"])
            self._headers_set = dict(request.headers)
        self._limits = limits
        self._size_bytes = size_bytes
        self._forget()

    def _forget(self) -> None:
        self._opened: list[int] = []
        self._is_begun = False  # a connection was made or found for it
        self._socket = -1
        self.is_stale = False  # nothing was sent: the connection had more to say than it was asked
        self._status = 0
        self._fields: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._beside_body_bytes = 0
        self.fault: Fault | None = None
        self._is_cut = False
        self._is_awaited = False  # the body, by the server
        self._answered_at = 0.0  # by time.monotonic(), as the next
        self._moved_at = time.monotonic()
        self._got_bytes, self._sent_bytes = 0, 0  # at that moment

    def renew(self) -> None:
        """The same request once more, on a connection of its own."""
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)
        self._forget()

    def rest(self) -> None:
        """Lets go of the body that was sent."""
        self.curl.setopt(pycurl.FRESH_CONNECT, 0)
        if self._has_body:
            self.curl.setopt(pycurl.POSTFIELDS, b"")

    def excuse(self) -> None:
        """The server could not do anything until now."""
        self._moved_at = time.monotonic()

    def lateness(self, sent_bytes: int | None = None) -> Fault | None:
        """That the server is silent, or its answer takes too long. Has to be asked for now and then."""
        now = time.monotonic()
        sent = int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T)) if sent_bytes is None else sent_bytes
        sent -= _queued_bytes(self._socket)
        got = self._beside_body_bytes + len(self._body)
        piece = min(_PIECE_BYTES, self._size_bytes - self._sent_bytes)
        if got > self._got_bytes or sent - self._sent_bytes >= piece > 0:
            self._got_bytes, self._sent_bytes, self._moved_at = got, sent, now
        if now - self._moved_at >= self._limits.silence_s:
            self._refuse("the server was silent for too long")
        elif self._answered_at and now - self._answered_at >= self._limits.answer_s:
            self._refuse("the answer came too slowly")
        return self.fault

    def answer(self, number: int, text: str = "") -> Answer:
        """What came, once libcurl is done and says this. Raises Fault when that is no answer."""
        if self.fault:
            raise self.fault
        sent_bytes = int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T))
        is_sent_whole = sent_bytes >= self._size_bytes
        if not self._status or number not in (0, _WRITE_ERROR):
            raise fault_of(number, text, int(self.curl.getinfo(pycurl.HTTP_CONNECTCODE)))
        if self._status < 300 and not is_sent_whole:
            raise Fault(FaultKind.NETWORK, "the server took a part for the whole", self._status)
        most = self._limits.body_bytes
        body, coding = decoded(bytes(self._body), self._headers.get("content-encoding", ""), most + 1)
        address = str(self.curl.getinfo(pycurl.PRIMARY_IP))
        is_cut = self._is_cut or len(body) > most
        return Answer(self._status, self._headers, body[:most], coding, address, is_sent_whole, is_cut)

    def _take_line(self, line: bytes) -> int | None:
        """One of a head, or a trailer. 0: no more is wanted."""
        self._answered_at = self._answered_at or time.monotonic()
        self._beside_body_bytes += len(line)
        if self._beside_body_bytes > self._limits.head_bytes:
            return self._refuse(NO_END)
        if not line.endswith(b"\r\n"):
            return self._refuse(NO_ANSWER)
        if self._status:  # a trailer
            return None
        if line != b"\r\n":
            self._fields.append(line)
            return None
        return self._take_head()

    def _take_head(self) -> int | None:
        first, *fields = self._fields or [b""]
        self._fields.clear()
        match = _STATUS_LINE.match(first)
        if match is None:
            return self._refuse(NO_ANSWER)
        status = int(match[1])
        if status < 200:  # RFC 9110, 15.2: the answer itself is still to come
            if status == 100 and not self._is_awaited:
                self._is_awaited, self._answered_at = True, 0.0  # the body comes first
            return None
        headers: dict[str, str] = {}
        for field in fields:
            name, colon, value = field.decode("latin-1").partition(":")
            if not colon or not _TOKEN.match(name):
                return self._refuse(NO_ANSWER)
            name, value = name.lower(), value.strip(" \t\r\n")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if {"content-length", "transfer-encoding"} <= headers.keys():
            return self._refuse(NO_ANSWER)
        self._status, self._headers = status, headers
        return None

    def _take_body(self, data: bytes) -> int | None:
        self._body += data
        if len(self._body) <= self._limits.body_bytes:
            return None
        del self._body[self._limits.body_bytes :]
        self._is_cut = True
        return 0

    def _note_socket(self, opened: int, _purpose: int) -> int:
        self._opened.append(opened)
        return int(pycurl.SOCKOPT_OK)

    def _check_connection(self, remote: str, local: str, _remote_port: int, local_port: int) -> int:
        """Of the connection that the request is about to be sent on, a new one or an idle one."""
        if self._is_begun:  # what follows an uncertain request is not libcurl's business
            self.fault = Fault(FaultKind.NETWORK, ENDED)
        elif self._checks_address and is_private(remote):
            self.fault = Fault(FaultKind.SETTINGS, PRIVATE)
        elif self._opened:
            self._socket = self._sockets[local, local_port] = _bound_to(local_port, self._opened)
        else:  # libcurl itself looks once a second
            self._socket = self._sockets.get((local, local_port), -1)
            self.is_stale = self._socket < 0 or _is_readable(self._socket)
        self._is_begun = True
        is_refused = self.fault is not None or self.is_stale
        return int(pycurl.PREREQFUNC_ABORT if is_refused else pycurl.PREREQFUNC_OK)

    def _refuse(self, what: str) -> int:
        self.fault = Fault(FaultKind.NETWORK, what)
        return 0


def _bound_to(port: int, opened: list[int]) -> int:
    """The connection that was made, of several that were tried."""
    for each in opened[:-1]:
        with suppress(OSError), socket.fromfd(each, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
            if duplicate.getsockname()[1] == port:
                return each
    return opened[-1]


def _queued_bytes(opened: int) -> int:
    """What the kernel has taken and the other side has not: megabytes, of a connection that was fast once."""
    try:
        return int.from_bytes(fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # not Linux; or not connected yet
        return 0


def _is_readable(opened: int) -> bool:
    """Nothing is asked, so whatever there is to read is a close, or rubbish."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))


def _lines(request: Request) -> Iterator[str]:
    if not any(name.lower() == "accept-encoding" for name in request.headers):
        yield "Accept-Encoding: identity"
    for name, value in request.headers.items():
        if name.lower() in _OF_THE_ENGINE:
            continue
        if not _TOKEN.match(name) or _CONTROL.search(value):
            raise Fault(FaultKind.SETTINGS, "a header of the request can't be sent")
        yield f"{name}: {value}" if value else f"{name};"
