"""One request and its answer, as the engine takes and gives them: small types, for there are many of them."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urljoin

from tasks.core.errors import Fault, FaultKind

MAX_ANSWER_BYTES: Final = 64 * 1024  # more than any presign, token or S3 error answer needs

_LONGEST_RETRY_AFTER_S: Final = 3600.0  # nobody means to be asked again next week
# All that libcurl and we read alike: one host, and after it nothing that could be another.
_PLAIN_URL: Final = re.compile(
    r"(https?)://([0-9a-z._-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?(?:[/?#][\x21-\x7e]*)?\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server may take, and how much it may say. Never for a whole transfer."""

    connect_s: float = 10.0  # name, TCP, proxy and TLS
    silence_s: float = 60.0  # without a sign of the server
    answer_s: float = (
        120.0  # from the first line of the answer to its last byte: one that drips is not silent
    )
    head_bytes: int = 64 * 1024  # head and trailers
    body_bytes: int = MAX_ANSWER_BYTES  # of a longer body no more is read; also when it is decoded


LIMITS: Final = Limits()


class Origin(NamedTuple):
    """Where a request goes: scheme and host in small letters, IPv6 in brackets."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Request:
    """Sent as it is: Content-Length and Host are added, nothing else."""

    method: str  # in capital letters
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)  # of POST, PUT and PATCH
    # False: the address that plain http connects to must be in no private network. Not for https, whose
    # certificate vouches for the name, nor through a proxy, which resolves names itself.
    allow_private: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: names of headers in small letters, the body decoded and read up to a bound."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    coding: str = ""  # the content coding that the body still has, as nobody here can read it
    address: str = ""  # that was connected to: of the proxy, where there is one
    is_sent_whole: bool = True  # False: it came before all of the request's body was sent; never with 2xx
    is_cut: bool = False  # the body was longer than the bound

    def text(self) -> str:
        """The body as text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def redirect(self, url: str) -> str:
        """Where a 307 or 308 to this URL leads; empty when it is no such answer. The host is not checked."""
        location = self.headers.get("location", "") if self.status in (307, 308) else ""
        try:
            return urljoin(url, location) if location else ""
        except ValueError:  # brackets around what is no address
            return ""

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


def plain_url(url: str) -> tuple[str, Origin]:
    """The URL, with what is not ASCII encoded, and where it leads. Raises Fault when that is nowhere."""
    match = _PLAIN_URL.match(url)
    if match is None:
        url = _encoded(url)
        match = _PLAIN_URL.match(url)
    if match is None:
        raise Fault(FaultKind.SETTINGS, "the URL can't be used")
    scheme, host, port = match.groups()
    is_tls = scheme.lower() == "https"
    return url, Origin("https" if is_tls else "http", host.lower(), int(port or (443 if is_tls else 80)))


def _encoded(url: str) -> str:
    """Spaces and letters that a URL must not have, and international host names, as browsers write them."""
    from httpx import URL, InvalidURL

    try:
        return str(URL(url))
    except (InvalidURL, UnicodeError):  # of IDNA
        return ""


@lru_cache(maxsize=8)  # the answers of one second say the same
def _http_date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError):
        return None
