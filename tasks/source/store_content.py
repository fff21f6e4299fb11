"""The bytes of an object in a store: held when small, read anew for each PUT when too large to hold."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader, BytesIO
from typing import Final

from tasks.core.errors import Fault, FaultKind
from tasks.core.models import Header, Reason, Rejected, Status
from tasks.source.dicom_header import examine
from tasks.source.file_content import (
    HELD_BYTES,
    MAX_PUT_BYTES,
    Accepts,
    Content,
    Hashed,
    Held,
    Streamed,
    accepted,
    unreadable,
)
from tasks.source.header_reader import Examined
from tasks.source.stores import StoreStat, open_store_file, read_store_file, stat_store_file

_READS: Final = 3  # of what changes meanwhile, or of which the connection is lost
_CHUNK_BYTES: Final = 1024 * 1024


def read_stored(url: str, accepts: Accepts) -> Content | Rejected:
    """The content of what has this address, or why it is not to be sent. No address raises."""
    for read in range(_READS):
        try:
            stat = stat_store_file(url)
            content = _content(url, stat, accepts)
        except OSError as error:
            if error.errno == errno.EIO and read + 1 < _READS:
                continue  # by another connection, where this one was lost
            return unreadable(error)
        if isinstance(content, Rejected):
            return replace(content, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
        if content:
            return content
    return Rejected(Status.CHANGED, Reason.NONE)


def examine_stored(url: str) -> Examined:
    """What a run would find of it; its bytes."""
    try:
        size = stat_store_file(url).st_size
        if size > MAX_PUT_BYTES:
            return Rejected(Status.TOO_LARGE, Reason.NONE), size
        with BufferedReader(open_store_file(url)) as file:
            return examine(file, size, _name(url)), size
    except OSError as error:
        return unreadable(error), 0


def stored_digest(url: str) -> str:
    """SHA-256 of its bytes; empty when they can't be read."""
    hashed = Hashed()
    try:
        for chunk in _chunks(url):
            hashed.update(chunk)
    except OSError:
        return ""
    return hashed.digests().sha256


def _content(url: str, stat: StoreStat, accepts: Accepts) -> Content | Rejected | None:
    """None: it is not what it was a moment ago."""
    if stat.st_size > MAX_PUT_BYTES:
        return Rejected(Status.TOO_LARGE, Reason.NONE)
    times = stat.st_mtime_ns, stat.st_ctime_ns
    if stat.st_size > HELD_BYTES:
        with BufferedReader(open_store_file(url)) as file:
            found = examine(file, stat.st_size, _name(url))
        return accepted(found, accepts, lambda header: StreamedObject(url, header, stat))
    data = read_store_file(url) if stat.st_size else b""
    if len(data) != stat.st_size:
        return None
    found = examine(BytesIO(data), len(data), _name(url))
    return accepted(found, accepts, lambda header: Held(data, header, times))


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _chunks(url: str) -> Iterator[bytes]:
    with BufferedReader(open_store_file(url)) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


class StreamedObject(Streamed):
    """One too large to hold: every PUT reads it once more, and hashes what it sends."""

    def __init__(self, url: str, header: Header, stat: StoreStat) -> None:
        self._url, self._stat = url, stat
        self.header = header
        self.size_bytes, self.mtime_ns, self.ctime_ns = stat
        self.held_bytes = _CHUNK_BYTES
        self.digests = None
        self.rejected: Rejected | None = None

    def body(self, *, with_md5: bool = False) -> Iterator[bytes]:
        """Chunks; short, grown or touched content ends in a Fault before the last of it is sent."""
        hashed, left = Hashed(with_md5=with_md5), self.size_bytes
        for chunk in _chunks(self._url):
            left -= len(chunk)
            if left < 0 or (not left and stat_store_file(self._url) != self._stat):
                break
            hashed.update(chunk)
            if not left:
                self.digests = hashed.digests()
            yield chunk
        if left:
            raise Fault(FaultKind.CHANGED, "the object changed while it was sent")

    def close(self) -> None:
        """Each body closes what it reads."""
        self.held_bytes = 0
