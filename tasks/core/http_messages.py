"""One request and its answer, as the HTTP engine takes and gives them: small types, for they are many."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin

from tasks.core.errors import Fault, FaultKind

MAX_ANSWER_BYTES: Final = 64 * 1024  # more than any presign, token or S3 error answer needs

_LONGEST_RETRY_AFTER_S: Final = 3600.0  # nobody means to be asked again next week
# All that libcurl and we read alike: one host, and after it nothing that could be another. To ignore case
# everywhere would take a long URL five times as long.
_PLAIN_URL: Final = re.compile(
    r"((?i:https?))://([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:[/?#][\x21-\x7e]*)?\Z"
)
_HOST: Final = re.compile(r"(https?://)([^/?#:@\\[\]]*)(.*)\Z", re.IGNORECASE)
_HOST_NAME: Final = re.compile(r"[0-9a-z._-]*", re.IGNORECASE)  # empty before an IPv6 address
_IN_NO_URL: Final = re.compile(r"[^\x21-\x7e]")
_OF_THE_ENGINE: Final = frozenset({"content-length", "transfer-encoding", "host", "expect", "connection"})
NAME: Final = r"[0-9A-Za-z!#$%&'*+.^_`|~-]+"  # of a header: RFC 9110, 5.6.2
_HEADER_LINE: Final = re.compile(rf"{NAME}(?:;|: [\t\x20-\x7e]+)")  # 5.5, of ASCII alone; `;`: empty


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server may take, and how much it may say. Never for a whole transfer."""

    connect_s: float = 10.0  # name, TCP, proxy and TLS
    silence_s: float = 60.0  # without a sign of the server
    answer_s: float = 120.0  # from the answer's first line to its last byte: one that drips is not silent
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
    """Sent as it is. Content-Length, Host and Accept-Encoding (identity) are added, nothing else."""

    method: str  # in capital letters
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)  # of POST, PUT and PATCH
    # False: the address that plain http connects to must be in no private network. Not for https, whose
    # certificate vouches for the name, nor through a proxy, which resolves names itself.
    allow_private: bool = True

    def header_lines(self) -> list[str]:
        """Its headers as libcurl takes them. Raises Fault for one that can't be sent."""
        lines = [
            f"{name}: {value}" if value else f"{name};"
            for name, value in self.headers.items()
            if name.lower() not in _OF_THE_ENGINE
        ]
        if not all(map(_HEADER_LINE.fullmatch, lines)):
            raise Fault(FaultKind.SETTINGS, "a header of the request can't be sent")
        if "accept-encoding" not in map(str.lower, self.headers):  # some compress what nobody asked them to
            lines.append("Accept-Encoding: identity")
        return lines


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: names of headers in small letters, the body decoded and read up to a bound."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    coding: str = ""  # the content coding that the body still has, as nobody here can read it
    address: str = ""  # the server's that was connected to; empty through a proxy
    is_sent_whole: bool = True  # False: it came before all of the request's body was sent; never with 2xx
    is_cut: bool = False  # the body was longer than the bound
    received_at: float = 0.0  # Unix seconds by our clock

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
        now = self.server_time() or self.received_at  # the date is by the server's clock
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
    """Spaces and letters that a URL must not have, and international host names, as browsers write them.

    Empty when a host's name is read otherwise by some (RFC 5894, 7.2: what IDNA 2003 made of a sharp s).
    """
    match = _HOST.match(url)
    if match is None or not url.isprintable():
        return ""
    scheme, host, rest = match.groups()
    try:
        name = host.encode("idna").decode()
        is_clear = name.encode().decode("idna") == unicodedata.normalize("NFKC", host.lower())
    except UnicodeError:
        return ""
    if not is_clear or not _HOST_NAME.fullmatch(name):
        return ""
    return f"{scheme}{name}{_IN_NO_URL.sub(_quoted, rest)}"


def _quoted(character: re.Match[str]) -> str:
    return quote(character[0])


@lru_cache(maxsize=8)  # the answers of one second say the same
def _http_date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError):
        return None
