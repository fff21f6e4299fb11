"""What went wrong with one request, by libcurl's number for it (CURLcode): its text may name a host."""

import re
from typing import Final

from tasks.core.answer_reader import NO_ANSWER, NO_END
from tasks.core.errors import Fault, FaultKind

PRIVATE: Final = "the object store's URL leads to an address of a private network, though the API is in none"

_NO_TRUST: Final = (
    "the server's TLS certificate is not trusted (a private CA goes into DICOM_INGEST_CA_BUNDLE)"
)
_NO_CLIENT: Final = "the server refuses the TLS client certificate (DICOM_INGEST_CLIENT_CERT), or wants one"
_NO_HANDSHAKE: Final = "the TLS handshake failed (does the server want DICOM_INGEST_CLIENT_CERT?)"
ENDED: Final = "the connection ended before the answer did"
# What is not here may pass, as all of the network may.
_KINDS: Final = {
    0: (FaultKind.NETWORK, ENDED),  # within the head
    1: (FaultKind.NETWORK, NO_ANSWER),  # HTTP/0.9; other schemes never come so far
    3: (FaultKind.SETTINGS, "the URL can't be used"),
    5: (FaultKind.NETWORK, "the proxy's name can't be resolved"),
    6: (FaultKind.NETWORK, "the host's name can't be resolved"),
    7: (FaultKind.NETWORK, "the connection can't be made"),
    8: (FaultKind.NETWORK, NO_ANSWER),
    18: (FaultKind.NETWORK, ENDED),
    26: (FaultKind.CHANGED, "the file ended while it was sent"),
    28: (FaultKind.NETWORK, "the connection can't be made in time"),  # of it alone libcurl knows a limit
    35: (FaultKind.NETWORK, _NO_HANDSHAKE),
    52: (FaultKind.NETWORK, ENDED),
    55: (FaultKind.NETWORK, ENDED),
    56: (FaultKind.NETWORK, ENDED),
    58: (FaultKind.SETTINGS, _NO_CLIENT),
    60: (FaultKind.SETTINGS, _NO_TRUST),
    61: (FaultKind.NETWORK, NO_ANSWER),  # coded for the transfer as nobody asked
    77: (FaultKind.SETTINGS, "the certificates of DICOM_INGEST_CA_BUNDLE can't be read"),
    97: (FaultKind.NETWORK, "the proxy does not make the connection"),
    98: (FaultKind.SETTINGS, _NO_CLIENT),
    100: (FaultKind.NETWORK, NO_END),
}
_OPENSSL_ERROR: Final = re.compile(r"\berror:([0-9A-F]{8})\b")
_ALERTS: Final = 1000  # SSL_R_...: an alert of the other side is its number above this one
# RFC 8446, 6.2: bad, unsupported, revoked, expired, unknown; unknown authority; certificate required
_CERTIFICATE_ALERTS: Final = frozenset({42, 43, 44, 45, 46, 48, 116})


def fault_of(number: int, text: str = "", connect_status: int = 0) -> Fault:
    """`text`: OpenSSL's number alone is used of it; `connect_status`: a proxy's answer to CONNECT, or 0."""
    if connect_status and not 200 <= connect_status < 300:
        return Fault(FaultKind.NETWORK, f"the proxy answered {connect_status} to CONNECT")
    found = _OPENSSL_ERROR.search(text)
    if found and (int(found[1], 16) & 0x7FFFFF) - _ALERTS in _CERTIFICATE_ALERTS:
        return Fault(FaultKind.SETTINGS, _NO_CLIENT)
    unknown = (FaultKind.NETWORK, f"the request failed (libcurl's error {number})")
    return Fault(*_KINDS.get(number, unknown))
