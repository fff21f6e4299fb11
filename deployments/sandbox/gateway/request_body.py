"""The parts of a STOW-RS request's body, one after another, however large: PS3.18 8.6.1.2, RFC 2387.

A part is held in memory up to a megabyte and else in a file without a name, so nothing of it is left however
this process ends.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Final, cast

from multipart import MultipartSegment, ParserError, PushMultipartParser

_HELD_BYTES: Final = 1 << 20


class BodyTooLargeError(Exception):
    """More than the gateway takes in one request."""


@dataclass(slots=True)
class Part:
    """What one part brought. Whoever gets it closes its file."""

    content_type: str  # without parameters, small letters; empty when it says none
    file: BinaryIO
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, chunk: bytes) -> None:
        """Some more of it."""
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size_bytes += len(chunk)


class _RelatedParser(PushMultipartParser):  # type: ignore[misc] # it has no types
    """Of multipart/related, whose parts have no Content-Disposition."""

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        return MultipartSegment(headerlist)


async def bounded(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """The same chunks; raises BodyTooLargeError with the first byte that is too much."""
    count = 0
    async for chunk in stream:
        count += len(chunk)
        if count > max_bytes:
            raise BodyTooLargeError
        yield chunk


async def related_parts(
    stream: AsyncIterator[bytes], boundary: str, max_parts: int, spool: Path | None
) -> AsyncGenerator[Part, None]:
    """Each part once it is whole. Raises multipart's ParserError when the body ends before its last boundary
    or is none, ParserLimitReached when there are more parts, and what the stream raises.
    """
    parser = _RelatedParser(boundary, max_segment_count=max_parts)
    part: Part | None = None
    try:
        async for chunk in stream:
            for event in parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    part = _new_part(event.content_type or "", spool)
                elif event is None:
                    assert part
                    whole, part = part, None
                    yield whole
                else:
                    assert part
                    part.add(event)
        parser.close()
    finally:
        if part:
            part.file.close()


async def single_part(
    stream: AsyncIterator[bytes], content_type: str, spool: Path | None
) -> AsyncGenerator[Part, None]:
    """The whole body as one part. Raises ParserError when there is none."""
    part = _new_part(content_type, spool)
    try:
        async for chunk in stream:
            part.add(chunk)
    except BaseException:
        part.file.close()
        raise
    if not part.size_bytes:
        part.file.close()
        raise ParserError("no body")
    yield part


def _new_part(content_type: str, spool: Path | None) -> Part:
    directory = str(spool) if spool else None
    file = SpooledTemporaryFile(_HELD_BYTES, dir=directory)  # noqa: SIM115 - closed by whoever gets the part
    return Part(content_type.strip().lower(), cast("BinaryIO", file))
