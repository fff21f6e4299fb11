"""Which proxy leads to a URL: the one that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names; none to this machine.

urllib, websockets and botocore look for a host in NO_PROXY with rules of their own, and httpx (so Prefect's
client, too) refuses to work at all with some of what other programs accept. So a process completes its
environment once, at its start, for itself and all its children.
"""

import importlib.util
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies, proxy_bypass

from tasks.core.allowed_hosts import is_loopback
from tasks.core.errors import Fault, FaultKind
from tasks.remote.exchange import Origin

if TYPE_CHECKING:
    import httpx

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})  # those that httpx reads
_REMOVED: Final = "_DICOM_INGEST_REMOVED_PROXIES"  # variables as JSON, for this process and its children
# As libcurl takes it; without a port it would take 1080 for all.
_PROXY: Final = re.compile(
    r"(?:(https?|socks4a?|socks5h?)://)?((?:[^@/?#\s]*@)?(?:[0-9a-z._-]+|\[[0-9a-f:.]+\]))(?::(\d{1,5}))?/*\Z",
    re.IGNORECASE,
)
_USUAL_PORTS: Final = {"http": 80, "https": 443}


def complete_environment(environ: MutableMapping[str, str], *urls: str) -> None:
    """Makes every HTTP client that reads `environ` ask this machine directly, and changes nothing else.

    NO_PROXY and no_proxy get the loopback addresses, and the hosts of those `urls` that lead to this machine.
    A proxy that httpx can't use is removed, or it would refuse to work: here it is still known. Without any
    proxy nothing is done.
    """
    if not any(_is_set(name, value) for name, value in environ.items()):
        return
    unusable = [name for name in environ if name.lower() in _PROXIES and _is_unusable(environ[name])]
    if removed := {name: environ.pop(name) for name in unusable}:
        environ[_REMOVED] = json.dumps(_removed(environ) | removed)
    exceptions = [*_exceptions(environ)]
    if exceptions != ["*"]:  # urllib knows it only when it stands alone
        exceptions += [*_LOOPBACK, *filter(is_loopback, map(_host, urls))]
    environ["NO_PROXY"] = environ["no_proxy"] = ",".join(dict.fromkeys(exceptions))


def proxy_to(url: "httpx.URL") -> str | None:
    """The proxy for this URL; None: it is asked directly. Fault when the one that is named can't be used."""
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies, removed = getproxies(), _removed(os.environ)
    for kind in (url.scheme, "all"):
        names = [name for name in removed if name.lower() == f"{kind}_proxy"]
        proxy = proxies.get(kind)
        if proxy and not _is_unusable(proxy):
            return _with_scheme(proxy)
        if proxy or names:
            name = names[0] if names else f"{kind.upper()}_PROXY"
            raise Fault(
                FaultKind.SETTINGS, f"{name} names no proxy that can be used (http://HOST:PORT is one)"
            )
    return None


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
    removed = _removed(os.environ)
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


def _removed(environ: Mapping[str, str]) -> dict[str, str]:
    """What `complete_environment` has removed: variables and what they said."""
    found: dict[str, str] = json.loads(environ.get(_REMOVED, "{}"))
    return found


def _is_set(name: str, value: str) -> bool:
    return bool(value) and name.lower().endswith("_proxy") and name.lower() != "no_proxy"


def _is_unusable(proxy: str) -> bool:
    """What httpx refuses: SOCKS, too, without another package. An empty text is no proxy, and no fault."""
    if not proxy:
        return False
    import httpx  # slow to import, and only needed where there is a proxy

    try:
        url = httpx.Proxy(_with_scheme(proxy)).url
    except (ValueError, httpx.InvalidURL):
        return True
    is_http = url.scheme in ("http", "https")
    return not url.host or not (is_http or importlib.util.find_spec("socksio"))


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _exceptions(environ: MutableMapping[str, str]) -> Iterator[str]:
    """What both spellings of NO_PROXY name already, as far as httpx can read it."""
    values = [value for name, value in environ.items() if name.lower() == "no_proxy"]
    for entry in (entry.strip() for value in values for entry in value.split(",")):
        plain = entry[1 : entry.index("]")] if entry.startswith("[") and "]" in entry else entry
        if plain and _is_readable(plain):
            yield plain


def _is_readable(entry: str) -> bool:
    import httpx

    try:
        httpx.URL(entry if "://" in entry else f"all://{_bracketed(entry)}")
    except (httpx.InvalidURL, UnicodeError):
        return False
    return True


def _bracketed(entry: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(entry)}]"
    except ValueError:
        return f"*{entry}"


def _host(url: str) -> str:
    import httpx

    try:
        return httpx.URL(url).host
    except (httpx.InvalidURL, UnicodeError):
        return ""
