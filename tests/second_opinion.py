"""DICOM files of three packages, damaged ones made of them, and what pydicom and DCMTK read of each.

An opinion is whether a reader comes to the last pixel byte; where there are no pixels, to the end.
"""

import importlib.util
import os
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.valuerep import STANDARD_VR

PACKAGES: Final = {
    "pydicom": ("data/test_files", "data/charset_files"),
    "pynetdicom": ("tests/dicom_files",),
    "data_store": ("data",),  # of pydicom-data
}
_PIXELS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DELIMITERS: Final = (b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0")
_SEQUENCE_ENDS: Final = (b"\xfe\xff\xdd\xe0\0\0\0\0", b"\xff\xfe\xe0\xdd\0\0\0\0")
_ODD_VRS: Final = (b"--", b"  ", b"??", b"lo", b"\0\0", b"ZZ", b"\xff\xff", b"UN", b"OB")
_VR: Final = re.compile(rb"AE|AS|AT|CS|DA|DS|FD|IS|LO|LT|OB|OW|PN|SH|SL|SQ|SS|ST|TM|UI|UL|UN|US|UT")
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was shipped. `last_bytes`: of its pixels, or of all where it has none."""

    content: bytes
    has_pixels: bool
    last_bytes: bytes


def originals(most_bytes: int) -> list[Original]:
    """Every file of the three packages that is DICOM and not larger."""
    found = []
    for package, folders in PACKAGES.items():
        (root,) = importlib.util.find_spec(package).submodule_search_locations or ()  # type: ignore[union-attr]
        paths = (path for folder in folders for path in sorted((Path(root) / folder).rglob("*")))
        found += [_original(path.read_bytes()) for path in paths if _is_dicom(path, most_bytes)]
    return found


def _is_dicom(path: Path, most_bytes: int) -> bool:
    is_one = path.is_file() and path.suffix in {".dcm", ""} and 300 < path.stat().st_size <= most_bytes
    return is_one and b"\0" in path.read_bytes()[:300]


def _original(content: bytes) -> Original:
    raw = _raw_elements(content) or {}
    ends = [_end_of(raw[tag]) for tag in _PIXELS if tag in raw]
    end = max(ends, default=len(content.removesuffix(_DELIMITERS[1]).removesuffix(_DELIMITERS[0])))
    return Original(content, bool(ends), content[max(0, end - 40) : end - 8])


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file with one damage or two. `may_lack`: one of them took something away from its end."""

    content: bytes
    original: Original
    may_lack: bool = False


def damaged(files: list[Original], count: int, seed: int) -> Iterator[Damaged]:
    """So many, the same for the same seed."""
    random = Random(seed)
    for _ in range(count):
        original = random.choice(files)
        content = original.content
        damages = random.choices(_DAMAGES, k=random.choice((1, 1, 1, 2)))
        for damage in damages:
            content = damage(content, random)
        yield Damaged(content, original, not _AT_THE_END.isdisjoint(damages))


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(140, len(content) + 1)] if len(content) > 140 else content


def _cut_the_end(content: bytes, random: Random) -> bytes:
    return content[: -random.randrange(1, 40)]


def _change(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randrange(1, 4)):
        changed[_in_header(content, random)] = random.choice(
            (0, 1, 2, 0x41, 0x7F, 0x80, 0xFF, random.randrange(256))
        )
    return bytes(changed)


def _change_a_vr(content: bytes, random: Random) -> bytes:
    found = [match.start() for match in _VR.finditer(content[132:6000])]
    if not found:
        return content
    at = 132 + random.choice(found)
    return content[:at] + random.choice(_ODD_VRS) + content[at + 2 :]


def _insert(content: bytes, random: Random) -> bytes:
    at = _in_header(content, random)
    return content[:at] + random.randbytes(random.randrange(1, 9)) + content[at:]


def _remove(content: bytes, random: Random) -> bytes:
    at = _in_header(content, random)
    return content[:at] + content[at + random.randrange(1, 9) :]


def _append(content: bytes, random: Random) -> bytes:
    size = random.randrange(4, 600)
    return content + random.choice((bytes(size), random.randbytes(size), b"\x2b\xff\x14\0" * size))


def _change_a_delimiter(content: bytes, random: Random) -> bytes:
    found = [match.start() for match in re.finditer(b"\xfe\xff[\x0d\xdd]\xe0\0{4}", content)]
    if not found:
        return content
    at = random.choice(found)
    return content[:at] + random.choice((b"", *_DELIMITERS)) + content[at + 8 :]


