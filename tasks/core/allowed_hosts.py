"""Where bytes may go: https anywhere, plain http on this machine, storage hosts the operator permits."""

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

# A resolver of the old kind reads these as addresses; one that is percent-encoded, whoever decodes it may.
_LOOKS_NUMERIC: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\Z|.*%", re.IGNORECASE)
# RFC 6761, 6.3, and what /etc/hosts has.
_NAMES_THIS_MACHINE: Final = re.compile(
    r"((.*\.)?localhost|localhost[46]?\.localdomain[46]?|localhost[46]|ip6-(localhost|loopback))\Z",
    re.IGNORECASE,
)
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # RFC 4291, 2.4: all that IANA gives out
# What ends with an IPv4 address: NAT64 (RFC 6052), IPv4-compatible (RFC 4291, 2.5.5), translated (RFC 2765).
_ENDING_IN_IPV4: Final = [
    ipaddress.IPv6Network(each) for each in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")
]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine: `localhost` or a literal loopback address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_private(host: str) -> bool:
    """Whether a URL's host is written as an address that no other network can reach.

    Loopback, link-local, site-local, private, multicast or unspecified (IANA's special-purpose registries),
    also where an IPv6 address embeds one that a gateway makes of it, and whatever a resolver may read as an
    address though it is none (`127.1`, `0x7f000001`). A name is never private but for this machine's own: it
    may well resolve to such an address, as that of a VPC endpoint does.
    """
    plain = host.rstrip(".")
    address = _address(plain)
    if address is None:
        return bool(_NAMES_THIS_MACHINE.match(plain) or _LOOKS_NUMERIC.match(plain))
    address = _embedded(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return True
    return not address.is_global or address.is_multicast


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _embedded(address: _Address) -> _Address:
    """The IPv4 address that packets to this one come to in the end; else the same."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address.sixtofour:
        return address.sixtofour
    if any(address in network for network in _ENDING_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def why_not(
    scheme: str, host: str, *, allow_http: bool, patterns: Sequence[str] = (), allow_private: bool = True
) -> str:
    """Why a URL with this scheme and host must not be used; empty text when it may be.

    `patterns` are shell patterns of permitted hosts (`*.amazonaws.com`); none given permits every host. One
    that names a host as it is permits it in a private network, too.
    """
    if not allow_private and is_private(host) and not is_named(host, patterns):
        return "leads to an address of a private network, though the API is in none"
    if scheme not in ("http", "https"):
        return "is neither https nor http"
    if scheme == "http" and not (allow_http or is_loopback(host)):
        return "is plain http on another machine (--allow-http permits it)"
    is_like_one = any(fnmatchcase(host.lower(), each.lower()) for each in patterns)
    if not patterns or is_like_one or is_named(host, patterns):
        return ""
    return "has a host that no --allow-storage-host permits"


def is_named(host: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is this very host."""
    return any(_is_same(host, pattern) for pattern in patterns)


def _is_same(host: str, other: str) -> bool:
    """By its text, or as an address."""
    one, two = (each.lower().strip("[]") for each in (host, other))
    return one == two or (_address(one) is not None and _address(one) == _address(two))


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
