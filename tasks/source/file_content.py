"""One file's bytes: read once when small, streamed when too large to hold, hashed as it is sent."""

import base64
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO, Protocol

from awscrt.checksums import crc64nvme

from tasks.core.errors import Fault, FaultKind
from tasks.core.file_times import kept_ns
from tasks.core.models import Digests, Header, Reason, Rejected, Status
from tasks.source.dicom_header import examine

HELD_BYTES = 8 * 1024 * 1024  # a file up to this size is held while it is sent
MAX_PUT_BYTES = 5 * 1024**3  # S3: the most that one PUT stores
_CHUNK_BYTES = 1024 * 1024
_READS = 3  # a file that changes while it is read is read again, this often


class Content(Protocol):
    """The bytes of one instance."""

    header: Header
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    rejected: Rejected | None  # why it would be held back, of one that was asked for all the same
    held_bytes: int  # of memory, until it is closed

    @property
    def digests(self) -> Digests | None:
        """None until they are known: of a streamed file before its first pass."""
        ...

    def body(self, *, with_md5: bool = False) -> bytes | Iterator[bytes]:
        """The bytes for one PUT. An iterator hashes as it goes, and raises Fault when the file changed."""
        ...

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        """The digests. Reads the file for them when no PUT has yet."""
        ...

    def close(self) -> None:
        """Lets the bytes, or the file, go; its digests stay."""
        ...


class Held:
    """A small file: one read for header, hashes and body."""

    def __init__(self, data: bytes, header: Header, times_ns: tuple[int, int]) -> None:
        self._data = data
        self.header = header
        self.size_bytes = self.held_bytes = len(data)
        self.mtime_ns, self.ctime_ns = times_ns
        self._digests = Digests(hashlib.sha256(data).hexdigest(), crc64nvme=as_base64(crc64nvme(data)))
        self.rejected: Rejected | None = None

    @property
    def digests(self) -> Digests | None:
        """Known from the start; of the MD5, once it was asked for."""
        return self._digests

    def body(self, *, with_md5: bool = False) -> bytes:  # noqa: ARG002 - of what is streamed
        """The very bytes that were hashed."""
        return self._data

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        """Never by the file."""
        if with_md5 and not self._digests.md5:
            if not self.held_bytes:
                raise OSError(errno.EBADF, "the file is closed")
            md5 = hashlib.md5(self._data, usedforsecurity=False).hexdigest()
            self._digests = replace(self._digests, md5=md5)
        return self._digests

    def close(self) -> None:
        """What was found out stays."""
        self._data, self.held_bytes = b"", 0


class Streamed:
    """A file too large to hold: every PUT reads it once more, and hashes what it sends."""

    def __init__(self, file: BinaryIO, header: Header, size_bytes: int, times_ns: tuple[int, int]) -> None:
        self._file = file
        self._users = 1  # the owner, and each body that is being read: the last one closes the file
        self._lock = threading.Lock()
        self.header = header
        self.size_bytes = size_bytes
        self.held_bytes = _CHUNK_BYTES
        self.mtime_ns, self.ctime_ns = times_ns
        self.digests: Digests | None = None
        self.rejected: Rejected | None = None

    def body(self, *, with_md5: bool = False) -> Iterator[bytes]:
        """Chunks; short, grown or touched content ends in a Fault before the last of it is sent."""
        with self._used():
            yield from self._chunks(with_md5=with_md5)

    def _chunks(self, *, with_md5: bool) -> Iterator[bytes]:
        sha256, md5, crc = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        left = self.size_bytes
        while left:
            # At a place of its own: one that a slow disk holds up may still read while the next has begun.
            chunk = os.pread(self._file.fileno(), min(_CHUNK_BYTES, left), self.size_bytes - left)
            left -= len(chunk)
            if not chunk or (not left and self._touched()):
                raise Fault(FaultKind.CHANGED, "the file changed while it was sent")
            sha256.update(chunk)
            crc = crc64nvme(chunk, crc)
            if with_md5:
                md5.update(chunk)
            if not left:
                in_hex = md5.hexdigest() if with_md5 else ""
                self.digests = Digests(sha256.hexdigest(), in_hex, as_base64(crc))
            yield chunk

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        """Reads the whole file when no PUT has done so yet, or none with an MD5."""
        if self.digests is None or (with_md5 and not self.digests.md5):
            for _ in self.body(with_md5=with_md5):
                pass
        assert self.digests is not None
        return self.digests

    def close(self) -> None:
        """Closes the file, once no thread reads it: its descriptor will be another file's."""
        if self.held_bytes:
            self.held_bytes = 0
            self._let_go()

    @contextmanager
    def _used(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                raise OSError(errno.EBADF, "the file is closed")
            self._users += 1
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self._file.fileno())

    def _touched(self) -> bool:
        now = os.fstat(self._file.fileno())
        return (now.st_size, kept_ns(now.st_mtime_ns)) != (self.size_bytes, self.mtime_ns)


