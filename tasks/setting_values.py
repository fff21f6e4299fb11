"""What the value of a setting has to be, where its type and limits don't say it."""

import re
from typing import Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

from tasks.core.allowed_hosts import why_not
from tasks.core.platform_host import host_and_port
from tasks.core.retry import BUDGETS

# RFC 9110, 5.1; not one that says who asks, what is asked, or where a message ends.
_HEADER: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+\Z")
_NOT_FOR_KEYS: Final = re.compile(
    r"(authorization|host|cookie|accept|cache-control|connection|keep-alive|expect|te|trailer|upgrade"
    r"|transfer-encoding|(content|proxy|if|accept)-.*)\Z",
    re.IGNORECASE,
)


def known_kinds(retries: tuple[str, ...]) -> tuple[str, ...]:
    """The same, each of the form KIND=COUNT. Raises ValueError."""
    for each in retries:
        kind, _, count = each.partition("=")
        if kind not in BUDGETS or not count.isdecimal():
            raise ValueError(f"is KIND=COUNT, where KIND is one of {', '.join(BUDGETS)}")
    return retries


def without_upload(url: str) -> str:
    """The address of GET /upload/, which the platform's pages name, means the API that answers there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # `why_no_endpoint` says what is wrong with it
    path = parts.path.rstrip("/").removesuffix("/upload").rstrip("/")  # one of two, where an API has that
    return urlunsplit(parts._replace(path=path))


def why_no_endpoint(url: str, *, allow_http: bool) -> str:
    """What keeps a URL from being one that requests go to; empty when nothing does."""
    from httpx import URL, InvalidURL

    try:
        parsed = URL(url)
    except InvalidURL:
        return "is not a URL"
    if not parsed.host:
        return "is not a URL with a host, such as https://api.example.org"
    if parsed.userinfo:
        return "must not contain a user or password"
    return why_not(parsed.scheme, parsed.host, allow_http=allow_http)


def host_of(url: str) -> str:
    """host:port of an endpoint, in one spelling (`tasks/core/platform_host.py`)."""
    from httpx import URL

    parsed = URL(url)
    return host_and_port(parsed.scheme, parsed.raw_host.decode("ascii"), parsed.port)


def is_header_for_keys(name: str) -> bool:
    """Whether a header of this name can carry an API key."""
    return bool(_HEADER.match(name)) and not _NOT_FOR_KEYS.match(name)


def has_password(ledger: str) -> bool:
    """Whether a ledger's URL has a password in it, where other users of the machine could see it."""
    if "://" not in ledger:
        return False
    url = urlsplit(ledger)
    return url.password is not None or "password" in parse_qs(url.query, keep_blank_values=True)
