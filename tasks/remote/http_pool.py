"""HTTP as the client needs it: idle connections reused last-in first-out, bounded answers, faults by kind.

One connection each: httpcore's pool looks at all of its connections at every request, which makes one pool of
twenty slower than twenty of one. A transport is called without httpx.Client around it: less CPU per request,
no cookies, no redirects followed, and no log line with a presigned URL in it.
"""

import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from tasks.core.errors import Fault, FaultKind, UsageError
from tasks.remote.content_coding import decoded
from tasks.remote.proxies import proxy_to
from tasks.remote.wire import LONGEST_ANSWER_S, DirectTransport
from tasks.turn import waiting

MAX_ANSWER_BYTES = 64 * 1024  # more than any presign, token or S3 error answer needs

_LONGEST_RETRY_AFTER_S = 3600.0  # nobody means to be asked again next week


@dataclass(frozen=True, slots=True)
class Timeouts:
    """For connecting and for silence, in seconds; never for a whole transfer."""

    connect_s: float = 10.0
    silence_s: float = 60.0

    def extension(self) -> dict[str, float]:
        """As httpcore takes them."""
        return {
            "connect": self.connect_s,
            "read": self.silence_s,
            "write": self.silence_s,
            "pool": self.connect_s,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read up to a bound."""

    status: int
    headers: httpx.Headers
    body: bytes
    coding: str = ""  # the content coding that the body still has, as nobody here can read it

    def text(self) -> str:
        """The body as text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def retry_after_s(self) -> float:
        """Retry-After (RFC 9110, 10.2.3), which is seconds or a date; 0 when absent or not understood."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value[:6]), _LONGEST_RETRY_AFTER_S)
        now = self.server_time() or time.time()  # the date is by the server's clock
        return min(max(0.0, (_http_date(value) or now) - now), _LONGEST_RETRY_AFTER_S)

    def trouble(self) -> FaultKind | None:
        """What this status means wherever it comes from; None when that depends on what was asked."""
        if self.status in (429, 503):
            return FaultKind.THROTTLED
        if self.status == 408 or 500 <= self.status < 600:
            return FaultKind.SERVER
        return None

    def server_time(self) -> float | None:
        """The Date header as Unix seconds."""
        return _http_date(self.headers.get("date", ""))


class Connections:
    """Transports of one connection each, kept by origin. Thread-safe: each request has one to itself."""

    def __init__(
        self, make_transport: Callable[[httpx.URL], httpx.BaseTransport], timeouts: Timeouts
    ) -> None:
        self._make = make_transport
        self._idle: defaultdict[tuple[str, str, int | None], deque[httpx.BaseTransport]] = defaultdict(deque)
        self._timeout = timeouts.extension()
        self._closed = False

    def send(
        self,
        method: str,
        url: str | httpx.URL,
        headers: Mapping[str, str],
        content: bytes | Iterable[bytes] = b"",
    ) -> Answer:
        """One request on one connection. Raises Fault; redirects are answers like any other."""
        try:
            request = httpx.Request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                content=content,
                extensions={"timeout": self._timeout},
            )
            idle = self._idle[request.url.scheme, request.url.host, request.url.port]
        except (httpx.InvalidURL, UnicodeError):  # of IDNA
            raise Fault(FaultKind.SETTINGS, "the URL can't be used") from None
        try:
            transport = idle.pop()
        except IndexError:
            transport = self._make(request.url)
        try:
            with waiting():
                response = transport.handle_request(request)
                try:
                    body = _read_bounded(response)
                    plain = decoded(body, response.headers.get("content-encoding", ""), MAX_ANSWER_BYTES)
                    return Answer(response.status_code, response.headers, *plain)
                finally:
                    response.close()
        except httpx.HTTPError as error:
            raise _fault_of(error) from None
        finally:
            if self._closed:
                transport.close()
            else:
                idle.append(transport)

    def close(self) -> None:
        """Closes what is idle now; what is in use is closed by its user, at the end of its request."""
        self._closed = True
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


def trust(ca_bundle: Path | None) -> ssl.SSLContext:
    """The system's certificate authorities and those of `ca_bundle`. UsageError when that can't be read."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError):
            raise UsageError(
                "DICOM_INGEST_CA_BUNDLE can't be read as PEM certificates. Give a file of PEM certificates."
            ) from None
    return context


def transport_to(url: httpx.URL, trusted: Callable[[], ssl.SSLContext]) -> httpx.BaseTransport:
    """One connection to this URL's host, through the proxy that the environment names for it.

    `trusted` is asked when there is TLS: to load all authorities takes tens of ms. Raises Fault when there is
    no such proxy.
    """
    proxy = proxy_to(url)
    if proxy is None:
        return DirectTransport(url, trusted() if url.scheme == "https" else None)
    return httpx.HTTPTransport(
        verify=trusted(),
        proxy=proxy,
        limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=15.0),
    )


def _read_bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    until = time.monotonic() + LONGEST_ANSWER_S
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
        if time.monotonic() > until:
            raise Fault(FaultKind.NETWORK, "the answer came too slowly")
    return bytes(body[:MAX_ANSWER_BYTES])


def _fault_of(error: httpx.HTTPError) -> Fault:
    """The library's exception by its type alone: its text may quote a URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Fault(
                FaultKind.SETTINGS,
                "the server's TLS certificate is not trusted (a private CA goes into DICOM_INGEST_CA_BUNDLE)",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.UnsupportedProtocol):
        return Fault(FaultKind.SETTINGS, "the URL can't be used")
    return Fault(FaultKind.NETWORK, type(error).__name__)


def _http_date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError):
        return None
