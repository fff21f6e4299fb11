"""Where bytes may go: https anywhere, plain http on this machine, storage hosts the operator permits."""

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

_LOOKS_NUMERIC: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?\Z", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine: `localhost` or a literal loopback address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_private(host: str) -> bool:
    """Whether a URL's host is written as an address that no other network can reach.

    Loopback, link-local, private, multicast or unspecified (IANA's special-purpose registries), and whatever
    a resolver may read as an address though it is none (`127.1`, `0x7f000001`). A name is never private: it
    may well resolve to such an address, as that of a VPC endpoint does.
    """
    address = _address(host)
    if address is None:
        return host == "localhost" or bool(_LOOKS_NUMERIC.match(host))
    return not address.is_global or address.is_multicast


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def why_not(
    scheme: str, host: str, *, allow_http: bool, patterns: Sequence[str] = (), allow_private: bool = True
) -> str:
    """Why a URL with this scheme and host must not be used; empty text when it may be.

    `patterns` are shell patterns of permitted hosts (`*.amazonaws.com`); none given permits every host.
    """
    if not allow_private and is_private(host):
        return "leads to an address of a private network, though the API is in none"
    if scheme not in ("http", "https"):
        return "is neither https nor http"
    if scheme == "http" and not (allow_http or is_loopback(host)):
        return "is plain http on another machine (--allow-http permits it)"
    if patterns and not any(fnmatchcase(host.lower(), pattern.lower()) for pattern in patterns):
        return "has a host that no --allow-storage-host permits"
    return ""


def is_within(pattern: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern permits no host that none of these permits, as far as that can be known.

    | pattern                        | is within                                          |
    | ------------------------------ | -------------------------------------------------- |
    | the same as one of them        | that                                               |
    | an address of a private network | no other: its literal text alone permits that      |
    | without `[`                    | one without `?` and `[` that it matches as a text  |
    | with `[`                       | no other                                           |
    """
    one, others = pattern.lower(), [each.lower() for each in patterns]
    if one in others:
        return True
    if "[" in one or is_private(one):
        return False
    return any(fnmatchcase(one, other) for other in others if not {"?", "["} & set(other))
