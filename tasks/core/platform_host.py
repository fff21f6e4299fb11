"""What a platform and its store are known by: a host with its port, in one spelling."""

import ipaddress
from typing import Final

_PORTS: Final = {"http": 80, "https": 443}


def host_and_port(scheme: str, host: str, port: int | None) -> str:
    """`host:port` of a URL: `api.example.org:443`, `127.0.0.1:8000`, `[::1]:443`.

    `host` as a URL has it, names in ASCII (IDNA's, RFC 5891). One host is one text however it is written: in
    capitals, with the root's dot at its end, as an IPv6 address with zeros (RFC 5952) or one that maps an
    IPv4 address; and so is a port that the scheme implies.
    """
    name = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        address = getattr(address, "ipv4_mapped", None) or address
        name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{port or _PORTS.get(scheme, 0)}"
