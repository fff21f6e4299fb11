"""The one part of a multipart answer, read as it comes (RFC 2046, 5.1; PS3.18, 8.6): nothing is held."""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

_MOST_HEAD_BYTES: Final = 16 * 1024  # of a part, and what stands before the first one
_LINE_END: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_TYPE: Final = re.compile(rb"(?:\A|\r\n)content-type:[ \t]*([^\r\n;]*)", re.IGNORECASE)

_BOUNDARY: Final = re.compile(
    r""";[ \t]*boundary=(?:"([ -!#-~]{1,70})"|([^\s;",]{1,70}))[ \t]*(?:;|,|\Z)""", re.IGNORECASE
)


class WrongPartsError(ValueError):
    """No multipart body with exactly one part of DICOM; `str` is a clause that says why."""


class _At(Enum):
    """Where the reader is."""

    BEFORE = auto()  # the first delimiter
    DELIMITER = auto()  # behind one
    HEAD = auto()
    BODY = auto()
    END = auto()


def boundary_of(content_type: str) -> str:
    """Of a multipart/related answer, as its header says; empty for another media type or none."""
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() != "multipart/related":
        return ""
    found = _BOUNDARY.search(f";{parameters}")
    return (found[1] or found[2] or "") if found else ""


class PartReader:
    """Gives the bytes of the one part to `write`. Raises WrongPartsError for what is no such body."""

    def __init__(self, boundary: str, write: Callable[[bytes], object]) -> None:
        self._delimiter = f"\r\n--{boundary}".encode()
        self._write = write
        self._at = _At.BEFORE
        self._parts = 0
        self._buffer = bytearray(_LINE_END)  # as if a line had ended before: the first delimiter starts it

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self._buffer += data
        while self._at is not _At.END and self._step():
            pass

    def finish(self) -> None:
        """Raises unless the closing delimiter has come."""
        if self._at is not _At.END:
            raise WrongPartsError("ends before its last delimiter")

    def _step(self) -> bool:
        """Whether there may be another step with what is there."""
        steps = {
            _At.BEFORE: self._skip_preamble,
            _At.DELIMITER: self._pass_delimiter,
            _At.HEAD: self._read_head,
            _At.BODY: self._pass_body,
        }
        return steps[self._at]()

    def _skip_preamble(self) -> bool:
        found = self._buffer.find(self._delimiter)
        if found < 0:
            self._check_bound("has no delimiter")
            return False
        self._enter(_At.DELIMITER, found + len(self._delimiter))
        return True

    def _pass_delimiter(self) -> bool:
        if self._buffer.startswith(b"--"):
            if not self._parts:
                raise WrongPartsError("has no part")
            self._enter(_At.END, len(self._buffer))
            return False
        end = self._buffer.find(_LINE_END)
        if end < 0:
            self._check_bound("has a delimiter without end")
            return False
        if self._buffer[:end].strip(b" \t"):
            raise WrongPartsError("has a delimiter that is none")
        self._parts += 1
        if self._parts > 1:
            raise WrongPartsError("has several parts")
        self._enter(_At.HEAD, end)  # so that an empty head ends, too
        return True

    def _read_head(self) -> bool:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            self._check_bound("has a part without end of its head")
            return False
        said = _TYPE.search(bytes(self._buffer[:end]))
        if said and said[1].strip().lower() != b"application/dicom":
            raise WrongPartsError("has a part that is not application/dicom")
        self._enter(_At.BODY, end + len(_HEAD_END))
        return True

    def _pass_body(self) -> bool:
        found = self._buffer.find(self._delimiter)
        is_end = found >= 0
        sure = found if is_end else len(self._buffer) - len(self._delimiter)
        if sure > 0:
            self._write(bytes(self._buffer[:sure]))
        if is_end:
            self._enter(_At.DELIMITER, found + len(self._delimiter))
        elif sure > 0:
            del self._buffer[:sure]
        return is_end

    def _enter(self, at: _At, used_bytes: int) -> None:
        del self._buffer[:used_bytes]
        self._at = at

    def _check_bound(self, what: str) -> None:
        if len(self._buffer) > _MOST_HEAD_BYTES:
            raise WrongPartsError(what)
