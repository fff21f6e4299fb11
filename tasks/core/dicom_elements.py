"""Where a data element ends (DICOM PS3.5 7.1): its length decides, not its VR.

A header has a tag, perhaps a VR, and a length of 16 or 32 bits. Which of these it is, its VR says; where two
other bytes stand in its place, or where a length is odd, zero or too long, several readings are possible, and
that one is right after which the data set goes on: with a greater tag and a length that fits into the file.
Bytes come through `read_at(offset, count)`, which gives fewer than asked only at the end of the file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Final, Literal, NamedTuple

ReadAt = Callable[[int, int], bytes]
Keep = Callable[[int, int, int], object]  # tag, offset of the value, its length

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_DELIMITER: Final = 0xFFFEE00D
SEQUENCE_DELIMITER: Final = 0xFFFEE0DD
DELIMITERS: Final = frozenset({ITEM_DELIMITER, SEQUENCE_DELIMITER})
ROWS: Final = 0x00280010
PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

_SHORT_VRS: Final = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_LONG_VRS: Final = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # PS3.5 7.1.2: a 32-bit length
HEADER_BYTES: Final = {**dict.fromkeys(_SHORT_VRS, 8), **dict.fromkeys(_LONG_VRS, 12)}
_header_bytes: Final = HEADER_BYTES.get
_MOST_AT_ONCE: Final = 10_000  # elements; whoever asks for them has a budget
_DEPTH: Final = 3  # how many headers are looked at before one is believed
_HEAD_BYTES: Final = 16
_WINDOW_BYTES: Final = 192
_COST: Final = 10  # of one that is not plain


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


class Element(NamedTuple):
    """An element's header, and the offset after its value; of undefined length: where the value starts."""

    tag: int
    start: int  # of the value
    length: int
    end: int
    is_certain: bool = True  # the data set goes on after it, or its VR leaves no doubt


def is_vr(two_bytes: bytes) -> bool:
    """Whether an explicit VR may stand here, known or not: two capital letters."""
    return len(two_bytes) == 2 and two_bytes.isalpha() and two_bytes.isupper()


