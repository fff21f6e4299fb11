"""A walk from element to element of one file: what identifies the instance, and where the data set ends.

Each element's length says where the next one is (`core/dicom_elements.py`). Values of undefined length are
jumped over (`core/dicom_items.py`), pixel data is never read. What is missing shows in one of two ways: the
file ends before a length says, or no reading of a header leads to an end. A missing final delimiter is
tolerated where it is seen that nothing else is missing: in encapsulated pixel data with all of its frames
(`core/codestreams.py`), and after a whole item in the last sequence of an object without pixels. Sequences
and items may lack theirs wherever what follows can't be in them.
"""

import re
from io import BytesIO
from itertools import islice
from struct import pack
from typing import BinaryIO, Final

from tasks.core.codestreams import END_OF_IMAGE, has_all_frames
from tasks.core.dicom_elements import (
    DELIMITERS,
    HEADER_BYTES,
    PIXELS,
    ROWS,
    SEQUENCE_DELIMITER,
    UNDEFINED_LENGTH,
    Element,
    Elements,
    Encoding,
)
from tasks.core.dicom_items import Ending, Items, fragments, skip_items
from tasks.core.models import Flaw

META_LENGTH: Final = 0x00020000
TRANSFER_SYNTAX: Final = 0x00020010
MEDIA_STORAGE_SOP_CLASS: Final = 0x00020002
DIRECTORY_RECORDS: Final = 0x00041220
RECOGNITION_CODE: Final = 0x00080010  # retired: "ACR-NEMA 2.0"
SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
MODALITY: Final = 0x00080060
STUDY: Final = 0x0020000D
SERIES: Final = 0x0020000E
_FRAMES: Final = 0x00280008
IDENTITY: Final = (SOP_INSTANCE, STUDY, SERIES, SOP_CLASS, TRANSFER_SYNTAX)  # as in `Header`
_NEEDED: Final = frozenset({*IDENTITY, MEDIA_STORAGE_SOP_CLASS, _FRAMES, ROWS})  # what it is judged by
_PATIENT: Final = frozenset({0x00100010, 0x00100020})  # name and ID
# What every data set has, or every image, and hardly an item: where one of these comes, the data set goes on.
_OWN: Final = frozenset({SOP_CLASS, SOP_INSTANCE, MODALITY, STUDY, _FRAMES, ROWS}) | _PATIENT | PIXELS
_KEPT: Final = _NEEDED | {MODALITY, RECOGNITION_CODE, DIRECTORY_RECORDS, META_LENGTH}
_TRAILERS: Final = frozenset({0xFFFAFFFA, 0xFFFCFFFC})  # digital signatures, data set trailing padding

_SWAPPED: Final = frozenset({0x0800, 0x1000, 0x1800, 0x2800})  # common groups in the other byte order

_MOST_VALUE_BYTES: Final = 1024  # of an element that is kept: a UID has at most 64
_MOST_COST: Final = 5_000_000  # seconds of work, and more than real files have: headers of items, and ...
_PLAIN_COST: Final = 2
_ELEMENT_COST: Final = 10  # ... elements of the data set itself, which take longer
_CHUNK_BYTES: Final = 1 << 18
_LAST_BYTES: Final = 1 << 16
_CREATOR_BYTES: Final = 64  # PS3.5 7.8.1, LO


