"""One environment for every HTTP client of a process and its children.

urllib, websockets and botocore look for a host in NO_PROXY with rules of their own, and httpx (so Prefect's
client, too) refuses to work at all with some of what other programs accept. So a process completes its
environment once, at its start, for itself and all its children.
"""

import importlib.util
import ipaddress
import json
from collections.abc import Iterator, MutableMapping
from typing import Final

import httpx

from tasks.core.allowed_hosts import is_loopback
from tasks.remote.proxies import REMOVED, removed_proxies

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})  # those that httpx reads


def complete_environment(environ: MutableMapping[str, str], *urls: str) -> None:
    """Makes every HTTP client that reads `environ` ask this machine directly, and changes nothing else.

    NO_PROXY and no_proxy get the loopback addresses, and the hosts of those `urls` that lead to this machine.
    A proxy that httpx can't use is removed, or it would refuse to work: `proxy_for` still knows it. Without
    any proxy nothing is done.
    """
    if not any(_is_set(name, value) for name, value in environ.items()):
        return
    unusable = [name for name in environ if name.lower() in _PROXIES and _is_unusable(environ[name])]
    if removed := {name: environ.pop(name) for name in unusable}:
        environ[REMOVED] = json.dumps(removed_proxies(environ) | removed)
    exceptions = [*_exceptions(environ)]
    if exceptions != ["*"]:  # urllib knows it only when it stands alone
        exceptions += [*_LOOPBACK, *filter(is_loopback, map(_host, urls))]
    environ["NO_PROXY"] = environ["no_proxy"] = ",".join(dict.fromkeys(exceptions))


def _is_set(name: str, value: str) -> bool:
    return bool(value) and name.lower().endswith("_proxy") and name.lower() != "no_proxy"


def _is_unusable(proxy: str) -> bool:
    """What httpx refuses: SOCKS, too, without another package. An empty text is no proxy, and no fault."""
    if not proxy:
        return False
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
    try:
        return httpx.URL(url).host
    except (httpx.InvalidURL, UnicodeError):
        return ""
