"""Which proxy leads to a URL: what HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names; none to this machine."""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from urllib.request import getproxies, proxy_bypass

from tasks.core.allowed_hosts import is_loopback
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Origin

REMOVED: Final = "_DICOM_INGEST_REMOVED_PROXIES"  # variables as JSON, for this process and its children
# As libcurl takes it; without a port it would take 1080 for all.
_PROXY: Final = re.compile(
    r"(?:(https?|socks4a?|socks5h?)://)?((?:[^@/?#\s]*@)?(?:[0-9a-z._-]+|\[[0-9a-f:.]+\]))(?::(\d{1,5}))?/*\Z",
    re.IGNORECASE,
)
_USUAL_PORTS: Final = {"http": 80, "https": 443}


def proxy_for(origin: Origin) -> str:
    """The proxy for this origin as libcurl takes it, SOCKS too; empty: it is asked directly.

    Raises Fault, which names the variable and not what it says, when that is no proxy.
    """
    scheme, host, _port = origin
    if is_loopback(host) or proxy_bypass(host.strip("[]")) or is_excepted(origin, _no_proxy(os.environ)):
        return ""
    name, text = _named_proxy(scheme) or _named_proxy("all") or ("", "")
    if not text:
        return ""
    match = _PROXY.match(text.strip())
    if match is None or int(match[3] or 1) not in range(1, 65536):
        raise Fault(
            FaultKind.SETTINGS,
            f"{name} names no proxy that can be used (http://HOST:PORT and socks5h://HOST:PORT are such)",
        )
    kind = (match[1] or "http").lower()
    return f"{kind}://{match[2]}:{match[3] or _USUAL_PORTS.get(kind, 1080)}"


def _named_proxy(kind: str) -> tuple[str, str] | None:
    """The variable and what it says, also when httpx must not see it. Small letters come first."""
    removed = removed_proxies(os.environ)
    for name in (f"{kind}_proxy", f"{kind}_PROXY".upper()):
        if text := os.environ.get(name) or removed.get(name):
            return name, text
    text = getproxies().get(kind, "")  # in mixed letters, or of the operating system
    return (f"{kind}_PROXY".upper(), text) if text else None


def is_excepted(origin: Origin, entries: str) -> bool:
    """Whether NO_PROXY names a host: itself, what it is under, its address or network; at one port or all.

    | entry                                        | excepts                      |
    | -------------------------------------------- | ---------------------------- |
    | `*`                                          | every host                   |
    | `example.org` `.example.org` `*.example.org` | that name, and all under it  |
    | `192.0.2.7` `2001:db8::1` `[2001:db8::1]`    | that address                 |
    | `192.0.2.0/24` `2001:db8::/32`               | the addresses of that network |
    | one of them with `:8080` after it            | the same, at this port alone |
    """
    return any(_excepts(entry, origin) for entry in re.split(r"[\s,]+", entries.lower()) if entry)


def _excepts(entry: str, origin: Origin) -> bool:
    host = origin.host.strip("[]").rstrip(".")
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        with suppress(ValueError):
            return ipaddress.ip_address(host) in network
        return False
    match = re.fullmatch(r"(.*?)(?::(\d+))?", entry)
    if match and match[2]:
        return int(match[2]) == origin.port and _excepts(match[1], origin)
    name = entry.removeprefix("*").strip(".")
    return entry == "*" or (name != "" and f".{host}".endswith(f".{name}"))


def _no_proxy(environ: Mapping[str, str]) -> str:
    return ",".join(value for name, value in environ.items() if name.lower() == "no_proxy")


def removed_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """What `complete_environment` has removed: variables and what they said."""
    found: dict[str, str] = json.loads(environ.get(REMOVED, "{}"))
    return found
