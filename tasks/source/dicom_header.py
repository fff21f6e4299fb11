"""One file's header, and the decision whether it is an instance (DICOM PS3.10 chapter 7, PS3.5 chapter 7).

`data_set_walk.py` reads element after element, by rules of our own (`core/dicom_elements.py`): pydicom's
reader takes odd bytes for something else without a word, and a file that ends too early for a whole one.
"""

import codecs
import re
from dataclasses import replace
from struct import pack
from typing import BinaryIO, Final

from tasks.core.dicom_elements import Encoding, encoding_at, is_vr
from tasks.core.models import ZEROS, Flaw, Header, Reason, Rejected, Status
from tasks.source.data_set_walk import (
    DIRECTORY_RECORDS,
    IDENTITY,
    MEDIA_STORAGE_SOP_CLASS,
    META_LENGTH,
    MODALITY,
    RECOGNITION_CODE,
    TRANSFER_SYNTAX,
    Walk,
    walk_of,
)
from tasks.source.inflation import DEFLATED_SYNTAXES, Inflated, inflate

_DICOMDIR_CLASS: Final = "1.2.840.10008.1.3.10"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_CODE: Final = re.compile(r"[A-Za-z0-9_ ]{1,16}")  # PS3.5 6.2, CS; lower case is seen
_CHUNK_BYTES: Final = 1 << 18
_LEADING_BYTES: Final = 1024
_PROBED_BYTES: Final = 1 << 16
_META: Final = Encoding(explicit_vr=True, little_endian=True)
_COMMAND: Final = Encoding(explicit_vr=False, little_endian=True)  # PS3.7 6.3.1
_COMMAND_LENGTH: Final = b"\0\0\0\0\4\0\0\0"  # the head of its first element

_BARE_STARTS: Final = (0, 1, 4, 128, 132)  # nothing, a padding byte, the prefix or the preamble before it
_FIRST_GROUPS: Final = (
    b"\x02\x00",
    b"\x04\x00",
    b"\x08\x00",
    b"\x00\x04",
    b"\x00\x08",
)  # the last two: big endian
_LATER_GROUPS: Final = frozenset(  # of what lacks its first groups, or has a command's before them
    pack(order, group) for order in ("<H", ">H") for group in (0x0000, 0x0010, 0x0018, 0x0020, 0x0028)
)
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
    if bare := _judge_bare(file, size_bytes, head):
        return bare
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):
        return Rejected(Status.NOT_DICOM, Reason.SYSTEM_FILE)
    file.seek(len(head))
    if _is_zeros(head, file):
        return Rejected(Status.INVALID, Reason.TRUNCATED, detail=ZEROS)  # what a failed copy leaves
    if _ARCHIVE.match(head):
        return Rejected(Status.NOT_DICOM, Reason.ARCHIVE)
    return Rejected(Status.NOT_DICOM, Reason.TEXT if _is_text(head, size_bytes) else Reason.OTHER)


def _judge(walk: Walk) -> Header | Rejected:
    header = _header(walk)
    if _is_dicomdir(walk):
        return Rejected(Status.NOT_DICOM, Reason.DICOMDIR)
    flaw = walk.flaw or (Flaw.NO_UID_AT_ALL if _has_malformed_uid(walk) else Flaw.NONE)
    if flaw:
        return Rejected(Status.INVALID, flaw.reason, header, detail=flaw)
    if header is None or not header.sop_instance_uid:
        return Rejected(Status.INVALID, Reason.NO_UID, header)
    return header


def _judge_bare(file: BinaryIO, size_bytes: int, head: bytes) -> Rejected | None:
    """Of a file whose preamble is missing or damaged: DICOM all the same, and an image unless it is an index.

    None: it is none. ACR-NEMA's files have neither preamble nor UIDs.
    """
    for start in _BARE_STARTS:
        first = head[start : start + 2]
        if first not in _FIRST_GROUPS and first not in _LATER_GROUPS:
            continue
        walk = _read(file, size_bytes, start)
        if first not in _FIRST_GROUPS and not (walk.is_image and _looks_like_data_set(walk, start)):
            continue
        found = _judge(walk)
        header = found if isinstance(found, Header) else found.header
        if header or _looks_like_data_set(walk, start):
            if isinstance(found, Header) or found.reason is Reason.NO_UID:
                return Rejected(Status.INVALID, Reason.NO_PREAMBLE, header)
            return replace(found, reasons=frozenset({Reason.NO_PREAMBLE}))
    return None


def _looks_like_data_set(walk: Walk, start: int) -> bool:
    """Whether it has ACR-NEMA's recognition code, or two well-formed elements one after the other."""
    if walk.text(RECOGNITION_CODE).startswith("ACR-NEMA"):
        return True
    return encoding_at(walk.read_at, start, walk.size_bytes) is not None


