"""One file's header, and the decision whether it is an instance (DICOM PS3.10, PS3.5 chapter 7).

pydicom reads element after element, keeps the few that identify the instance and seeks over the rest. A
callback sees each element before its value is passed over: there a file that ends too early shows, nothing is
parsed twice. Values of undefined length are jumped over (`core/dicom_items.py`), pixel data is never read.
Only pydicom's element reader is used: no warning, no log record and no global setting comes into play.

A missing final delimiter is tolerated where it is seen that nothing else is missing: in encapsulated pixel
data with an end for every frame, and after a whole item in the last sequence of an object without pixels.
"""

import codecs
import contextlib
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import BinaryIO, Final

from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.valuerep import STANDARD_VR

from tasks.core.dicom_items import (
    ITEM_DELIMITER,
    UNDEFINED_LENGTH,
    Encoding,
    Ending,
    fragments,
    is_vr,
    skip_items,
)
from tasks.core.models import ZEROS, Header, Reason, Rejected, Status

_MEDIA_STORAGE_SOP_CLASS: Final = 0x00020002
_TRANSFER_SYNTAX: Final = 0x00020010
_CHARACTER_SET: Final = 0x00080005
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_MODALITY: Final = 0x00080060
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_PIXELS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_TRAILERS: Final = (0xFFFAFFFA, 0xFFFCFFFC)  # digital signatures, data set trailing padding
_IDENTITY: Final = (_SOP_INSTANCE, _STUDY, _SERIES, _SOP_CLASS, _TRANSFER_SYNTAX)  # as in `Header`
_NEEDED: Final = (*_IDENTITY, _MEDIA_STORAGE_SOP_CLASS, _FRAMES, _ROWS)  # what an instance is judged by
_KEPT: Final[list[BaseTag | int]] = [*_NEEDED, _MODALITY]

_DICOMDIR_CLASS: Final = "1.2.840.10008.1.3.10"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_RLE: Final = "1.2.840.10008.1.2.5"
_JPEG: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(?:[5-9]\d|20\d)")  # JPEG, JPEG-LS, JPEG 2000, HTJ2K
_END_OF_IMAGE: Final = b"\xff\xd9"  # the same marker in all of them
_UID: Final = re.compile(r"[0-9.]{1,64}")
_CODE: Final = re.compile(r"[A-Za-z0-9_ ]{1,16}")  # PS3.5 6.2, CS; lower case is seen

_MAX_VALUE_BYTES: Final = 1024  # of an element that is kept: a UID has at most 64
_MAX_COST: Final = 5_000_000  # seconds of work, and more than real files have: headers of items, and ...
_ELEMENT_COST: Final = 10  # ... elements of the data set itself, which take longer
_MAX_KEPT_BYTES: Final = 8 << 20  # of an inflated data set
_MAX_INFLATED_BYTES: Final = 1 << 30
_CHUNK_BYTES: Final = 1 << 18
_LEADING_BYTES: Final = 1024