class Walk:
    """Reads a file element by element: what identifies it, and what is wrong with it."""

    def __init__(self, file: BinaryIO, size_bytes: int, start: int, held_bytes: int | None = None) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.end = start  # of the last whole element
        self.values: dict[int, bytes] = {}
        self.flaw = Flaw.NONE
        self.past_pixels = False
        self._held_bytes = held_bytes
        self._budget = _MOST_COST
        self._last_tag = -1
        self._creators: set[int] = set()  # groups behind the pixels
        self._goes_on_behind_pixels = False
        self._is_guessed = False  # a sequence's end was found, though not by its own delimiter
        self._is_by_study = False  # ... but by a Study Instance UID, which may be that of another instance
        self._done = False

    def run(self, encoding: Encoding, group: int | None = None) -> None:
        """Go on to the end of `group`, or of the data set, or to a flaw."""
        self._encoding, self._group = encoding, group
        self._elements = Elements(self.read_at, self.size_bytes, encoding, self._held_bytes, group, _KEPT)
        self._last_tag = -1
        self._done = bool(self.flaw)
        until = min(PIXELS) if group is None else (group + 1) << 16
        while not self._done:
            if not self.past_pixels:
                self.end, self._last_tag, count = self._elements.skip_plain(
                    self.end, self._last_tag, encoding.explicit_vr, until, self._keep
                )
                self._budget -= count * _PLAIN_COST
            if not self._done:
                self._step()
            self._budget -= _ELEMENT_COST + self._elements.cost
            self._elements.cost = 0
            if self._budget <= 0 and not self._done:
                self._finish(Flaw.TOO_MANY_ELEMENTS)

    def _step(self) -> None:
        """Past one element, or to the end."""
        head = self._elements.head(self.end)
        tag = self._elements.tag(head)
        if len(head) < 8 or self._elements.is_beyond(self.end):
            self._finish(Flaw.NONE if self._elements.is_beyond(self.end) else self._flaw_of_tail())
        elif self._group is not None and tag >> 16 != self._group:
            self._finish()
        elif tag in DELIMITERS:  # a stray one
            self.end += 8
        elif not any(head[:8]) and self._last_tag >= 0:
            self._finish(self._flaw_of_tail())
        elif self.past_pixels and not self._goes_on_behind_pixels and not self._is_trailer(head):
            self._finish()
        else:
            self._pass(tag, self._elements.element(self.end, self._encoding.explicit_vr))

    def _pass(self, tag: int, element: Element) -> None:
        start = self.end
        if element.length == UNDEFINED_LENGTH:
            self._skip_items(tag, element)
        elif element.end > self.size_bytes or not element.is_certain:
            self._pass_endless(tag, element)
        else:
            self.end = element.end
            if tag in _KEPT:
                self._keep(tag, element.start, element.length)
        if self._done and self.flaw:
            self.end = start
        self._last_tag = tag
        self.past_pixels |= tag in PIXELS and not self.flaw

    def _pass_endless(self, tag: int, element: Element) -> None:
        """An element that has no end by its length: past its items, if it is a sequence in which they end."""
        if tag not in PIXELS and self._elements.is_endless(element):
            items = skip_items(self._elements, element.start, self._budget, tag, lenient=True)
            self._budget -= items.headers
            if items.ending is Ending.WHOLE and self._goes_on(items, tag):
                self.end, self._is_guessed = items.end, True
                return
        self._finish(self._flaw_of(tag, element))

    def _flaw_of(self, tag: int, element: Element) -> Flaw:
        """An element that reaches beyond the file, or that has no reading after which there is more."""
        if tag in _NEEDED and element.length > _MOST_VALUE_BYTES:
            return Flaw.ENDLESS_ELEMENT
        if (self._last_tag < 0 and tag >> 16 > 0xFF) or tag >> 16 in _SWAPPED:  # none begins, or goes on, so
            return Flaw.ENDLESS_ELEMENT
        if tag < max(self._last_tag, 0x00020000) or element.end <= self.size_bytes or not element.is_certain:
            return Flaw.ENDLESS_ELEMENT
        return Flaw.IN_PIXELS if tag in PIXELS else Flaw.IN_ELEMENT

    def _keep(self, tag: int, start: int, length: int) -> None:
        if length <= _MOST_VALUE_BYTES:
            self.values[tag] = self._elements.value(start, length)
        elif tag in _NEEDED:
            self._finish(Flaw.ENDLESS_ELEMENT)
        if tag == DIRECTORY_RECORDS:
            self.values[tag] = b""

    def _finish(self, flaw: Flaw = Flaw.NONE) -> None:
        if flaw and self._is_by_study and ROWS not in self.values:
            self.values.pop(STUDY, None)
            self.values.pop(SERIES, None)
        self.flaw = flaw
        self._done = True

    # -- values of undefined length ------------------------------------------------------------------------

    def _skip_items(self, tag: int, element: Element) -> None:
        if tag == DIRECTORY_RECORDS:
            self.values[tag] = b""
        items = self._items(tag, element.start)
        is_open = items.ending in (Ending.OPEN, Ending.LOST) and items.between
        self._last_tag, last_tag = tag, self._last_tag
        if items.ending is Ending.WHOLE or (
            tag in PIXELS and is_open and self._has_all_frames(element, items)
        ):
            self.end = items.end
        elif (
            items.ending is Ending.OPEN
            and tag not in PIXELS
            and self.may_end()
            and not self._is_filled(items)
        ):
            self.end = items.end
            self._finish()
        elif items.ending is Ending.LOST or tag < last_tag or self._has_delimiter_at_the_end(items):
            self._finish(Flaw.ENDLESS_SEQUENCE)
        elif tag in PIXELS:
            self._finish(Flaw.BEFORE_LAST_FRAME if items.ending is Ending.OPEN else Flaw.IN_PIXELS)
        else:
            self._finish(Flaw.IN_SEQUENCE)

    def _items(self, tag: int, start: int) -> Items:
        """Where the value ends: by its own delimiters, or else where the data set goes on after it."""
        strict = skip_items(self._elements, start, self._budget)
        self._budget -= strict.headers
        if tag in PIXELS or (strict.ending is Ending.WHOLE and self._goes_on(strict, tag)):
            return strict
        for inner in (False, True):
            lenient = skip_items(self._elements, start, self._budget, tag, lenient=True, inner=inner)
            self._budget -= lenient.headers
            if lenient.ending is Ending.WHOLE and self._goes_on(lenient, tag):
                self._is_guessed = True
                return lenient
        return self._items_before_own(tag, start) or strict

    def _items_before_own(self, tag: int, start: int) -> Items | None:
        """A value of which neither item nor sequence is closed, to the first element of the data set itself.

        Only there it can be seen that they have ended: greater tags may be in an item, too. In some, a Study
        Instance UID names the study of other instances: whose it is, rows and pixels behind it tell.
        """
        due = frozenset(own for own in _OWN if own > tag)
        if tag == DIRECTORY_RECORDS or not due:
            return None
        items = skip_items(self._elements, start, self._budget, tag, lenient=True, due=due)
        self._budget -= items.headers
        if items.ending is not Ending.WHOLE or not self._goes_on(items, tag):
            return None
        self._is_guessed = True
        self._is_by_study |= self._elements.tag(self._elements.head(items.end)) == STUDY
        return items

    def _goes_on(self, items: Items, tag: int) -> bool:
        return self._elements.goes_on(items.end, tag, self._encoding.explicit_vr)

    def _has_all_frames(self, element: Element, items: Items) -> bool:
        found = islice(fragments(self.read_at, element.start, items.end, self._encoding), 1, None)
        syntax, is_filled = self.uid(TRANSFER_SYNTAX), self._is_filled(items)
        return has_all_frames(self.read_at, syntax, found, self._frames(), is_filled=is_filled)

    def _is_filled(self, items: Items) -> bool:
        """Whether zeros stand before and behind what should be the end: an interrupted copy leaves that."""
        around = self.read_at(max(0, items.end - 8), 16)
        return items.end < self.size_bytes and not any(around)

    def _has_delimiter_at_the_end(self, items: Items) -> bool:
        """Whether the file does not end too early, though the length of an item or fragment says so."""
        if self._last_tag not in PIXELS and not items.is_beyond:
            return False
        order = "<" if self._encoding.little_endian else ">"
        delimiter = pack(f"{order}HHL", SEQUENCE_DELIMITER >> 16, SEQUENCE_DELIMITER & 0xFFFF, 0)
        tail = self.read_at(max(self.end, self.size_bytes - _LAST_BYTES), _LAST_BYTES)
        before, found, behind = tail.rpartition(delimiter)
        is_end = not any(behind) or self._elements.tag(behind) in _TRAILERS or before[-3:-1] == END_OF_IMAGE
        return bool(found) and (is_end or before.endswith(END_OF_IMAGE))

    def _frames(self) -> int:
        digits = re.match(rb"\s*\+?(\d{1,10})", self.values.get(_FRAMES, b""))
        return max(1, int(digits[1])) if digits else 1

    # -- the end -------------------------------------------------------------------------------------------

    def may_end(self) -> bool:
        """Whether all may be there: the pixels are, or none are due and we are past where images say so."""
        if self.past_pixels or self._is_by_study:
            return self.past_pixels
        return self._last_tag > ROWS and ROWS not in self.values

    def _flaw_of_tail(self) -> Flaw:
        """What the bytes after the last whole element are: padding, or the start of another element."""
        tail = self.read_at(self.end, 4096)
        if self.past_pixels:
            return Flaw.IN_ELEMENT if self._starts_trailer(tail) else Flaw.NONE
        if not tail:
            return Flaw.IN_SEQUENCE if self._is_guessed and not self.may_end() else Flaw.NONE
        if len(tail) >= 8 and not self._is_zero_to_the_end():
            return Flaw.ENDLESS_ELEMENT
        # one zero byte may be the first of a group number; more are none
        padding = len(tail) > 1 and not any(tail) and self.may_end()
        return Flaw.NONE if padding else Flaw.IN_ELEMENT

    def _is_zero_to_the_end(self) -> bool:
        self.file.seek(self.end)
        return not any(block.strip(b"\0") for block in iter(lambda: self.file.read(_CHUNK_BYTES), b""))

    def _is_trailer(self, head: bytes) -> bool:
        """Whether an element may follow the pixel data: one that is clearly neither padding nor garbage.

        A private one (PS3.5 7.8) has an odd group, but FFFF, and follows one that names its creator in text.
        """
        tag, vr = self._elements.tag(head), head[4:6]
        group, number = tag >> 16, tag & 0xFFFF
        if tag in _TRAILERS:
            return not self._encoding.explicit_vr or vr in HEADER_BYTES
        if SOP_INSTANCE not in self.values and self._elements.starts(self.end):
            self._goes_on_behind_pixels = True  # the identity stands there
            return True
        if tag <= self._last_tag or group >= 0xFFFE:
            return False
        if self._encoding.explicit_vr:
            return vr in HEADER_BYTES
        if not group & 1:
            return False
        if 0x10 <= number <= 0xFF and self._names_creator(head):
            self._creators.add(group)
        return group in self._creators or (not number and self._elements.number(head[4:8]) == 4)

    def _names_creator(self, head: bytes) -> bool:
        length = self._elements.number(head[4:8])
        value = self.read_at(self.end + 8, min(length, _CREATOR_BYTES)).strip(b"\0 ")
        return length <= _CREATOR_BYTES and all(0x20 <= byte != 0x7F for byte in value)

    def _starts_trailer(self, tail: bytes) -> bool:
        """Whether fewer bytes than a header has begin one."""
        if len(tail) >= 6 and self._encoding.explicit_vr:
            return tail[4:6] in HEADER_BYTES and self._is_trailer(tail)
        if len(tail) >= 4:
            tag = self._elements.tag(tail)
            is_private = self._last_tag < tag < 0x80000000 and bool(tag & 0x10000)
            return tag in _TRAILERS or tag >> 16 in self._creators or is_private
        in_order = slice(None) if self._encoding.little_endian else slice(None, None, -1)
        starts = (bytes((low, 0xFF)[in_order]) * 2 for low in (0xFA, 0xFC))
        return bool(tail) and any(start.startswith(tail) for start in starts)

    # -- what was read -------------------------------------------------------------------------------------

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end."""
        self.file.seek(offset)
        return self.file.read(count)

    @property
    def is_image(self) -> bool:
        """Whether there are pixels, or rows of them are due."""
        return self.past_pixels or ROWS in self.values or self.flaw is Flaw.IN_PIXELS

    def text(self, tag: int) -> str:
        """A value that was read, without white space and zeros around it."""
        raw = self.values.get(tag, b"")
        text = raw.decode("latin-1").strip(_AROUND)
        return text if text.isascii() else raw.decode("utf-8", "replace").strip(_AROUND)

    def uid(self, tag: int) -> str:
        """A UID that was read; empty when it is missing or none (PS3.5 9.1, but for leading zeros).

        Only the SOP Instance UID, by which the file is known, must have a digit in each component.
        """
        text = self.text(tag)
        form = _UID if tag == SOP_INSTANCE else _DIGITS_AND_DOTS
        return text if len(text) <= 64 and form.fullmatch(text) else ""


# White space as `str.isspace` knows it, in Latin-1 or UTF-8, and what no screen shows.
_AROUND: Final = (
    "\0 \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")


def walk_of(data_set: bytes, size_bytes: int, meta: Walk) -> Walk:
    """Of an inflated data set, of which the head is held, with what the file meta information says."""
    walk = Walk(BytesIO(data_set), size_bytes, start=0, held_bytes=len(data_set))
    walk.values = meta.values
    return walk
