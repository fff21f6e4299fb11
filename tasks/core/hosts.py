"""Where bytes may go: https anywhere, plain http on this machine, storage hosts the operator permits."""

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine: `localhost` or a literal loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def why_not(scheme: str, host: str, *, allow_http: bool, patterns: Sequence[str] = ()) -> str:
    """Why a URL with this scheme and host must not be used; empty text when it may be.

    `patterns` are shell patterns of permitted hosts (`*.amazonaws.com`); none given permits every host.
    """
    if scheme not in ("http", "https"):
        return "is neither https nor http"
    if scheme == "http" and not (allow_http or is_loopback(host)):
        return "is plain http on another machine (--allow-http permits it)"
    if patterns and not any(fnmatchcase(host.lower(), pattern.lower()) for pattern in patterns):
        return "has a host that no --allow-storage-host permits"
    return ""
