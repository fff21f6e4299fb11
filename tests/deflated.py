"""A file that takes seconds to look at: small, and very large once it is inflated."""

import zlib
from struct import pack


def deflated_zeros(size_bytes: int) -> bytes:
    """An instance with a deflated data set of so many bytes, in a thousandth of them."""
    meta = pack("<HH2sH", 2, 0x10, b"UI", 22) + b"1.2.840.10008.1.2.1.99"
    uids = pack("<HH2sH", 8, 0x18, b"UI", 4) + b"1.7\0" + pack("<HH2sH", 0x20, 0xD, b"UI", 4) + b"1.8\0"
    pixels = pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, size_bytes)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = deflater.compress(uids + pixels) + deflater.flush(zlib.Z_FULL_FLUSH)
    # after a full flush nothing refers to what came before: each MiB of zeros is the same bytes again
    zeros = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return bytes(128) + b"DICM" + meta + head + zeros * (size_bytes >> 20) + deflater.flush()
