"""Deflated data sets (DICOM PS3.5 A.5): inflated in pieces, the head kept, the end looked at."""

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final

from tasks.core.models import Flaw

DEFLATED_SYNTAXES: Final = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}  # the last two: JPIP
)
_MOST_KEPT_BYTES: Final = 8 << 20
_MOST_INFLATED_BYTES: Final = 1 << 30
_CHUNK_BYTES: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b\x08"


@dataclass(frozen=True, slots=True)
class Inflated:
    """A data set: as much of it as is kept, how long it is, and what is wrong with its stream."""

    head: bytes
    size_bytes: int
    flaw: Flaw


def inflate(file: BinaryIO, start: int, most_bytes: int = _MOST_INFLATED_BYTES) -> Inflated:
    """Inflate the rest of `file`, keep the head, count the rest; a bomb is damaged.

    RFC 1951, as the standard wants it, or in the wrapping of RFC 1950 or 1952, as some encoders write it.
    """
    file.seek(start)
    inflater = zlib.decompressobj(_window_bits(file.read(5)))
    head, size_bytes = BytesIO(), 0
    file.seek(start)
    try:
        while not inflater.eof and size_bytes <= most_bytes:
            deflated = inflater.unconsumed_tail or file.read(_CHUNK_BYTES)
            block = inflater.decompress(deflated, _CHUNK_BYTES)
            if not block and not deflated:
                return Inflated(head.getvalue(), size_bytes, Flaw.IN_DEFLATED_DATA)
            if size_bytes < _MOST_KEPT_BYTES:
                head.write(block)
            size_bytes += len(block)
    except zlib.error:
        return Inflated(head.getvalue(), size_bytes, Flaw.DAMAGED_DEFLATED_DATA)
    flaw = Flaw.NONE if inflater.eof else Flaw.DAMAGED_DEFLATED_DATA
    return Inflated(head.getvalue(), size_bytes, flaw)


def _window_bits(head: bytes) -> int:
    """Which wrapping zlib has to expect. Bare, such a header is a stored block, known by its length."""
    if head.startswith(_GZIP):
        return zlib.MAX_WBITS | 16
    is_zlib = len(head) == 5 and head[0] & 0x8F == 8 and not (head[0] << 8 | head[1]) % 31
    is_stored = head[1:3] == bytes(byte ^ 0xFF for byte in head[3:5])
    return zlib.MAX_WBITS if is_zlib and not is_stored else -zlib.MAX_WBITS
