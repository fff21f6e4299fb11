"""Whether two files hold the same instance: the data set without group 2, and each fragment of the pixels.

A server keeps an instance under a preamble and a group 2 of its own. Beyond that only what a data set looks
like in bytes may differ, not what it says: how sequences end, whether values without a VR have got one, pad
bytes, retired group lengths. Deflated data sets are inflated to be compared.
"""

import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, zip_longest
from operator import attrgetter
from tempfile import TemporaryFile
from typing import BinaryIO, Final

from tasks.comparison.data_set_elements import DataSet, Found, NoDataSetError
from tasks.core.dicom_elements import PIXELS
from tasks.source.inflation import DEFLATED_SYNTAXES

_CHUNK_BYTES: Final = 1024 * 1024
_SHOWN_BYTES: Final = 64  # of a value
_MOST_INFLATED_BYTES: Final = 8 << 30
# Implicit and explicit little endian: the values are the same bytes.
_ALIKE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", *DEFLATED_SYNTAXES})
# PS3.5 6.2: trailing spaces, of a UID a null, say nothing.
_TEXT: Final = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_OPEN: Final = frozenset({b"", b"UN"})
_BYTES: Final = frozenset({b"OB", b"OW"})
_PADS: Final = b"\0 "


class Difference(StrEnum):
    """What differs first, in the words of a report."""

    TRANSFER_SYNTAX = "transfer syntax"  # encoded anew: nothing else was compared
    DATA_SET = "data set"
    PIXEL_DATA = "pixel data"
    BOTH = "data set and pixel data"


def difference(one: BinaryIO, other: BinaryIO) -> str:
    """What differs, one of `Difference`, and of the data set the first tag that does; empty for nothing.

    Both are seekable. In bounded memory; what can't be read as a data set is the same if its bytes are.
    """
    with _plain(one) as ours, _plain(other) as theirs:
        if not _may_be_alike(ours, theirs):
            return Difference.TRANSFER_SYNTAX
        if _same_bytes(ours, ours.start, theirs, theirs.start, None):
            return ""
        tags: list[int] = []
        try:
            tags.extend(_differing(ours, theirs))
        except NoDataSetError:
            tags.append(-1)
        return _in_words(tags)


@dataclass(frozen=True, slots=True)
class Differing:
    """All that differs between two files: each tag of the data set itself but the pixels', and these."""

    transfer_syntax: bool  # then nothing is said of the pixels
    pixels: bool
    tags: list[int]
    is_readable: bool  # to the end, both of them


def all_differences(one: BinaryIO, other: BinaryIO) -> Differing:
    """As `difference`, but all of it; of files that are encoded in two ways the data sets, too."""
    with _plain(one) as ours, _plain(other) as theirs:
        alike = _may_be_alike(ours, theirs)
        if alike and _same_bytes(ours, ours.start, theirs, theirs.start, None):
            return Differing(transfer_syntax=False, pixels=False, tags=[], is_readable=True)
        tags: list[int] = []
        is_readable = True
        try:
            tags.extend(_differing(ours, theirs))
        except NoDataSetError:
            is_readable = False
    headers = [tag for tag in tags if tag not in PIXELS]
    return Differing(not alike, alike and len(headers) < len(tags), headers, is_readable)


def values(file: BinaryIO, tags: Collection[int]) -> dict[int, tuple[bytes, bytes, int]]:
    """Of elements of the data set itself: VR, empty where none is written, the first bytes, and how many."""
    found: dict[int, tuple[bytes, bytes, int]] = {}
    with _plain(file) as data_set, suppress(NoDataSetError):
        for each in data_set.elements():
            if each.depth == 0 and each.tag in tags:
                first = data_set.read_at(each.start, min(_SHOWN_BYTES, max(each.length, 0)))
                found[each.tag] = each.vr, first, each.length
    return found


def _in_words(tags: list[int]) -> str:
    """Of all tags of the data set itself that differ; -1 stands for one that can't be read."""
    others = [tag for tag in tags if tag not in PIXELS]
    if not others:
        return Difference.PIXEL_DATA if tags else ""
    what = Difference.DATA_SET if len(others) == len(tags) else Difference.BOTH
    return f"{what} ({others[0] >> 16:04X},{others[0] & 0xFFFF:04X})" if others[0] >= 0 else what


