"""An answer's body without its content coding (RFC 9110, 8.4): gzip and deflate, up to a bound.

Who sends no Accept-Encoding accepts any coding, and some servers and proxies compress whatever is asked for.
"""

import re
import zlib
from typing import Final

_GZIP_MAGIC: Final = b"\x1f\x8b"
_KNOWN: Final = frozenset({"gzip", "x-gzip", "deflate"})
_MOST_CODINGS: Final = 3
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS  # zlib's or gzip's
_NO_HEADER: Final = -zlib.MAX_WBITS


def decoded(body: bytes, codings: str, limit: int) -> tuple[bytes, str]:
    """The body, `limit` bytes of it at most, and the coding that it still has; empty when it has none.

    `codings`: the header Content-Encoding, the last one applied last. A body that is not compressed though
    the header says so is left as it is, as is what nobody can read here; gzip is known without the header.
    """
    names = [name for name in re.split(r"[\s,]+", codings.lower()) if name not in ("", "identity")]
    if not names and body.startswith(_GZIP_MAGIC):
        names = ["gzip"]
    while names and names[-1] in _KNOWN and len(names) <= _MOST_CODINGS:
        names.pop()
        body = _inflated(body, limit)
    return body[:limit], names[-1] if names else ""


def _inflated(body: bytes, limit: int) -> bytes:
    """What can be read of it; the same bytes when that is nothing."""
    for window_bits in (_ANY_HEADER, _NO_HEADER):
        try:
            inflated = zlib.decompressobj(window_bits).decompress(body, limit)
        except zlib.error:
            continue
        if inflated or not body:
            return inflated
    return body
