"""What the value of a setting has to be, where its type and limits don't say it."""

import hashlib
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tasks.core.allowed_hosts import why_not
from tasks.core.escape import escape
from tasks.core.models import ACCEPTABLE
from tasks.core.platform_host import host_and_port
from tasks.core.retry import BUDGETS

if TYPE_CHECKING:
    from pydantic import SecretStr

BUDGETS_IN_WORDS: Final = ", ".join(f"{kind}={count}" for kind, count in BUDGETS.items())
# RFC 9110, 5.1; not one that says who asks, what is asked, or where a message ends.
_HEADER: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+\Z")
_NOT_FOR_KEYS: Final = re.compile(
    r"(authorization|host|cookie|accept|cache-control|connection|keep-alive|expect|te|trailer|upgrade"
    r"|transfer-encoding|(content|proxy|if|accept)-.*)\Z",
    re.IGNORECASE,
)
# For Prefect's form, too, where a browser and Prefect's server read them. Of a ledger as SQLAlchemy reads it:
# no user with a password, and after the `?` no name that says password, or that hides what it says.
WITHOUT_SECRETS: Final = (
    r"^(?![^:]+://[^:/]*:[^@]*@)"
    r"(?![^?]*://[^?]*\?(?:[\s\S]*&)?[^=&]*(?:[Pp][Aa][Ss][Ss][Ww]|[Pp][Ww][Dd]|%)[^=&]*=)"
)
# What httpx, which says what a URL is, leaves as it is written: it is not imported for the usual ones.
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
PLAIN_URL: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_OCTET}(?:\.{_OCTET}){{3}}|(?!xn--)(?:[a-z\d-]+\.)*[a-z][a-z\d-]*)"
    r"(?::(?!(?:80|443)(?:/|\Z))(?P<port>[1-9]\d{0,4}))?(?P<path>(?:/[\w-][\w.-]*)*/?)\Z",
    re.ASCII,
)
WITHOUT_USER_OR_QUERY: Final = r"^(?!(?:[^:/?#]*:)?/*[^/?#]*@)[^?#]*$"  # of an endpoint


def no_secret() -> "SecretStr":
    """An empty one."""
    from pydantic import SecretStr

    return SecretStr("")


def known_kinds(retries: tuple[str, ...]) -> tuple[str, ...]:
    """The same, each of the form KIND=COUNT. Raises ValueError."""
    for each in retries:
        kind, _, count = each.partition("=")
        if kind not in BUDGETS or not count.isdecimal():
            raise ValueError(f"is KIND=COUNT, where KIND is one of {', '.join(BUDGETS)}")
    return retries


def reasons_in_order(text: str) -> str:
    """The same reasons, comma-separated, in one order. Raises ValueError for a word that is none."""
    words = {word.strip() for word in text.split(",")} - {""}
    if not words <= {*ACCEPTABLE}:
        raise ValueError(f"names no others than {', '.join(ACCEPTABLE)}, separated by commas")
    return ",".join(reason for reason in ACCEPTABLE if reason in words)


def as_reasons(text: str) -> frozenset[str]:
    """Those that are named, comma-separated."""
    return frozenset(text.split(",")) - {""}


def digest_of(name: str, secret: str) -> str:
    """What a secret is called; empty for none."""
    return f"{name} {hashlib.sha256(secret.encode()).hexdigest()[:16]}" if secret else ""


def without_upload(url: str) -> str:
    """The address of GET /upload/, which the platform's pages name, means the API that answers there.

    Raises ValueError for a query, of which nothing would reach the API.
    """
    if "?" in url or "#" in url:
        raise ValueError("must not contain a query: credentials have settings of their own")
    if plain := PLAIN_URL.match(url):
        return url[: plain.start("path")] + plain["path"].rstrip("/").removesuffix("/upload").rstrip("/")
    from httpx import URL, InvalidURL

    try:
        parsed = URL(url)
        if not parsed.host:
            return url
        path = parsed.raw_path.rstrip(b"/")
        path = path.removesuffix(b"/upload").rstrip(b"/")  # one of two, where an API has that
        return str(parsed.copy_with(raw_path=path))
    except (InvalidURL, UnicodeError):  # of IDNA
        return url  # `why_no_endpoint` says what is wrong with it


def why_no_endpoint(url: str, *, allow_http: bool) -> str:
    """What keeps a URL from being one that requests go to; empty when nothing does."""
    if plain := PLAIN_URL.match(url):
        return why_not(plain["scheme"], plain["host"], allow_http=allow_http)
    from httpx import URL, InvalidURL

    try:
        parsed = URL(url)
        host = parsed.host
    except (InvalidURL, UnicodeError):
        return "is not a URL"
    if not host:
        return "is not a URL with a host, such as https://api.example.org"
    if parsed.userinfo:
        return "must not contain a user or password"
    return why_not(parsed.scheme, host, allow_http=allow_http)


def host_of(url: str) -> str:
    """host:port of an endpoint, in one spelling (`tasks/core/platform_host.py`)."""
    if plain := PLAIN_URL.match(url):
        return host_and_port(plain["scheme"], plain["host"], int(plain["port"] or 0))
    from httpx import URL

    parsed = URL(url)
    return host_and_port(parsed.scheme, parsed.raw_host.decode("ascii"), parsed.port)


def registry_of(url: str) -> str:
    """host:port/path of a DICOMweb server: what it is known by in ledgers and reports."""
    return f"{host_of(url)}{urlsplit(url).path.rstrip('/')}"


def is_header_for_keys(name: str) -> bool:
    """Whether a header of this name can carry an API key."""
    return bool(_HEADER.match(name)) and not _NOT_FOR_KEYS.match(name)


def has_password(ledger: str) -> bool:
    """Whether a ledger's URL has a password in it, where other users of the machine could see it."""
    return not re.match(WITHOUT_SECRETS, ledger)


def in_words(value: object) -> str:
    """A value as a report has it; empty for one that says nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return escape(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else escape(str(value))