def _blank(content: bytes, random: Random) -> bytes:
    at = random.randrange(132, max(133, len(content)))
    size = random.choice((8, 64, 512, len(content)))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def _in_header(content: bytes, random: Random) -> int:
    return random.randrange(128, max(129, min(len(content), 3000)))


_DAMAGES: Final[tuple[Callable[[bytes, Random], bytes], ...]] = (
    _cut,
    _cut_the_end,
    _change,
    _change,
    _change_a_vr,
    _insert,
    _remove,
    _append,
    _change_a_delimiter,
    _blank,
)


_AT_THE_END: Final = frozenset({_cut, _cut_the_end, _blank})


def pydicom_reads(content: bytes, *, has_pixels: bool) -> bool:
    """Whether pydicom comes to the last pixel byte: it raises nothing, and no value is shorter than it says.

    What stands behind the pixels has to be whole, too, unless it is garbage.
    """
    raw = _raw_elements(content)
    if raw is None:
        return False
    if has_pixels:
        asked = [element for tag, element in raw.items() if tag in _PIXELS or _is_trailer(tag, element)]
        return any(tag in raw for tag in _PIXELS) and all(_is_whole(element, content) for element in asked)
    return ends_between_elements(content)


def _raw_elements(content: bytes) -> dict[int, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True)
            return {int(tag): dataset.get_item(tag) for tag in dataset.keys()}  # noqa: SIM118 - no dict
        except Exception:  # noqa: BLE001 - it raises what it likes, of damaged files
            return None


def ends_between_elements(content: bytes) -> bool:
    """Whether the file ends with a whole element, and not with zeros: nothing says that there was more."""
    elements = (_raw_elements(content) or {}).values()
    whole = all(_is_whole(element, content) for element in elements)
    return whole and any(content[-8:]) and max(map(_end_of, elements), default=0) == len(content)


def _is_whole(element: Any, content: bytes) -> bool:
    """A value is as long as it says, pixels are some; of one of undefined length, the delimiter is there."""
    value = element.value or b""
    if not isinstance(element, RawDataElement) or not isinstance(value, bytes):
        return True
    end = element.value_tell + len(value)
    is_whole = len(value) == element.length or content[end : end + 8] in _SEQUENCE_ENDS
    return is_whole and (bool(value) or element.tag not in _PIXELS)


def _is_trailer(tag: int, element: Any) -> bool:
    """Signatures, padding and private elements behind the pixels: not garbage, so they are not to be cut."""
    is_private = tag > max(_PIXELS) and bool(tag & 0x10000) and tag >> 16 != 0xFFFF
    return tag in (0xFFFAFFFA, 0xFFFCFFFC) or (is_private and element.VR in STANDARD_VR)


def _end_of(element: Any) -> int:
    if isinstance(element, RawDataElement):
        return element.value_tell + len(element.value or b"")
    return element.file_tell if element.VR != "SQ" and element.is_empty else 0


def dcmtk_reads(paths: list[Path], has_pixels: list[bool]) -> Iterator[bool]:
    """Whether dcmdump reads each of these files without an error, pixels included where they are due.

    Zeros in place of the rest are elements to it.
    """
    first = 0
    while first < len(paths):
        several = slice(first, first + _AT_ONCE)
        dumped = _dumped(paths[several])
        for path, is_due in islice(zip(paths[several], has_pixels[several], strict=True), dumped.count):
            is_at_the_end = path in dumped.with_pixels or not (is_due or _ends_in_zeros(path))
            yield is_at_the_end and path not in dumped.failed
        first += dumped.count


def _ends_in_zeros(path: Path) -> bool:
    return not any(path.read_bytes()[-8:])


@dataclass(frozen=True, slots=True)
class _Dumped:
    """Of how many files dcmdump tells, in which it fails, and in which it finds pixels at the top level."""

    count: int
    failed: set[Path]
    with_pixels: set[Path]


def _dumped(paths: list[Path]) -> _Dumped:
    searched = [argument for tag in ("7FE0,0008", "7FE0,0009", "7FE0,0010") for argument in ("+P", tag)]
    done = subprocess.run(["dcmdump", "-M", "+p", "+F", *searched, *paths], capture_output=True, check=False)
    count, with_pixels = 0, set()
    for line in done.stdout.splitlines():
        if line.startswith(b"# dcmdump"):
            count += 1
        elif line.lower().startswith(b"(7fe0,00") and b"#=0)" not in line:
            with_pixels.add(paths[count - 1])
    failed = {Path(os.fsdecode(path)) for path in re.findall(rb"reading file: (\S+)", done.stderr)}
    if done.returncode < 0:  # it broke down at the last one
        failed.add(paths[count - 1])
    return _Dumped(count, failed, with_pixels)
