"""DICOM elements made by hand, so that they can be wrong, and files of them."""

from struct import pack
from typing import Final

UNDEFINED: Final = 0xFFFFFFFF
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG, JPEG_XL, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.5"
UID = "1.2.3.4"
_LONG: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def explicit(
    tag: int,
    vr: bytes,
    value: bytes = b"",
    *,
    length: int | None = None,
    long: bool | None = None,
    order: str = "<",
) -> bytes:
    """With two bytes of any kind as VR, and 16 or 32 bits of length."""
    size = len(value) if length is None else length
    is_long = vr.decode("latin-1") in _LONG if long is None else long
    rest = pack(f"{order}HL", 0, size) if is_long else pack(f"{order}H", size)
    return pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr + rest + value


def implicit(tag: int, value: bytes = b"", *, length: int | None = None, order: str = "<") -> bytes:
    """An element without VR, an item, or a delimiter."""
    size = len(value) if length is None else length
    return pack(f"{order}HHL", tag >> 16, tag & 0xFFFF, size) + value


def padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


ITEM = implicit(0xFFFEE000, length=UNDEFINED)
ITEM_END, SEQUENCE_END = implicit(0xFFFEE00D), implicit(0xFFFEE0DD)


def uids(order: str = "<", sop: bytes = padded(UID)) -> list[tuple[int, bytes]]:
    return [
        (0x00080016, padded(_CLASS)),
        (0x00080018, sop),
        (0x0020000D, padded("1.2.3.5")),
        (0x0020000E, padded("1.2.3.6")),
    ]


def identity(order: str = "<", sop: bytes = padded(UID)) -> bytes:
    return b"".join(explicit(tag, b"UI", value, order=order) for tag, value in uids(order, sop))


SOP = b"".join(explicit(tag, b"UI", value) for tag, value in uids()[:2])
REST = b"".join(explicit(tag, b"UI", value) for tag, value in uids()[2:])
IMPLICIT_IDENTITY = b"".join(implicit(tag, value) for tag, value in uids())


def size(order: str = "<") -> bytes:
    four = pack(f"{order}H", 4)
    return explicit(0x00280010, b"US", four, order=order) + explicit(0x00280011, b"US", four, order=order)


def pixels(order: str = "<") -> bytes:
    return explicit(0x7FE00010, b"OW", bytes(range(1, 33)), order=order)


IMAGE = REST + size() + pixels()
IMPLICIT_PIXELS = implicit(0x7FE00010, bytes(range(1, 33)))


def fragments(*values: bytes) -> bytes:
    """Encapsulated pixels without their last delimiter."""
    items = b"".join(implicit(0xFFFEE000, value) for value in (b"", *values))
    return explicit(0x7FE00010, b"OB", items, length=UNDEFINED)


def part10(data_set: bytes, syntax: str = EXPLICIT, meta: bytes | None = None) -> bytes:
    if meta is None:
        meta = explicit(0x00020002, b"UI", padded(_CLASS)) + explicit(0x00020010, b"UI", padded(syntax))
    return bytes(128) + b"DICM" + explicit(0x00020000, b"UL", pack("<L", len(meta))) + meta + data_set
