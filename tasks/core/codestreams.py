"""Whether encapsulated pixel data without its last delimiter has every frame (DICOM PS3.5 A.4).

A fragment is whole by its length; that the last one was not followed by others only the frames can say. A
frame of the JPEG family ends with the marker EOI (FFD9), after which a fragment may be padded: with any
number of zeros, FF or blanks, or of another byte. RLE, and frames that are encapsulated as they are or
deflated, have one fragment for each frame. A JPEG XL codestream has no marker for its end, but one for its
start: there each frame that is due must have begun, and the file must not end within a fragment. Of
anything else, as of video, nothing is known.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from itertools import chain
from typing import Final

from tasks.core.dicom_elements import ReadAt

_JPEG: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(?:[5-9]\d|20\d)")  # JPEG, JPEG-LS, JPEG 2000, HTJ2K
_JPEG_XL: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.11[0-2]")
_FRAME_BY_FRAME: Final = frozenset({"1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"})
_STARTS_OF_JPEG: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # JPEG 2000 is the second
_STARTS_OF_JPEG_XL: Final = (b"\xff\x0a", b"\0\0\0\x0cJXL ")  # bare, and in a container
END_OF_IMAGE: Final = b"\xff\xd9"
_PADDING: Final = b"\0\xff "
_MOST_AT_ONCE: Final = 1 << 16

Fragment = tuple[int, int]  # offsets of its first byte, and after its last


def has_all_frames(
    read_at: ReadAt, syntax: str, fragments: Iterator[Fragment], frames: int, *, is_filled: bool
) -> bool:
    """Whether these fragments, without the basic offset table, hold so many frames.

    `is_filled`: the last ends with zeros that may stand in place of a frame's; where a mark shows its end,
    they are padding.
    """
    first = next(fragments, (0, 0))
    kind = _kind(syntax, read_at(first[0], min(8, first[1] - first[0])))
    if first == (0, 0) or (is_filled and kind is not _Kind.JPEG):
        return False
    return sum(_MARKS[kind](read_at, *fragment) for fragment in chain((first,), fragments)) >= frames


class _Kind(Enum):
    JPEG = auto()
    JPEG_XL = auto()
    FRAME_BY_FRAME = auto()
    OTHER = auto()


def _kind(syntax: str, head: bytes) -> _Kind:
    """What the first fragment is: its bytes say so where they contradict the transfer syntax."""
    if syntax in _FRAME_BY_FRAME:
        return _Kind.FRAME_BY_FRAME
    if head.startswith(_STARTS_OF_JPEG):
        return _Kind.JPEG
    if head.startswith(_STARTS_OF_JPEG_XL) or _JPEG_XL.fullmatch(syntax):
        return _Kind.JPEG_XL
    return _Kind.JPEG if _JPEG.fullmatch(syntax) else _Kind.OTHER


def _ends_image(read_at: ReadAt, start: int, end: int) -> bool:
    """Whether the marker is the last but what pads it: a run of bytes, and perhaps one more before them.

    A picture within the image (APP1 has them) ends with the marker, too: there, no padding follows.
    """
    last = read_at(end - 1, 1) if start < end else b""
    padding = _PADDING if last == END_OF_IMAGE[1:] else _PADDING + last
    count = 4
    while start < end:
        at = max(start, end - count)
        tail = read_at(at, end - at)
        if kept := tail.rstrip(padding):
            if len(kept) < 3 and at > start:  # the marker may begin in what was not read
                at = max(start, at - 4)
                kept = read_at(at, end - at).rstrip(padding)
            return END_OF_IMAGE in kept[-3:]
        end, count = at, min(count * 16, _MOST_AT_ONCE)
    return False


_MARKS: Final[
    Mapping[_Kind, Callable[[ReadAt, int, int], bool]]
] = {  # whether it ends a frame, or begins one
    _Kind.JPEG: _ends_image,
    _Kind.JPEG_XL: lambda read_at, start, _end: read_at(start, 8).startswith(_STARTS_OF_JPEG_XL),
    _Kind.FRAME_BY_FRAME: lambda _read_at, _start, _end: True,
    _Kind.OTHER: lambda _read_at, _start, _end: False,
}
