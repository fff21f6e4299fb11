"""The data set of one file as a list of elements, however it writes its lengths (DICOM PS3.5, 7).

Sequences and items have a length or a delimiter, groups may have a length of their own: servers write these
anew. Left out is what says nothing about an instance: group lengths (retired, 7.2) and padding (FFFC,FFFC).
No value is held.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from tasks.core.dicom_elements import (
    HEADER_BYTES,
    ITEM,
    ITEM_DELIMITER,
    PIXELS,
    SEQUENCE_DELIMITER,
    UNDEFINED_LENGTH,
    Encoding,
    encoding_at,
    is_vr,
)
from tasks.source.data_set_walk import TRANSFER_SYNTAX, Walk

_META: Final = Encoding(explicit_vr=True, little_endian=True)
_PADDING: Final = 0xFFFCFFFC
_DEEPEST: Final = 64  # sequences within one another
_SHORT: Final = 8  # bytes of a header whose length has 16 bits


class NoDataSetError(ValueError):
    """Bytes of which no data set can be made."""


class Top(NamedTuple):
    """An element of the data set itself: the how manieth, from 0, and its tag."""

    number: int
    tag: int


@dataclass(frozen=True, slots=True)
class Found:
    """An element, an item, or a fragment of pixel data: where its value is. Of a sequence there is none."""

    top: Top  # which element of the data set itself it is, or is in
    depth: int
    tag: int
    vr: bytes  # empty where the data set has none
    start: int
    length: int  # -1: a sequence


class DataSet:
    """Of one file, which has to stand still. NoDataSetError where it can't be read on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = file.seek(0, 2)
        start = 132 if self.read_at(128, 4) == b"DICM" else 0
        walk = Walk(file, self.size_bytes, start)
        walk.run(_META, group=0x0002)
        self.transfer_syntax = walk.uid(TRANSFER_SYNTAX)
        self.start = walk.end  # of what follows group 2
        self._encoding = _META

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end."""
        self._file.seek(offset)
        return self._file.read(count)

    def elements(self) -> Iterator[Found]:
        """All of them in their order, those of items after their sequence, one depth below."""
        likeliest = Encoding(is_vr(self.read_at(self.start, 8)[4:6]), little_endian=True)
        encoding = encoding_at(self.read_at, self.start, self.size_bytes, likeliest, any_vr=True)
        if encoding is None:
            raise NoDataSetError
        self._encoding, self._top = encoding, Top(-1, 0)
        found = self._data_set(self.start, self.size_bytes, encoding.explicit_vr, 0)
        return (each for each in found if each.tag & 0xFFFF and each.tag != _PADDING)

    def _data_set(
        self, at: int, end: int | None, explicit_vr: bool, depth: int
    ) -> Generator[Found, None, int]:
        """Its elements up to an offset, or to its delimiter, if it is an item; gives the offset behind."""
        while end is None or at < end:
            tag, vr, length, start = self._header(at, explicit_vr)
            if end is None and tag == ITEM_DELIMITER:
                return start
            if depth == 0:
                self._top = Top(self._top.number + 1, tag)
            if tag in PIXELS and length == UNDEFINED_LENGTH:
                at = yield from self._fragments(tag, start, depth)
            elif self._is_sequence(vr, start, length):
                yield Found(self._top, depth, tag, vr, start, -1)
                until = None if length == UNDEFINED_LENGTH else start + length
                at = yield from self._items(start, until, explicit_vr and vr != b"UN", depth + 1)
            else:
                at = start + length
                yield Found(self._top, depth, tag, vr, start, length)
            if at > self.size_bytes:
                raise NoDataSetError
        return self._checked_end(at, end)

    def _items(self, at: int, end: int | None, explicit_vr: bool, depth: int) -> Generator[Found, None, int]:
        if depth > _DEEPEST:
            raise NoDataSetError
        while end is None or at < end:
            tag, length, start = self._item(at)
            if end is None and tag == SEQUENCE_DELIMITER:
                return start
            if tag != ITEM:
                raise NoDataSetError
            yield Found(self._top, depth, ITEM, b"", start, -1)
            until = None if length == UNDEFINED_LENGTH else start + length
            at = yield from self._data_set(start, until, explicit_vr, depth + 1)
        return self._checked_end(at, end)

    def _fragments(self, tag: int, at: int, depth: int) -> Generator[Found, None, int]:
        """Each fragment but the first, the table of offsets, which may be filled or left empty (A.4)."""
        is_table = True
        while True:
            item, length, start = self._item(at)
            if item == SEQUENCE_DELIMITER:
                return start
            if item != ITEM or length == UNDEFINED_LENGTH:
                raise NoDataSetError
            if not is_table:
                yield Found(self._top, depth + 1, tag, b"OB", start, length)
            is_table, at = False, start + length

    def _header(self, at: int, explicit_vr: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and the offset of the value."""
        encoding, head = self._encoding, self.read_at(at, 12)
        if len(head) < _SHORT:
            raise NoDataSetError
        tag, vr = encoding.tag(head), head[4:6]
        if not explicit_vr or tag in (ITEM_DELIMITER, SEQUENCE_DELIMITER):
            return tag, b"", encoding.number(head[4:8]), at + 8
        if not is_vr(vr) or len(head) < HEADER_BYTES.get(vr, 12):
            raise NoDataSetError
        if HEADER_BYTES.get(vr) == _SHORT:
            return tag, vr, encoding.number(head[6:8]), at + 8
        return tag, vr, encoding.number(head[8:12]), at + 12

    def _item(self, at: int) -> tuple[int, int, int]:
        head = self.read_at(at, 8)
        if len(head) < _SHORT:
            raise NoDataSetError
        return self._encoding.tag(head), self._encoding.number(head[4:8]), at + 8

    def _is_sequence(self, vr: bytes, start: int, length: int) -> bool:
        """By its VR, by its length, or, where there is no VR, by the item with which it begins."""
        if vr == b"SQ" or length == UNDEFINED_LENGTH:
            return True
        if vr or length < _SHORT:
            return False
        tag, item_length, item_start = self._item(start)
        return tag == ITEM and (item_length == UNDEFINED_LENGTH or item_start + item_length <= start + length)

    def _checked_end(self, at: int, end: int | None) -> int:
        if at != end:
            raise NoDataSetError
        return at