def _is_zeros(head: bytes, file: BinaryIO) -> bool:
    blocks = iter(lambda: file.read(_CHUNK_BYTES), b"")
    return not head.strip(b"\0") and not any(block.strip(b"\0") for block in blocks)


def _is_text(head: bytes, size_bytes: int) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=size_bytes <= len(head))
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\n\f\r\ufeff" for char in text)


def _read(file: BinaryIO, size_bytes: int, start: int, *, is_second: bool = False) -> Walk:
    """Walk the file meta information at `start` and the data set that follows."""
    walk = Walk(file, size_bytes, start)
    walk.run(_META, group=0x0002)
    if walk.flaw:
        return walk
    _skip_rest_of_meta(walk, start)
    if not is_second and walk.read_at(walk.end + 128, 4) == b"DICM":
        walk = _read(file, size_bytes, walk.end + 132, is_second=True)
        walk.flaw = walk.flaw or Flaw.SECOND_PREAMBLE
        return walk
    if inflated := _inflated(walk):
        return _read_inflated(walk, inflated)
    return _read_data_set(walk)


def _skip_rest_of_meta(walk: Walk, start: int) -> None:
    """Past what can't be read of the file meta information, where its length leads to a data set."""
    end = start + 12 + int.from_bytes(walk.values.get(META_LENGTH, b"")[:4], "little")
    if walk.end < end < walk.size_bytes and not encoding_at(walk.read_at, walk.end, walk.size_bytes):
        walk.end = end if encoding_at(walk.read_at, end, walk.size_bytes) else walk.end


def _read_data_set(walk: Walk) -> Walk:
    if walk.read_at(walk.end, 8) == _COMMAND_LENGTH:
        walk.run(_COMMAND, group=0x0000)
    walk.run(_encoding(walk))
    return walk


def _inflated(meta: Walk) -> Inflated | None:
    """The data set, when it is deflated: its bytes say so where they contradict the transfer syntax."""
    is_named = meta.text(TRANSFER_SYNTAX) in DEFLATED_SYNTAXES
    may_be_plain = 0 in meta.read_at(meta.end, 2)  # of a group, in either byte order
    if may_be_plain and (not is_named or encoding_at(meta.read_at, meta.end, meta.size_bytes)):
        return None
    if is_named:
        return inflate(meta.file, meta.end)
    probe = inflate(meta.file, meta.end, _PROBED_BYTES)
    held = walk_of(probe.head, max(probe.size_bytes, 1), meta)
    if len(probe.head) < 8 or encoding_at(held.read_at, 0, probe.size_bytes) is None:
        return None
    return inflate(meta.file, meta.end)


def _read_inflated(meta: Walk, inflated: Inflated) -> Walk:
    """Walk an inflated data set. The end of the stream vouches for what is too long to keep."""
    walk = _read_data_set(walk_of(inflated.head, inflated.size_bytes, meta))
    if inflated.flaw:
        walk.flaw = inflated.flaw
    return walk


def _encoding(walk: Walk) -> Encoding:
    """How the data set is written: its bytes say it, and where it is cut too early its first ones do."""
    head = walk.read_at(walk.end, 8)
    syntax = walk.uid(TRANSFER_SYNTAX)
    named = Encoding(explicit_vr=is_vr(head[4:6]), little_endian=syntax != _BIG_ENDIAN)
    if found := encoding_at(walk.read_at, walk.end, walk.size_bytes, named, any_vr=True):
        return found
    group = int.from_bytes(head[:2], "little")
    if group & 0xFF and not group >> 8:
        return Encoding(named.explicit_vr, little_endian=True)
    return named if group & 0xFF else Encoding(named.explicit_vr, little_endian=False)


def _is_dicomdir(walk: Walk) -> bool:
    """Whether it is the index of a disc: it has its records (PS3.3 F.3), or says so and is no image."""
    if walk.is_image:
        return False
    return DIRECTORY_RECORDS in walk.values or walk.uid(MEDIA_STORAGE_SOP_CLASS) == _DICOMDIR_CLASS


def _header(walk: Walk) -> Header | None:
    """The UIDs that were read; None when there are none of the data set's."""
    uids = [walk.uid(tag) for tag in IDENTITY]
    return Header(*[*uids, _modality(walk)]) if any(uids[:-1]) else None


def _modality(walk: Walk) -> str:
    """The modality that was read; empty when it is missing or no code string."""
    text = walk.text(MODALITY)
    return text if _CODE.fullmatch(text) else ""


def _has_malformed_uid(walk: Walk) -> bool:
    """Whether one of the UIDs that identify the instance is there and is no UID."""
    return any(walk.text(tag) and not walk.uid(tag) for tag in IDENTITY)
