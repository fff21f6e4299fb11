"""The body of a STOW-RS request: multipart/related (RFC 2387; PS3.18, 8.6), its instances byte for byte.

Pieces are passed on as they are given, never joined; the size is known before the first one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tasks.core.errors import Fault, FaultKind

MOST_INSTANCES: Final = 100  # in one request
MOST_BYTES: Final = 256 * 1024 * 1024
_HEAD: Final = "\r\nContent-Type: application/dicom\r\n\r\n"
_CHANGED: Final = "an object has another size than was said"


@dataclass(frozen=True, slots=True)
class Part:
    """One instance: its size, and its bytes, which may be asked for again. Held ones: `lambda: [data]`."""

    size_bytes: int
    pieces: Callable[[], Iterable[bytes]]


def content_type(boundary: str) -> str:
    """The header's value."""
    return f'multipart/related; type="application/dicom"; boundary={boundary}'


def held_pieces(parts: Sequence[Part]) -> list[Sequence[bytes]]:
    """The pieces of each part that is held: of which they are a list or a tuple."""
    given = (part.pieces() for part in parts)
    return [pieces for pieces in given if isinstance(pieces, list | tuple)]


def is_in(boundary: str, held: Iterable[Sequence[bytes]]) -> bool:
    """Whether it occurs in what is held; in other parts chance alone speaks for it."""
    wanted = boundary.encode()
    return any(wanted in piece for pieces in held for piece in _overlapping(pieces))


def _overlapping(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """The pieces, and what is around each seam."""
    yield from pieces
    for before, behind in pairwise(pieces):
        yield before[-_SEAM_BYTES:] + behind[:_SEAM_BYTES]


_SEAM_BYTES: Final = 128  # a boundary has 70 characters at most: RFC 2046, 5.1.1


def body_bytes(boundary: str, parts: Sequence[Part]) -> int:
    """The whole body's size: Content-Length."""
    around = sum(len(_delimiter(boundary, number)) for number in range(len(parts)))
    return around + sum(part.size_bytes for part in parts) + len(_end(boundary))


def body(boundary: str, parts: Sequence[Part]) -> Iterator[bytes]:
    """The whole body. Raises Fault for a part of another size than was said: so it is not sent whole."""
    for number, part in enumerate(parts):
        yield _delimiter(boundary, number)
        left = part.size_bytes
        for piece in part.pieces():
            left -= len(piece)
            if left < 0:
                raise Fault(FaultKind.CHANGED, _CHANGED)
            yield piece
        if left:
            raise Fault(FaultKind.CHANGED, _CHANGED)
    yield _end(boundary)


def _delimiter(boundary: str, number: int) -> bytes:
    line_end = "\r\n" if number else ""
    return f"{line_end}--{boundary}{_HEAD}".encode()


def _end(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()
