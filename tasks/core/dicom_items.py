"""Where a value of undefined length ends: items and fragments are jumped over, not one is read.

DICOM PS3.5 7.5 (sequences) and A.4 (encapsulated pixel data). The walk is a loop with a short stack, so that
nesting cannot exhaust it, and has a limit, so that endless input ends. Bytes come through `read_at(offset,
count)`, which gives fewer than asked only at the end of the file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

ReadAt = Callable[[int, int], bytes]

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_DELIMITER: Final = 0xFFFEE00D
SEQUENCE_DELIMITER: Final = 0xFFFEE0DD

_MAX_DEPTH: Final = 256  # pydicom itself gives up at about as many sequences within sequences
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 7.1.2: 32-bit length


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set writes its elements."""

    explicit_vr: bool
    little_endian: bool

    def number(self, raw: bytes) -> int:
        """An unsigned number of any size."""
        return int.from_bytes(raw, "little" if self.little_endian else "big")

    def tag(self, raw: bytes) -> int:
        """Group and element as one number, from the first four bytes."""
        return self.number(raw[:2]) << 16 | self.number(raw[2:4])


class Ending(Enum):
    """How a value of undefined length ended."""

    WHOLE = auto()  # with its delimiter
    OPEN = auto()  # after a whole item the file ends or its zero padding starts: no delimiter, all else
    CUT = auto()  # the file ends within an item
    LOST = auto()  # neither an item nor a delimiter where one must stand, too deep, or over the limit


@dataclass(frozen=True, slots=True)
class Items:
    """A value of undefined length: how it ended, the offset after it, and how many headers were walked."""

    ending: Ending
    end: int
    headers: int


def is_vr(two_bytes: bytes) -> bool:
    """Whether an explicit VR may stand here: two capital letters. Anything else is part of a length."""
    return len(two_bytes) == 2 and two_bytes.isalpha() and two_bytes.isupper()


def skip_items(read_at: ReadAt, start: int, size_bytes: int, encoding: Encoding, limit: int) -> Items:
    """Find the end of the value of undefined length that starts at `start`, in at most `limit` headers.

    Inner delimiters may be missing where the next tag shows it, and an odd fragment may be padded by a byte
    that is not counted. An item within an explicit data set may be implicit (PS3.5 6.2.2).
    """
    levels = [encoding.explicit_vr]  # of sequence, item, sequence, ...: whether it holds explicit VRs
    at = start
    for walked in range(limit):
        head = read_at(at, 16)
        if len(head) < 8 or at > size_bytes:
            between_items = len(levels) == 1 and at <= size_bytes and not any(head)
            return Items(Ending.OPEN if between_items else Ending.CUT, min(at, size_bytes), walked)
        step = (_between_items if len(levels) % 2 else _within_item)(head, levels, encoding)
        if not levels:
            return Items(Ending.WHOLE, at + step, walked + 1)
        if step < 0 or len(levels) > _MAX_DEPTH:
            padding = len(levels) == 1 and not any(head)
            return Items(Ending.OPEN if padding else Ending.LOST, at, walked + 1)
        at += step
    return Items(Ending.LOST, at, limit)


def _between_items(head: bytes, levels: list[bool], encoding: Encoding) -> int:
    """The bytes to go on by where an item or the sequence's delimiter must stand; -1: there is neither."""
    tag, length = encoding.tag(head), encoding.number(head[4:8])
    if tag == ITEM:
        if length != UNDEFINED_LENGTH:
            return 8 + length
        levels.append(levels[-1] and is_vr(head[12:14]))
        return 8
    if tag == SEQUENCE_DELIMITER:
        levels.pop()
        return 8
    if tag == ITEM_DELIMITER:  # a stray one, after an item of defined length
        return 8
    return 1 if encoding.tag(head[1:]) in {ITEM, SEQUENCE_DELIMITER} else -1


def _within_item(head: bytes, levels: list[bool], encoding: Encoding) -> int:
    """The bytes to go on by where an element or the item's delimiter must stand."""
    tag = encoding.tag(head)
    if tag in {ITEM, ITEM_DELIMITER, SEQUENCE_DELIMITER}:
        levels.pop()
        return 8 if tag == ITEM_DELIMITER else 0  # 0: the item's delimiter is missing
    header_bytes, length = _extent(head, levels[-1], encoding)
    if length != UNDEFINED_LENGTH:
        return header_bytes + length
    levels.append(levels[-1])
    return header_bytes


def _extent(head: bytes, explicit_vr: bool, encoding: Encoding) -> tuple[int, int]:
    """An element's header size and value length; as in pydicom, an impossible VR means implicit."""
    vr = head[4:6]
    if not explicit_vr or not is_vr(vr):
        return 8, encoding.number(head[4:8])
    if vr in _LONG_VRS:
        return 12, encoding.number(head[8:12])
    return 8, encoding.number(head[6:8])


def fragments(read_at: ReadAt, start: int, end: int, encoding: Encoding) -> Iterator[tuple[int, int]]:
    """The offsets (first byte, byte after the last) of each fragment that `skip_items` found whole, in order.

    The first is the basic offset table.
    """
    while start + 8 <= end:
        head = read_at(start, 8)
        if encoding.tag(head) == ITEM:
            after = start + 8 + encoding.number(head[4:8])
            yield start + 8, after
            start = after
        else:
            start += 1  # the byte that pads an odd fragment
