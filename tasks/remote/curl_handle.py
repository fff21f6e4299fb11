"""One handle of libcurl: what is set on it, and what becomes of a request that it was used for."""

import fcntl
import select
import sys
import termios
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import pycurl

from tasks.core.allowed_hosts import is_private
from tasks.core.answer_reader import AnswerReader, Receiver
from tasks.core.curl_faults import ENDED, PRIVATE, fault_of
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Limits, Request
from tasks.core.server_silence import SilenceWatch
from tasks.remote.streamed import SentBody
from tasks.remote.tls import Option

if TYPE_CHECKING:
    import asyncio

_LONGEST_IDLE_S: Final = 15  # servers close idle connections: after this time a new one is opened instead
_SENT_AT_ONCE_BYTES: Final = 256 * 1024
_SUPPRESS_CONNECT_HEADERS: Final = 265  # pycurl has no name for it
_WRITE_ERROR: Final = 23  # we wanted no more
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

Connection = tuple[str, str, int, int]  # address there and here, port there and here
Sockets = dict[Connection, int]


class Handle:
    """Made for one method and one origin, used for one request after the other."""

    ended: "asyncio.Future[tuple[int, str]]"  # of the request that it is used for: libcurl's error or 0, text

    def __init__(
        self,
        method: str,
        options: Iterable[Option],
        sockets: Sockets,
        checks_address: bool,
        *,
        is_proxied: bool,
    ) -> None:
        """`sockets`: of the connections that have brought an answer, and may bring another."""
        self._sockets = sockets
        self._checks_address = checks_address and not is_proxied
        self._is_proxied = is_proxied
        self._has_body = method in ("POST", "PUT", "PATCH")
        self._streamed: SentBody | None = None
        self.curl = pycurl.Curl()
        for option, value in [*_ALWAYS, *options]:
            self.curl.setopt(option, value)
        if method == "HEAD":
            self.curl.setopt(pycurl.NOBODY, 1)
        elif method != "GET":
            self.curl.setopt(pycurl.CUSTOMREQUEST, method)
        self.curl.setopt(pycurl.PREREQFUNCTION, self._check_connection)

    def begin(
        self,
        request: Request,
        url: str,
        limits: Limits,
        streamed: SentBody | None,
        is_again: bool,
        receiver: Receiver | None = None,
    ) -> None:
        """All that differs from request to request. Raises Fault for a header that can't be sent."""
        curl = self.curl
        expect = "Expect: 100-continue" if streamed and streamed.asks_first else "Expect:"
        curl.setopt(pycurl.HTTPHEADER, [*request.header_lines(), expect, "Accept:"])
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.FRESH_CONNECT, is_again)
        self._reader = AnswerReader(limits, receiver)
        curl.setopt(pycurl.HEADERFUNCTION, self._reader.read_line)
        curl.setopt(pycurl.WRITEFUNCTION, self._reader.read_body)
        self._streamed, self._size_bytes = streamed, len(request.body)
        if streamed:
            self._size_bytes = streamed.size_bytes
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.INFILESIZE_LARGE, streamed.size_bytes)
            curl.setopt(pycurl.READFUNCTION, streamed.read)
            streamed.on_piece = partial(curl.pause, pycurl.PAUSE_CONT)
        elif self._has_body:
            curl.setopt(pycurl.POSTFIELDS, request.body)  # refers to it, copies nothing
        self._silence = SilenceWatch(limits, self._size_bytes, time.monotonic())
        self._is_again = is_again
        self.connection: Connection | None = None  # that it is sent on
        self.is_stale = False  # nothing was sent: the connection had more to say than it was asked
        self.fault: Fault | None = None

    def rest(self) -> None:
        """Lets go of the body: it was sent, or is not wanted any more."""
        if self._streamed:
            self._streamed.on_piece = None
        elif self._has_body:
            self.curl.setopt(pycurl.POSTFIELDS, b"")

    def is_late(self) -> bool:
        """Whether the server is silent, or its answer takes too long. Has to be asked for now and then."""
        now = time.monotonic()
        queued_bytes = _queued_bytes(self.curl.getinfo(pycurl.ACTIVESOCKET))
        if self._streamed and waits_for_us(self._streamed, queued_bytes):
            self._silence.excuse(now)
        sent_bytes = int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T)) - queued_bytes
        complaint = self._silence.complaint(
            now, sent_bytes, self._reader.got_bytes, is_answering=self._reader.is_begun
        )
        if complaint:
            self.fault = Fault(FaultKind.NETWORK, complaint)
        return bool(complaint)

    def answer(self, number: int, text: str) -> Answer:
        """What came, once libcurl is done and says this. Raises Fault when that is no answer."""
        if self._streamed and self._streamed.error:
            raise self._streamed.error
        if self.fault:
            raise self.fault
        is_wrong = self._reader.wrong or self._reader.error
        if not is_wrong and (not self._reader.status or number not in (0, _WRITE_ERROR)):
            raise fault_of(number, text, int(self.curl.getinfo(pycurl.HTTP_CONNECTCODE)))
        is_sent_whole = int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T)) >= self._size_bytes
        address = self.connection[0] if self.connection and not self._is_proxied else ""
        return self._reader.answer(address, time.time(), is_sent_whole=is_sent_whole)

    def _check_connection(self, there: str, here: str, port_there: int, port_here: int) -> int:
        """PREREQFUNCTION: of the connection that the request is about to be sent on, new or idle."""
        if self.connection:  # what follows an uncertain request is not libcurl's business
            self.fault = Fault(FaultKind.NETWORK, ENDED)
        elif self._checks_address and is_private(there):
            self.fault = Fault(FaultKind.SETTINGS, PRIVATE)
        self.connection = (there, here, port_there, port_here)
        if not self.fault and not self._is_again:  # libcurl itself looks once a second
            self.is_stale = _is_readable(self._sockets.get(self.connection, -1))
        is_refused = self.fault or self.is_stale
        return int(pycurl.PREREQFUNC_ABORT if is_refused else pycurl.PREREQFUNC_OK)


def waits_for_us(body: SentBody, queued_bytes: int) -> bool:
    """The disk's time is not the server's, nor what passes at a limited rate once it has taken all."""
    return body.is_awaited or (body.is_held_up and not queued_bytes)


def _queued_bytes(opened: int) -> int:
    """What the kernel has taken and the other side has not: megabytes, of a connection that was fast once."""
    try:
        return int.from_bytes(fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # not Linux; or not connected yet
        return 0


def _is_readable(opened: int) -> bool:
    """Nothing is asked, so whatever there is to read is a close, or rubbish."""
    if opened < 0:
        return False
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))