def _may_be_alike(ours: DataSet, theirs: DataSet) -> bool:
    return ours.transfer_syntax == theirs.transfer_syntax or (
        {ours.transfer_syntax, theirs.transfer_syntax} <= _ALIKE
    )


def _differing(ours: DataSet, theirs: DataSet) -> Iterator[int]:
    """The tags of the data set itself, ascending as they are in both, that one lacks or that differ."""
    left, right = _by_element(ours), _by_element(theirs)
    one, other = next(left, None), next(right, None)
    while one or other:
        if one and other and one[0] == other[0]:
            if not _same_elements(ours, one[1], theirs, other[1]):
                yield one[0]
            one, other = next(left, None), next(right, None)
        elif one and (other is None or one[0] < other[0]):
            yield one[0]
            one = next(left, None)
        elif other:
            yield other[0]
            other = next(right, None)


def _by_element(data_set: DataSet) -> Iterator[tuple[int, Iterator[Found]]]:
    """Each element of the data set itself: its tag, and all that is in it."""
    for top, within in groupby(data_set.elements(), key=attrgetter("top")):
        yield top.tag, within


def _same_elements(
    ours: DataSet, our_elements: Iterator[Found], theirs: DataSet, their_elements: Iterator[Found]
) -> bool:
    return all(
        one is not None and other is not None and _is_same(ours, one, theirs, other)
        for one, other in zip_longest(our_elements, their_elements)
    )


def _is_same(ours: DataSet, one: Found, theirs: DataSet, other: Found) -> bool:
    if (one.depth, one.tag) != (other.depth, other.tag) or not _may_be_one_vr(one.vr, other.vr):
        return False
    if one.length < 0 or other.length < 0:  # without a VR, an empty sequence looks like any empty value
        return one.length <= 0 and other.length <= 0
    lengths = (_length(ours, one, other), _length(theirs, other, one))
    return lengths[0] == lengths[1] and _same_bytes(ours, one.start, theirs, other.start, lengths[0])


def _may_be_one_vr(one: bytes, other: bytes) -> bool:
    """The same, one that is not written or not known, or both of bytes: OB and OW are one another's (A.2)."""
    return one == other or bool({one, other} & _OPEN) or {one, other} == _BYTES


def _length(data_set: DataSet, found: Found, other: Found) -> int:
    """Of the value without what pads it: any number of pads behind a text, one byte that the other lacks."""
    if _TEXT & {found.vr, other.vr}:
        end = min(found.length, _CHUNK_BYTES)
        tail = data_set.read_at(found.start + found.length - end, end)
        return found.length - len(tail) + len(tail.rstrip(_PADS))
    if found.length == other.length + 1 and found.length % 2 == 0:
        pad = data_set.read_at(found.start + found.length - 1, 1)
        return found.length - 1 if pad in (b"\0", b" ") else found.length
    return found.length


def _same_bytes(one: DataSet, at: int, other: DataSet, other_at: int, length: int | None) -> bool:
    """So many bytes, or all to the end of both."""
    if length is None:
        length = one.size_bytes - at
        if length != other.size_bytes - other_at:
            return False
    for done in range(0, length, _CHUNK_BYTES):
        count = min(_CHUNK_BYTES, length - done)
        if one.read_at(at + done, count) != other.read_at(other_at + done, count):
            return False
    return True


@contextmanager
def _plain(file: BinaryIO) -> Iterator[DataSet]:
    """The data set; of a deflated one, that in a temporary file, unless it is none or a bomb."""
    found = DataSet(file)
    if found.transfer_syntax not in DEFLATED_SYNTAXES:
        yield found
        return
    with TemporaryFile() as inflated:
        if _inflate(found, inflated):
            plain = DataSet(inflated)
            plain.transfer_syntax = found.transfer_syntax
            yield plain
        else:
            yield found


def _inflate(found: DataSet, into: BinaryIO) -> bool:
    """PS3.5 A.5: the bare stream of RFC 1951."""
    inflater, at = zlib.decompressobj(-zlib.MAX_WBITS), found.start
    try:
        while not inflater.eof and into.tell() <= _MOST_INFLATED_BYTES:
            data = inflater.unconsumed_tail or found.read_at(at, _CHUNK_BYTES)
            at += 0 if inflater.unconsumed_tail else len(data)
            if not data:
                return False
            into.write(inflater.decompress(data, _CHUNK_BYTES))
    except zlib.error:
        return False
    return inflater.eof