_BARE_STARTS: Final = (0, 1, 4, 128, 132)  # nothing, a padding byte, the prefix or the preamble before it
_FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # 0002, 0008, 0008 in big endian
_SYSTEM_NAMES: Final = frozenset(
    {".ds_store", ".localized", ".apdisk", ".directory", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
_ARCHIVE: Final = re.compile(
    rb"PK(?:\x03\x04|\x05\x06|\x07\x08)|\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|BZh[1-9]|\xfd7zXZ\0"
    rb"|\x28\xb5\x2f\xfd|.{257}ustar",
    re.DOTALL,
)


def examine(file: BinaryIO, size_bytes: int, name: str) -> Header | Rejected:
    """Decides whether a file is an instance. `file` is seekable and stands at 0; `name` is its base name.

    Time and memory are bounded for any content, and no content raises; an OSError of the file itself does.
    """
    if not size_bytes:
        return Rejected(Status.NOT_DICOM, Reason.EMPTY)
    head = file.read(_LEADING_BYTES)
    if head[128:132] == b"DICM":
        return _judge(_read(file, size_bytes, 132))
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):
        return Rejected(Status.NOT_DICOM, Reason.SYSTEM_FILE)
    if _is_zeros(head, file):
        return Rejected(Status.INVALID, Reason.TRUNCATED, detail=ZEROS)  # what a failed copy leaves
    if _ARCHIVE.match(head):
        return Rejected(Status.NOT_DICOM, Reason.ARCHIVE)
    if header := _bare_header(file, size_bytes, head):
        return Rejected(Status.INVALID, Reason.NO_PREAMBLE, header)
    return Rejected(Status.NOT_DICOM, Reason.TEXT if _is_text(head, size_bytes) else Reason.OTHER)


def _judge(walk: "_Walk") -> Header | Rejected:
    if _is_dicomdir(walk):
        return Rejected(Status.NOT_DICOM, Reason.DICOMDIR)
    header = walk.header()
    if walk.fault or walk.has_malformed_uid():
        return Rejected(Status.INVALID, walk.fault or Reason.MALFORMED, header)
    if header is None or not header.sop_instance_uid:
        return Rejected(Status.INVALID, Reason.NO_UID, header)
    return header


def _bare_header(file: BinaryIO, size_bytes: int, head: bytes) -> Header | None:
    """The header of a file whose preamble is missing or damaged: DICOM all the same."""
    for start in _BARE_STARTS:
        if head[start : start + 2] in _FIRST_GROUPS and (header := _read(file, size_bytes, start).header()):
            return header
    return None


def _is_zeros(head: bytes, file: BinaryIO) -> bool:
    blocks = iter(lambda: file.read(_CHUNK_BYTES), b"")
    return not head.strip(b"\0") and not any(block.strip(b"\0") for block in blocks)


def _is_text(head: bytes, size_bytes: int) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=size_bytes <= len(head))
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\n\f\r\ufeff" for char in text)


def _read(file: BinaryIO, size_bytes: int, start: int) -> "_Walk":
    """Walk the file meta information at `start` and the data set that follows."""
    walk = _Walk(file, size_bytes, start)
    walk.run(Encoding(explicit_vr=True, little_endian=True), group=0x0002)
    if _is_dicomdir(walk):
        return walk
    if walk.uid(_TRANSFER_SYNTAX) == _DEFLATED and not walk.fault:
        return _read_deflated(walk)
    return _read_data_set(walk)


def _is_dicomdir(walk: "_Walk") -> bool:
    return walk.uid(_MEDIA_STORAGE_SOP_CLASS) == _DICOMDIR_CLASS


def _read_data_set(walk: "_Walk") -> "_Walk":
    if walk.read_at(walk.end, 2) == b"\0\0":  # a command set, always implicit VR little endian (PS3.7 6.3.1)
        walk.run(Encoding(explicit_vr=False, little_endian=True), group=0x0000)
    walk.run(_encoding(walk.read_at(walk.end, 6), walk.uid(_TRANSFER_SYNTAX)))
    return walk


def _read_deflated(meta: "_Walk") -> "_Walk":
    """Walk an inflated data set. The end of the stream vouches for what is too long to keep."""
    data_set = _inflate(meta.file, meta.end)
    walk = _Walk(BytesIO(data_set.head), data_set.size_bytes, start=0)
    walk.values = meta.values
    _read_data_set(walk)
    if data_set.fault:
        walk.fault = data_set.fault
    elif walk.fault is Reason.TRUNCATED and data_set.size_bytes > len(data_set.head):
        walk.fault = Reason.NONE
    return walk


@dataclass(frozen=True, slots=True)
class _Inflated:
    head: bytes  # as much as is kept
    size_bytes: int
    fault: Reason


def _inflate(file: BinaryIO, start: int) -> _Inflated:
    """Inflate the rest of `file` (PS3.5 A.5), keep the head, count the rest; a bomb is malformed."""
    head, size_bytes = BytesIO(), 0
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    file.seek(start)
    try:
        while not inflater.eof and size_bytes <= _MAX_INFLATED_BYTES:
            deflated = inflater.unconsumed_tail or file.read(_CHUNK_BYTES)
            block = inflater.decompress(deflated, _CHUNK_BYTES)
            if not block and not deflated:
                return _Inflated(head.getvalue(), size_bytes, Reason.TRUNCATED)
            if size_bytes < _MAX_KEPT_BYTES:
                head.write(block)
            size_bytes += len(block)
    except zlib.error:
        return _Inflated(head.getvalue(), size_bytes, Reason.MALFORMED)
    return _Inflated(head.getvalue(), size_bytes, Reason.NONE if inflater.eof else Reason.MALFORMED)


