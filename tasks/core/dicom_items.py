"""Where a value of undefined length ends: items and fragments are jumped over, not one is read.

DICOM PS3.5 7.5 (sequences) and A.4 (encapsulated pixel data). The walk is a loop with a short stack, so that
nesting cannot exhaust it, and has a limit, so that endless input ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from struct import pack
from typing import Final

from tasks.core.dicom_elements import (
    ITEM,
    ITEM_DELIMITER,
    PIXELS,
    ROWS,
    SEQUENCE_DELIMITER,
    UNDEFINED_LENGTH,
    Elements,
    Encoding,
    ReadAt,
    is_vr,
)

_MAX_DEPTH: Final = 256  # pydicom itself gives up at about as many sequences within sequences


class Ending(Enum):
    """How a value of undefined length ended."""

    WHOLE = auto()  # with its delimiter, or by what shows that it ended
    OPEN = auto()  # after a whole item the file ends or its zero padding starts: no delimiter, all else
    CUT = auto()  # the file ends within an item
    LOST = auto()  # neither an item nor a delimiter where one must stand, too deep, or over the limit


@dataclass(frozen=True, slots=True)
class Items:
    """A value of undefined length: how it ended, the offset after it, and how many headers were walked.

    `between`: whether its end, or where the walk was lost, is outside all of its items. `is_beyond`: whether
    a length leads beyond the end of the file.
    """

    ending: Ending
    end: int
    headers: int
    between: bool = True
    is_beyond: bool = False


@dataclass(slots=True)
class _Level:
    """A sequence, or an item in it."""

    explicit_vr: bool
    last_tag: int = -1  # of an item: of its last element
    has_closed: bool = False  # of a sequence: its last item had a delimiter
    has_rows: bool = False  # of an item: it is an image of its own


def skip_items(
    elements: Elements,
    start: int,
    limit: int,
    tag: int = -1,
    *,
    lenient: bool = False,
    inner: bool = False,
    due: frozenset[int] = frozenset(),
) -> Items:
    """Find the end of the value of undefined length that starts at `start`, in at most `limit` headers.

    Inner delimiters may be missing where the next tag shows it, and an odd fragment may be padded by a byte
    that is not counted. An item within an explicit data set may be implicit (PS3.5 6.2.2). `lenient`: a
    sequence, the element `tag`, may also end with the delimiter of an item, or with none where an element
    follows that can't be in it; so may its items, where an element is out of order, and items and sequences
    in it whose length leads beyond the file. `inner`: so may sequences within its items, even where the
    delimiter of the item that holds one is all that follows. `due`: elements with which the data set goes on,
    whatever is open; not with the pixels of an item that has rows of its own.
    """
    walk = _ItemWalk(elements, tag, lenient, inner, due)
    at = start
    for steps in range(limit):
        head, walked = elements.head(at), steps + walk.headers
        between = len(walk.levels) == 1
        if len(head) < 8 or at > elements.size_bytes:
            ending = _ending_at(head, elements) if between and at <= elements.size_bytes else Ending.CUT
            return Items(ending, min(at, elements.size_bytes), walked, between, at > elements.size_bytes)
        step = walk.step(at, head)
        if not walk.levels:
            return Items(Ending.WHOLE, at + step, walked + 1)
        if step < 0 or len(walk.levels) > _MAX_DEPTH or elements.cost + walked > limit:
            padding = between and not any(head)
            return Items(Ending.OPEN if padding else Ending.LOST, at, walked + 1, between)
        at += step
    return Items(Ending.LOST, at, limit, between=False)


def _ending_at(head: bytes, elements: Elements) -> Ending:
    """Of fewer bytes than a header has, in place of an item or of the delimiter."""
    order = "<" if elements.encoding.little_endian else ">"
    may_be = (pack(f"{order}HH", tag >> 16, tag & 0xFFFF) for tag in (ITEM, SEQUENCE_DELIMITER))
    if not any(head):
        return Ending.OPEN
    return Ending.CUT if any(tag.startswith(head[:4]) for tag in may_be) else Ending.LOST


class _ItemWalk:
    """Steps from header to header; `levels`: sequence, item, sequence, ..."""

    def __init__(self, elements: Elements, tag: int, lenient: bool, inner: bool, due: frozenset[int]) -> None:
        self.levels = [_Level(elements.encoding.explicit_vr)]
        self._elements = elements
        self._tag = tag
        self._lenient = lenient
        self._inner = inner
        self._due = due
        self._stops = sorted(due | {ROWS}) if due else []
        self.headers = 0  # of plain elements

    def step(self, at: int, head: bytes) -> int:
        """The bytes to go on by; -1: neither an item nor a delimiter stands where one must."""
        return self._between_items(at, head) if len(self.levels) % 2 else self._within_item(at, head)

    def _between_items(self, at: int, head: bytes) -> int:
        elements, sequence = self._elements, self.levels[-1]
        tag = elements.tag(head)
        if tag == ITEM:
            length = elements.number(head[4:8])
            sequence.has_closed = False
            is_endless = self._lenient and at + 8 + length > elements.size_bytes
            if length != UNDEFINED_LENGTH and not is_endless:
                return 8 + length
            self.levels.append(_Level(self._is_explicit(at + 8, sequence)))
            return 8
        if tag == SEQUENCE_DELIMITER:
            self.levels.pop()
            return 8
        if tag == ITEM_DELIMITER:  # a stray one, after an item of defined length; or the sequence's end
            if self._inner and not sequence.has_closed and len(self.levels) > 1:
                self.levels.pop()
                return 0
            behind = elements.tag(head[8:12])
            is_end = behind != ITEM if sequence.has_closed else behind not in {ITEM, SEQUENCE_DELIMITER}
            if self._lenient and is_end:
                self.levels.pop()
            return 8
        if elements.tag(head[1:]) in {ITEM, SEQUENCE_DELIMITER}:
            return 1
        if self._lenient:
            self.levels.pop()
            return 0
        return -1

    def _is_explicit(self, at: int, sequence: _Level) -> bool:
        """Whether an item has VRs: as its sequence, unless its first element shows that it has none."""
        elements = self._elements
        if not sequence.explicit_vr or is_vr(elements.head(at)[4:6]):
            return sequence.explicit_vr
        if elements.goes_on(at, -1, explicit_vr=False):
            return False
        return len(elements.head(at)) >= 8 and elements.element(at, explicit_vr=True).is_certain

    def _within_item(self, at: int, head: bytes) -> int:
        """The bytes to go on by where an element or the item's delimiter must stand."""
        item, elements = self.levels[-1], self._elements
        until = ITEM
        if self._stops:
            until = next((each for each in self._stops if each > item.last_tag), ITEM)
        end, item.last_tag, count = elements.skip_plain(at, item.last_tag, item.explicit_vr, until)
        if end > at:
            self.headers += count - 1
            return end - at
        tag = elements.tag(head)
        if tag in {ITEM, ITEM_DELIMITER, SEQUENCE_DELIMITER}:
            self.levels.pop()
            self.levels[-1].has_closed = tag == ITEM_DELIMITER
            return 8 if tag == ITEM_DELIMITER else 0  # 0: the item's delimiter is missing
        if tag in self._due and not (tag in PIXELS and any(level.has_rows for level in self.levels)):
            self.levels.clear()
            return 0
        if self._lenient and self._tag_above() < tag <= item.last_tag:
            del self.levels[-2:]  # neither it nor its sequence has a delimiter
            return 0
        item.last_tag = tag
        item.has_rows |= tag == ROWS
        element = elements.element(at, item.explicit_vr)
        if not element.is_certain:
            return -1
        is_endless = self._lenient and elements.is_endless(element)
        if element.length == UNDEFINED_LENGTH or is_endless:
            self.levels.append(_Level(item.explicit_vr))
        return (element.start if is_endless else element.end) - at

    def _tag_above(self) -> int:
        """That of the sequence which holds the item where the walk is."""
        return self.levels[-3].last_tag if len(self.levels) > 2 else self._tag


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
