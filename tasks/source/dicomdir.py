"""A DICOMDIR (PS3.3 F.3, PS3.10 8.6) held against what lies beside it: what it lists and is absent.

Its records are found by their bytes, whatever else of it is damaged or cut, in a time that its size bounds.
"""

# Paths are bytes, as in scan.py:
# ruff: noqa: PTH118, PTH123

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

_NAMES: Final = frozenset({b"DICOMDIR", b"DICOMDIR.", b"DICOMDIR;1", b"DICOMDIR.;1"})
_MOST_BYTES: Final = 64 << 20
_IS_INDEX: Final = (
    b"\x04\x00\x20\x12",
    b"\x00\x04\x12\x20",
    b"1.2.840.10008.1.3.10",
)  # its records, or its SOP class
# In one item of its records: a flag whether it is in use, at most what may stand between, the File ID.
_FLAG: Final = rb"(?:\x04\x00\x10\x14(?:US\x02\x00|\x02\x00\x00\x00)|\x00\x04\x14\x10US\x00\x02)(?P<flag>..)"
_FILE_ID: Final = (
    rb"\x04\x00\x00\x15(?:CS(?P<explicit>..)|(?P<implicit>..)\x00\x00)|\x00\x04\x15\x00CS(?P<swapped>..)"
)
_RECORD: Final = re.compile(rb"%b|%b" % (_FLAG, _FILE_ID), re.DOTALL)
_IN_ONE_ITEM: Final = 256  # bytes between flag and File ID: two short elements, and a UID of a private record
_NOT_IN_USE: Final = b"\0\0"
_SEPARATORS: Final = re.compile(rb"[\\/]")
_VERSION: Final = re.compile(rb"\.?;[0-9]+\Z|\.\Z")  # of ISO 9660
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_MOST_VALUE_BYTES: Final = 1024
_MOST_COMPONENTS: Final = 16  # the standard has 8 at most
_MOST_FILES: Final = 1_000_000

FileId = tuple[bytes, ...]  # its components


def is_dicomdir_name(name: bytes) -> bool:
    """Whether a file is called so, as media and copies of them write it."""
    return name[:8].upper() == b"DICOMDIR" and name.upper() in _NAMES


def absent_files(directory: bytes, name: bytes) -> list[bytes]:
    """The paths of files that a DICOMDIR lists and that are not there, in their order.

    Letters may differ in case, versions (`;1`) and a name's extension may be missing or more. What lies in
    a directory that can't be listed is not known to be absent; what is outside of the DICOMDIR's own is
    passed over.
    """
    try:
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:
        return []
    if not any(mark in data for mark in _IS_INDEX):
        return []
    beside = _Beside(directory)
    listed = {*islice(file_ids(data), _MOST_FILES)}
    return sorted(path for path in map(beside.absent_path, listed) if path)


def file_ids(data: bytes) -> Iterator[FileId]:
    """Those of its records that are in use; one that leads elsewhere is none."""
    flag, flag_end = b"", 0
    for found in _RECORD.finditer(data):
        if found["flag"] is not None:
            flag, flag_end = found["flag"], found.end()
            continue
        is_unused = flag == _NOT_IN_USE and found.start() - flag_end <= _IN_ONE_ITEM
        order: Literal["little", "big"] = "big" if found["swapped"] else "little"
        length = int.from_bytes(found["explicit"] or found["implicit"] or found["swapped"], order)
        value = data[found.end() : found.end() + min(length, _MOST_VALUE_BYTES)]
        if not is_unused and len(value) == length and (file_id := _components(value)):
            yield file_id


def _components(value: bytes) -> FileId | None:
    parts = [part.strip(b" ") for part in _SEPARATORS.split(value.rstrip(b"\0"))]
    parts = [part for part in parts if part not in (b"", b".")]
    is_inside = b".." not in parts and len(parts) <= _MOST_COMPONENTS
    return tuple(parts) if parts and is_inside and not _CONTROL.search(value.rstrip(b"\0")) else None


@dataclass(frozen=True, slots=True)
class _Listing:
    """What is in the directories of one name, by plain names. No place: there is no such directory."""

    places: Sequence[bytes]
    paths: Mapping[bytes, list[bytes]]
    stems: Set[bytes]

    def has(self, name: bytes) -> bool:
        """Whether a file of this name is there; one of both may lack an extension such as `.dcm`."""
        plain = _plain_name(name)
        stem, dot, _ = plain.rpartition(b".")
        return plain in self.paths or (stem in self.paths if dot else plain in self.stems)


class _Beside:
    """What lies beside a DICOMDIR: each directory that it names is listed once."""

    def __init__(self, directory: bytes) -> None:
        self._listings: dict[FileId, _Listing | None] = {(): _listing([directory])}

    def absent_path(self, file_id: FileId) -> bytes | None:
        """Where it would be; None when it is there, or that can't be known."""
        above, depth = self._listings[()], 0
        while above is not None and depth < len(file_id) - 1:
            below = self._below(above, tuple(map(_plain_name, file_id[: depth + 1])))
            if below is not None and not below.places:
                break
            above, depth = below, depth + 1
        is_there = depth == len(file_id) - 1 and above is not None and above.has(file_id[-1])
        if above is None or is_there:
            return None
        return os.path.join(above.places[0], *file_id[depth:])

    def _below(self, above: _Listing, directory: FileId) -> _Listing | None:
        if directory not in self._listings:
            paths = above.paths.get(directory[-1], [])
            self._listings[directory] = _listing([each for each in paths if os.path.isdir(each)])  # noqa: PTH112
        return self._listings[directory]


def _listing(places: Sequence[bytes]) -> _Listing | None:
    """None when one of them can't be listed."""
    paths: dict[bytes, list[bytes]] = {}
    try:
        for place in places:
            for name in os.listdir(place):  # noqa: PTH208
                paths.setdefault(_plain_name(name), []).append(os.path.join(place, name))
    except OSError:
        return None
    return _Listing(places, paths, {name.rpartition(b".")[0] for name in paths if b"." in name})


def _plain_name(name: bytes) -> bytes:
    return _VERSION.sub(b"", name).upper()
