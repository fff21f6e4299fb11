"""What differs between two DICOM files, for a person: each element by its keyword and tag, and the pixels."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.comparison.instance_comparison import all_differences, values
from tasks.core.escape import escape

_MOST: Final = 100  # elements that are named
_NUMBERS: Final = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d"}
_BYTES: Final = frozenset({b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"UN", b"SQ"})


@dataclass(frozen=True, slots=True)
class Element:
    """One that differs; the values are short, escaped, and empty where a side lacks it."""

    tag: str
    keyword: str  # empty: private, or not in the dictionary
    one: str = ""
    other: str = ""

    @property
    def name(self) -> str:
        """As it is listed."""
        return f"{self.keyword} {self.tag}".lstrip()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two files. `pixels`: equal, differ, or not compared (encoded otherwise, or one can't be read)."""

    pixels: str
    elements: list[Element]
    more: int = 0  # that differ and are not named
    trouble: str = ""  # why nothing, or not all, was compared

    def sentences(self, *, with_values: bool = False) -> Iterator[str]:
        """A line for each thing."""
        if self.trouble:
            yield self.trouble
        for each in self.elements:
            yield f"{each.name}: {each.one} | {each.other}" if with_values else each.name
        if self.more:
            yield f"and {self.more:,} more elements"
        yield f"pixels: {self.pixels}"

    def words(self, *, with_values: bool = False) -> str:
        """All of it in one cell."""
        return "; ".join(self.sentences(with_values=with_values))


def compare_files(one: str, other: str, *, with_values: bool = False) -> Comparison:
    """Two files by their paths, as they are now."""
    try:
        with Path(one).open("rb") as ours, Path(other).open("rb") as theirs:
            found = all_differences(ours, theirs)
            tags = found.tags[:_MOST]
            sides = [values(each, tags) for each in (ours, theirs)] if with_values else [{}, {}]
    except OSError as error:
        return Comparison("not compared", [], trouble=f"can't be read: {os.strerror(error.errno or 0)}")
    pixels = "differ" if found.pixels else "equal"
    trouble = "encoded otherwise (another transfer syntax)" if found.transfer_syntax else ""
    if not found.is_readable:
        trouble = "a data set can't be read to its end"
    return Comparison(
        "not compared" if trouble else pixels,
        [_element(tag, *(side.get(tag) for side in sides)) for tag in tags],
        len(found.tags) - len(tags),
        trouble,
    )


def _element(
    tag: int, one: tuple[bytes, bytes, int] | None, other: tuple[bytes, bytes, int] | None
) -> Element:
    from pydicom.datadict import keyword_for_tag

    name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return Element(name, keyword_for_tag(tag), _in_words(tag, one), _in_words(tag, other))


def _in_words(tag: int, value: tuple[bytes, bytes, int] | None) -> str:
    """Numbers as such, text as text; of all else how long it is."""
    if value is None:
        return ""
    vr, first, length = value
    vr = vr or _dictionary_vr(tag)
    if vr in _BYTES or length < 0:
        return f"{length:,} bytes" if length >= 0 else "a sequence"
    if form := _NUMBERS.get(vr):
        size = struct.calcsize(form)
        numbers = struct.unpack(f"<{len(first) // size}{form}", first[: len(first) // size * size])
        return "\\".join(f"{number:g}" if form in "fd" else str(number) for number in numbers)
    rest = "..." if length > len(first) else ""
    return escape(first.rstrip(b"\0 ").decode("utf-8", "replace")) + rest


def _dictionary_vr(tag: int) -> bytes:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)[:2].encode()
    except KeyError:
        return b"UN"