def _encoding(head: bytes, transfer_syntax_uid: str) -> Encoding:
    """How the data set that starts with `head` is written; as in pydicom, its first VR beats the syntax."""
    explicit_vr = is_vr(head[4:6])
    if transfer_syntax_uid:
        return Encoding(explicit_vr, little_endian=transfer_syntax_uid != _BIG_ENDIAN)
    swapped = explicit_vr and int.from_bytes(head[:2], "little") >= 0x0400  # group 0008 reads as 0800
    return Encoding(explicit_vr, little_endian=not swapped)


class _Walk:
    """Reads a file element by element: what identifies it, and what is wrong with it."""

    def __init__(self, file: BinaryIO, size_bytes: int, start: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.end = start  # of the last whole element
        self.values: dict[int, bytes] = {}
        self.fault = Reason.NONE
        self._tell = file.tell
        self._budget = _MAX_COST
        self._last_tag = -1
        self._past_pixels = False
        self._done = False
        self._items_start: int | None = None

    def run(self, encoding: Encoding, group: int | None = None) -> None:
        """Go on to the end of `group`, or of the data set, or to a fault."""
        self._encoding, self._group = encoding, group
        self._fast_until = _PIXELS[0] if group is None else (group + 1) << 16
        self._last_tag = -1 if group is None else (group << 16) - 1
        self._done = bool(self.fault)
        while not self._done:
            self._read_elements()
            if self._items_start is not None:
                self._skip_items(self._items_start)
            if self._budget <= 0:
                self._finish(Reason.MALFORMED)

    def _read_elements(self) -> None:
        """Let pydicom read until `_stop` says so, the file ends, or an item delimiter goes astray."""
        self._items_start, self._stopped = None, False
        self._budget -= _ELEMENT_COST
        self.file.seek(self.end)
        elements = data_element_generator(
            self.file,
            not self._encoding.explicit_vr,
            self._encoding.little_endian,
            stop_when=self._stop,
            specific_tags=_KEPT,
        )
        # struct.error: the file ends with the first 8 to 11 bytes of a 12-byte header
        with contextlib.suppress(struct.error):
            self.values.update((element.tag, element.value or b"") for element in elements)
        if not self._stopped:
            self._reached_end()

    def _stop(self, base_tag: BaseTag, vr: str | None, length: int) -> bool:
        """Called by pydicom before each value: whether it must not go on. The common case comes first."""
        tag = int(base_tag)
        end = self._tell() + length
        self._budget -= _ELEMENT_COST
        if (
            self._last_tag < tag < self._fast_until
            and end <= self.size_bytes
            and length <= _MAX_VALUE_BYTES
            and tag != _CHARACTER_SET
            and self._budget > 0
        ):
            self._last_tag, self.end = tag, end
            return False
        self._stopped = self._is_stop(tag, vr, length, end)
        return self._stopped

    def _is_stop(self, tag: int, vr: str | None, length: int, end: int) -> bool:
        if self._group is not None and tag >> 16 != self._group:
            return self._finish()
        if self._past_pixels and not self._is_trailer(tag, vr):
            return self._finish()
        if tag == 0 and length == 0:
            return self._finish(self._tail_fault())
        if self._budget <= 0 or (tag in _NEEDED and length > _MAX_VALUE_BYTES):
            return self._finish(Reason.MALFORMED)
        if length == UNDEFINED_LENGTH:
            self._items_start = end - length
        elif end > self.size_bytes:
            return self._finish(Reason.MALFORMED if tag < self._last_tag else Reason.TRUNCATED)
        else:
            self.end = end
        self._last_tag = tag
        self._past_pixels |= tag in _PIXELS
        # pydicom would decode the character set, and warn of unknown ones: pass over it instead, and over a
        # modality of any length that it would read
        return (
            tag == _CHARACTER_SET
            or length == UNDEFINED_LENGTH
            or (tag == _MODALITY and length > _MAX_VALUE_BYTES)
        )

    def _finish(self, fault: Reason = Reason.NONE) -> bool:
        self.fault = fault
        self._done = True
        return True

    def _is_trailer(self, tag: int, vr: str | None) -> bool:
        """Whether an element may follow the pixel data: one that is clearly neither padding nor garbage."""
        if tag in _TRAILERS:
            return True
        if tag <= self._last_tag:
            return False
        if self._encoding.explicit_vr and vr in STANDARD_VR:
            return True
        is_creator = 0x10 <= tag & 0xFFFF <= 0xFF
        return tag >> 16 & 1 == 1 and (is_creator or tag >> 16 == self._last_tag >> 16)

    def _skip_items(self, start: int) -> None:
        items = skip_items(self.read_at, start, self.size_bytes, self._encoding, self._budget)
        self._budget -= items.headers
        self.end = items.end
        if items.ending is Ending.LOST:
            self._finish(Reason.MALFORMED)
        elif items.ending is Ending.CUT or (items.ending is Ending.OPEN and not self._lacks_nothing(start)):
            self._finish(Reason.TRUNCATED)
        elif items.ending is Ending.OPEN:
            self._finish()

    def _lacks_nothing(self, items_start: int) -> bool:
        """Whether a value that ends without delimiter is whole all the same."""
        if self._last_tag not in _PIXELS:
            return self._may_end()
        values = islice(fragments(self.read_at, items_start, self.end, self._encoding), 1, None)
        return sum(map(self._frame_end(), values)) >= self._frames()

    def _frame_end(self) -> Callable[[tuple[int, int]], bool]:
        """How to recognise a fragment that ends a frame; where it can't be, as in video, none does."""
        syntax = self.uid(_TRANSFER_SYNTAX)
        if _JPEG.fullmatch(syntax):
            return self._has_end_of_image
        return lambda _fragment: syntax == _RLE  # one fragment, one frame (PS3.5 A.4.2)

    def _has_end_of_image(self, fragment: tuple[int, int]) -> bool:
        start, end = fragment
        return _END_OF_IMAGE in self.read_at(
            max(start, end - 4), min(4, end - start)
        )  # a pad byte may follow

    def _frames(self) -> int:
        digits = re.match(rb" *(\d{1,10})", self.values.get(_FRAMES, b""))
        return max(1, int(digits[1])) if digits else 1

    def _may_end(self) -> bool:
        """Whether all may be there: the pixels are, or none are due and we are past where images say so."""
        return self._past_pixels or (self._last_tag > _ROWS and _ROWS not in self.values)

    def _reached_end(self) -> None:
        delimiter = self.read_at(self.end, 8)
        if len(delimiter) == 8 and self._encoding.tag(delimiter) == ITEM_DELIMITER:
            self.end += 8
        else:
            self._finish(self._tail_fault())

    def _tail_fault(self) -> Reason:
        """What the bytes after the last whole element are: padding, or the start of another element."""
        tail = self.read_at(self.end, 4096)
        if self._past_pixels:
            return Reason.TRUNCATED if self._starts_trailer(tail) else Reason.NONE
        # one zero byte may be the first of a group number; more are none
        padding = len(tail) > 1 and not any(tail) and self._may_end()
        return Reason.NONE if padding or not tail else Reason.TRUNCATED

    def _starts_trailer(self, tail: bytes) -> bool:
        if len(tail) >= 4:
            return self._is_trailer(self._encoding.tag(tail), tail[4:6].decode("latin-1"))
        return bool(tail) and any(
            start.startswith(tail)
            for start in (b"\xfa\xff\xfa", b"\xfc\xff\xfc", b"\xff\xfa\xff", b"\xff\xfc\xff")
        )

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end."""
        self.file.seek(offset)
        return self.file.read(count)

    def uid(self, tag: int) -> str:
        """A UID that was read, without its padding; empty when it is missing or none (PS3.5 9.1)."""
        text = self.values.get(tag, b"").decode("latin-1").rstrip("\0 ")
        return text if _UID.fullmatch(text) else ""

    def header(self) -> Header | None:
        """The UIDs that were read; None when there are none of the data set's."""
        uids = [self.uid(tag) for tag in _IDENTITY]
        return Header(*[*uids, self.modality()]) if any(uids[:-1]) else None

    def modality(self) -> str:
        """The modality that was read; empty when it is missing or no code string."""
        text = self.values.get(_MODALITY, b"").decode("latin-1").strip("\0 ")
        return text if _CODE.fullmatch(text) else ""

    def has_malformed_uid(self) -> bool:
        """Whether one of the UIDs that identify the instance is there and is no UID."""
        return any(self.values.get(tag, b"").rstrip(b"\0 ") and not self.uid(tag) for tag in _IDENTITY)