class Elements:
    """The elements of one file, or of an inflated data set of which the first `held_bytes` are known.

    `group`: only elements of this one come (file meta information); what follows may be encoded otherwise.
    """

    def __init__(
        self,
        read_at: ReadAt,
        size_bytes: int,
        encoding: Encoding,
        held_bytes: int | None = None,
        group: int | None = None,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        self.size_bytes = size_bytes
        self.held_bytes = size_bytes if held_bytes is None else held_bytes
        self.encoding = encoding
        self.cost = 0  # of what was looked at twice
        self._read_at = read_at
        self._group = group
        self._kept = kept
        order = "<" if encoding.little_endian else ">"
        self._explicit = Struct(f"{order}HH2sH").unpack_from
        self._implicit = Struct(f"{order}HHL").unpack_from
        self._long = Struct(f"{order}L").unpack_from
        self._order: Literal["little", "big"] = "little" if encoding.little_endian else "big"
        self._window, self._window_at = b"", 0

    def head(self, at: int) -> bytes:
        """The 16 bytes at an offset; fewer only at the end."""
        offset = at - self._window_at
        if offset < 0 or offset + _HEAD_BYTES > len(self._window):
            self._window_at, self._window, offset = at, self._read_at(at, _WINDOW_BYTES), 0
        return self._window[offset : offset + _HEAD_BYTES]

    def value(self, start: int, length: int) -> bytes:
        """So many bytes of a value."""
        offset = start - self._window_at
        if offset >= 0 and offset + length <= len(self._window):
            return self._window[offset : offset + length]
        return self._read_at(start, length)

    def tag(self, raw: bytes) -> int:
        """Group and element as one number, from the first four bytes."""
        return int.from_bytes(raw[:2], self._order) << 16 | int.from_bytes(raw[2:4], self._order)

    def number(self, raw: bytes) -> int:
        """An unsigned number of any size."""
        return int.from_bytes(raw, self._order)

    def skip_plain(
        self, at: int, last_tag: int, explicit_vr: bool, until: int, keep: Keep | None = None
    ) -> tuple[int, int, int]:
        """Past the elements about which there is no doubt, nearly all, whose tags are below `until`.

        Gives the offset after the last, its tag, and how many there were. `keep` is called with tag, start
        and length of those in `kept`. Of an empty value there is no doubt when such an element follows.
        """
        unpack = self._explicit if explicit_vr else self._implicit
        size_bytes, window, base, kept = self.size_bytes, self._window, self._window_at, self._kept
        certain = at, last_tag
        for count in range(_MOST_AT_ONCE):
            offset = at - base
            if offset < 0 or offset + 12 > len(window):
                self._window_at, self._window = base, window = at, self._read_at(at, _WINDOW_BYTES)
                offset = 0
                if len(window) < 12:
                    return *certain, count
            if explicit_vr:
                group, number, vr, length = unpack(window, offset)
                if (header_bytes := _header_bytes(vr, 0)) == 12:
                    header_bytes = 0 if length else 12
                    (length,) = self._long(window, offset + 8)
            else:
                group, number, length = unpack(window, offset)
                header_bytes = 8
            tag, end = group << 16 | number, at + header_bytes + length
            if not last_tag < tag < until or not header_bytes or length & 1 or end > size_bytes:
                return *certain, count
            if keep and tag in kept:
                keep(tag, at + header_bytes, length)
            certain = (end, tag) if length or not explicit_vr else (at, last_tag)
            at, last_tag = end, tag
        return *certain, _MOST_AT_ONCE

    def element(self, at: int, explicit_vr: bool) -> Element:
        """The element whose header, of eight bytes at least, is at this offset."""
        head = self.head(at)
        header_bytes = HEADER_BYTES.get(head[4:6], 0) if explicit_vr else 8
        if header_bytes == 8:
            length = self.number(head[6:8]) if explicit_vr else self.number(head[4:8])
        else:
            length = self.number(head[8:12])
        start = at + header_bytes
        is_plain = header_bytes == 8 or (header_bytes == 12 and head[6:8] == b"\0\0" and len(head) >= 12)
        if is_plain and length == UNDEFINED_LENGTH:
            return Element(self.tag(head), start, length, start)
        if is_plain and length and not length & 1 and start + length <= self.size_bytes:
            return Element(self.tag(head), start, length, start + length)
        return self._choose(at, head, explicit_vr)

    def is_endless(self, element: Element) -> bool:
        """Whether items begin in a value whose length leads beyond the file."""
        return element.end > self.size_bytes and self.tag(self.head(element.start)) == ITEM

    def goes_on(self, at: int, last_tag: int, explicit_vr: bool, depth: int = _DEPTH) -> bool:
        """Whether the data set ends here, or goes on with a header in its order, of a length that fits."""
        if at >= self.size_bytes:
            return at == self.size_bytes
        if self.is_beyond(at):
            return True
        head = self.head(at)
        if len(head) < 8:
            return False
        tag = self.tag(head)
        if self._group is not None and tag >> 16 != self._group:
            return encoding_at(self._read_at, at, self.size_bytes) is not None
        if tag == ITEM:
            return True
        if tag in DELIMITERS:
            return self.number(head[4:8]) in (0, UNDEFINED_LENGTH)
        if tag <= last_tag or tag >> 16 >= 0xFFFE:
            return False
        if explicit_vr and self._is_plain(at, head):
            return True
        self.cost += 1
        depth = 0 if tag in PIXELS else depth  # behind them anything may follow
        if explicit_vr and not depth and not _is_printable(head[4:6]):
            return False
        return any(
            self._goes_on_after(element, explicit_vr, depth) if depth else element.end <= self.size_bytes
            for element in self._candidates(at, head, explicit_vr)
        )

    def starts(self, at: int, *, any_vr: bool = False) -> bool:
        """Whether two elements of a data set stand here, one after the other, or one and no more.

        With explicit VRs, one of the two has to be known; with `any_vr` the first may also be two characters,
        or both the same bytes.
        """
        explicit_vr = self.encoding.explicit_vr
        if not self.goes_on(at, -1, explicit_vr):
            return False
        first = self.element(at, explicit_vr)
        if not self._goes_on_after(first, explicit_vr):
            return False
        head = self.head(at)
        if not explicit_vr or self._is_plain(at, head) or (any_vr and _is_printable(head[4:6])):
            return True
        second = self.head(first.end) if first.end + 8 <= self.size_bytes else b""
        is_known = bool(second) and self._is_plain(first.end, second)
        return is_known or (any_vr and head[4:6] == second[4:6])

    def seems_to_start(self, at: int) -> bool:
        """Whether two elements with VRs stand here, in whatever order."""
        if not self.encoding.explicit_vr or not self._is_plain(at, self.head(at)):
            return False
        return self._seems_to_go_on(self.element(at, explicit_vr=True), explicit_vr=True)

    def is_beyond(self, at: int) -> bool:
        """Whether the header at this offset is in what is not held."""
        return self.held_bytes < self.size_bytes and at + 12 > self.held_bytes

    def _is_plain(self, at: int, head: bytes) -> bool:
        """Whether a known VR stands here with the form of length that it has, and within the file."""
        header_bytes = HEADER_BYTES.get(head[4:6])
        if header_bytes == 8:
            return at + 8 + self.number(head[6:8]) <= self.size_bytes
        length = self.number(head[8:12])
        is_long = header_bytes == 12 and head[6:8] == b"\0\0"
        return is_long and (length == UNDEFINED_LENGTH or at + 12 + length <= self.size_bytes)

    def _goes_on_after(self, element: Element, explicit_vr: bool, depth: int = _DEPTH) -> bool:
        if element.length == UNDEFINED_LENGTH:
            return self.tag(self.head(element.start)) in {ITEM, SEQUENCE_DELIMITER}
        return self.goes_on(element.end, element.tag, explicit_vr, depth - 1)

    def _choose(self, at: int, head: bytes, explicit_vr: bool) -> Element:
        """Of several readings the first after which the data set goes on, or at least seems to."""
        self.cost += _COST
        candidates = list(self._candidates(at, head, explicit_vr))
        is_known = not explicit_vr or head[4:6] in HEADER_BYTES
        for element in candidates:
            # that the file ends here is no sign when the VR says otherwise: then it is cut
            is_likely = not is_known or element.start == candidates[0].start
            if (is_likely or element.end < self.size_bytes) and self._goes_on_after(element, explicit_vr):
                return element
        for element in candidates:
            if element.end < self.size_bytes and self._seems_to_go_on(element, explicit_vr):
                return element
        if is_known:
            return candidates[0]
        # behind pixels anything may follow
        within = (each for each in candidates if each.tag in PIXELS and each.length > 0)
        preferred = next((each for each in within if each.end <= self.size_bytes), candidates[0])
        return preferred._replace(is_certain=preferred.tag in PIXELS)

    def _seems_to_go_on(self, element: Element, explicit_vr: bool) -> bool:
        """Whether the next header has a known VR, or a greater tag, be its value cut or out of order."""
        if element.length == UNDEFINED_LENGTH:
            return False
        head = self.head(element.end)
        return (head[4:6] in HEADER_BYTES) if explicit_vr else self.tag(head) > element.tag

    def _candidates(self, at: int, head: bytes, explicit_vr: bool) -> Iterator[Element]:
        """Each way to read a header, the likeliest first; an odd value may have a pad byte behind it."""
        tag = self.tag(head)
        for header_bytes in _forms(head, explicit_vr):
            raw = head[8:12] if header_bytes == 12 else head[6:8] if header_bytes == 8 else head[4:8]
            length, start = self.number(raw), at + max(8, header_bytes)
            if start > at + len(head):
                length = self.size_bytes + 1  # the file ends within the header
            if length == UNDEFINED_LENGTH:
                yield Element(tag, start, length, start)
                continue
            yield Element(tag, start, length, start + length)
            if length & 1 and start + length < self.size_bytes:
                yield Element(tag, start, length, start + length + 1)


_IMPLICIT: Final = 0  # a 32-bit length in place of the VR


def _is_printable(vr: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in vr)


def _forms(head: bytes, explicit_vr: bool) -> tuple[int, ...]:
    """The sizes of header that these bytes may be, with the VR or without."""
    vr, may_be_long = head[4:6], head[6:8] == b"\0\0"
    header_bytes = HEADER_BYTES.get(vr)
    if not explicit_vr:
        return (_IMPLICIT,) if header_bytes is None else (_IMPLICIT, header_bytes)
    if header_bytes:
        return header_bytes, 20 - header_bytes, _IMPLICIT
    if head[4:8] == b"\xff\xff\xff\xff":
        return (_IMPLICIT,)
    if not _is_printable(vr):
        return (_IMPLICIT, 12, 8) if may_be_long else (_IMPLICIT, 8)
    return (12, 8, _IMPLICIT) if may_be_long else (8, _IMPLICIT)


def encoding_at(
    read_at: ReadAt,
    at: int,
    size_bytes: int,
    likeliest: Encoding | None = None,
    held_bytes: int | None = None,
    *,
    any_vr: bool = False,
) -> Encoding | None:
    """How the data set that starts here is written, known by its first elements; None: by none of them.

    The bytes decide; where they may be read in two ways, the group's number does, then what is likeliest.
    `any_vr`: where nothing else explains them, also elements with VRs that are none.
    """
    head = read_at(at, 8)
    little = likeliest is None or likeliest.little_endian
    found = [Encoding(explicit_vr, order) for explicit_vr in (True, False) for order in (little, not little)]
    each = [Elements(read_at, size_bytes, encoding, held_bytes) for encoding in found if len(head) == 8]
    natural = [elements for elements in each if elements.tag(head) >> 16 <= 0xFF]
    swapped = [elements for elements in each if elements.tag(head) >> 16 > 0xFF]
    attempts: tuple[tuple[Elements, Callable[[int], bool]], ...] = (
        *((elements, elements.starts) for elements in natural),
        *((elements, elements.seems_to_start) for elements in natural),
        *((elements, elements.starts) for elements in swapped),
        *((elements, partial(elements.starts, any_vr=True)) for elements in natural if any_vr),
    )
    for elements, starts in attempts:
        if starts(at):
            return elements.encoding
    return None