class Hashed:
    """Digests of bytes as they pass."""

    def __init__(self, *, with_md5: bool = False) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._crc = 0

    def update(self, chunk: bytes) -> None:
        """The next of them."""
        self.size_bytes += len(chunk)
        self._sha256.update(chunk)
        self._crc = crc64nvme(chunk, self._crc)
        if self._md5:
            self._md5.update(chunk)

    def digests(self) -> Digests:
        """Of all so far."""
        md5 = self._md5.hexdigest() if self._md5 else ""
        return Digests(self._sha256.hexdigest(), md5, as_base64(self._crc))


Accepts = Callable[[Rejected], bool]


def _accept_none(_rejected: Rejected) -> bool:
    return False


def read_content(path: str, accepts: Accepts = _accept_none) -> Content | Rejected:
    """The file's content, ready to be sent, or why it is not to be. The path may be gone or not be a file.

    `accepts`: which of those that would be held back are wanted all the same; they have a header.
    """
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with ExitStack() as closing:
            closing.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Rejected(Status.UNREADABLE, Reason.IO_ERROR)
            name = os.path.basename(path)  # noqa: PTH119 - a tenth of what PurePath costs
            content = _content(descriptor, name, status, accepts)
            if isinstance(content, Streamed):
                closing.pop_all()  # it has the file now
            return content
    except OSError as error:
        return unreadable(error)


def _content(descriptor: int, name: str, status: os.stat_result, accepts: Accepts) -> Content | Rejected:
    for _ in range(_READS):
        if status.st_size > MAX_PUT_BYTES:
            return _with_times(Rejected(Status.TOO_LARGE, Reason.NONE), status)
        read = _stream if status.st_size > HELD_BYTES else _hold
        content = read(descriptor, name, status, accepts)
        before, status = status, os.fstat(descriptor)
        if content is not None and (before.st_size, before.st_mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        ):
            if isinstance(content, Rejected):
                return _with_times(content, before)
            return content
    return Rejected(Status.CHANGED, Reason.NONE)


def _with_times(rejected: Rejected, status: os.stat_result) -> Rejected:
    mtime_ns, ctime_ns = _times_ns(status)
    return replace(rejected, size_bytes=status.st_size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)


def _hold(descriptor: int, name: str, status: os.stat_result, accepts: Accepts) -> Content | Rejected | None:
    data = _read(descriptor, status.st_size)
    if len(data) != status.st_size:
        return None
    found = examine(BytesIO(data), len(data), name)
    return accepted(found, accepts, lambda header: Held(data, header, _times_ns(status)))


def _stream(descriptor: int, name: str, status: os.stat_result, accepts: Accepts) -> Content | Rejected:
    os.lseek(descriptor, 0, os.SEEK_SET)
    file = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - buffered for the header
    found = examine(file, status.st_size, name)
    return accepted(found, accepts, lambda header: Streamed(file, header, status.st_size, _times_ns(status)))


def accepted(
    found: Header | Rejected, accepts: Accepts, content_of: Callable[[Header], Held | Streamed]
) -> Content | Rejected:
    """The content of what has this header, or would be held back and is wanted all the same."""
    if isinstance(found, Header):
        return content_of(found)
    if found.header is None or not accepts(found):
        return found
    content = content_of(found.header)
    content.rejected = found
    return content


def _times_ns(status: os.stat_result) -> tuple[int, int]:
    return kept_ns(status.st_mtime_ns), kept_ns(status.st_ctime_ns)


def _read(descriptor: int, size_bytes: int) -> bytes:
    """The first `size_bytes`: one read may give less without being at the end."""
    data = os.pread(descriptor, size_bytes, 0)
    while len(data) < size_bytes and (more := os.pread(descriptor, size_bytes - len(data), len(data))):
        data += more
    return data


def as_base64(crc: int) -> str:
    """As S3 shows a CRC64NVME."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def unreadable(error: OSError) -> Rejected:
    """Why the system does not let it be read."""
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return Rejected(Status.UNREADABLE, Reason.PERMISSION if denied else Reason.IO_ERROR)
