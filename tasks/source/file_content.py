"""One file's bytes: read once when small, streamed when too large to hold, hashed as it is sent."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO, Protocol

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
    digests: Digests | None  # None until it is known: a streamed file before its first pass
    held_bytes: int  # of memory, until it is closed

    def body(self) -> bytes | Iterator[bytes]:
        """The bytes for one PUT. An iterator hashes as it goes, and raises Fault when the file changed."""
        ...

    def compute_digests(self) -> Digests:
        """The digests. Reads the file for them when no PUT has yet."""
        ...

    def close(self) -> None:
        """Lets the bytes, or the file, go."""
        ...


class Held:
    """A small file: one read for header, hashes and body."""

    def __init__(self, data: bytes, header: Header, times_ns: tuple[int, int]) -> None:
        self._data = data
        self.header = header
        self.size_bytes = self.held_bytes = len(data)
        self.mtime_ns, self.ctime_ns = times_ns
        self.digests: Digests | None = _digests(data)

    def body(self) -> bytes:
        """The very bytes that were hashed."""
        return self._data

    def compute_digests(self) -> Digests:
        """Known from the start."""
        assert self.digests is not None
        return self.digests

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

    def body(self) -> Iterator[bytes]:
        """Chunks; short, grown or touched content ends in a Fault before the last of it is sent."""
        with self._used():
            yield from self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        self._file.seek(0)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        left = self.size_bytes
        while left:
            chunk = self._file.read(min(_CHUNK_BYTES, left))
            left -= len(chunk)
            if not chunk or (not left and self._touched()):
                raise Fault(FaultKind.CHANGED, "the file changed while it was sent")
            sha256.update(chunk)
            md5.update(chunk)
            if not left:
                self.digests = Digests(sha256.hexdigest(), md5.hexdigest())
            yield chunk

    def compute_digests(self) -> Digests:
        """Reads the whole file when no PUT has done so yet."""
        if self.digests is None:
            for _ in self.body():
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


def read_content(path: str) -> Content | Rejected:
    """The file's content, ready to be sent, or why it is not to be. The path may be gone or not be a file."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with ExitStack() as closing:
            closing.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Rejected(Status.UNREADABLE, Reason.IO_ERROR)
            name = os.path.basename(path)  # noqa: PTH119 - a tenth of what PurePath costs
            content = _content(descriptor, name, status)
            if isinstance(content, Streamed):
                closing.pop_all()  # it has the file now
            return content
    except OSError as error:
        return _unreadable(error)


def _content(descriptor: int, name: str, status: os.stat_result) -> Content | Rejected:
    for _ in range(_READS):
        if status.st_size > MAX_PUT_BYTES:
            return Rejected(Status.TOO_LARGE, Reason.NONE, size_bytes=status.st_size)
        read = _stream if status.st_size > HELD_BYTES else _hold
        content = read(descriptor, name, status)
        before, status = status, os.fstat(descriptor)
        if content is not None and (before.st_size, before.st_mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        ):
            if isinstance(content, Rejected):
                return replace(content, size_bytes=before.st_size, mtime_ns=kept_ns(before.st_mtime_ns))
            return content
    return Rejected(Status.CHANGED, Reason.NONE)


def _hold(descriptor: int, name: str, status: os.stat_result) -> Content | Rejected | None:
    data = _read(descriptor, status.st_size)
    if len(data) != status.st_size:
        return None
    found = examine(BytesIO(data), len(data), name)
    return found if isinstance(found, Rejected) else Held(data, found, _times_ns(status))


def _stream(descriptor: int, name: str, status: os.stat_result) -> Content | Rejected:
    os.lseek(descriptor, 0, os.SEEK_SET)
    file = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - buffered for the header
    found = examine(file, status.st_size, name)
    return found if isinstance(found, Rejected) else Streamed(file, found, status.st_size, _times_ns(status))


def _times_ns(status: os.stat_result) -> tuple[int, int]:
    return kept_ns(status.st_mtime_ns), kept_ns(status.st_ctime_ns)


def _read(descriptor: int, size_bytes: int) -> bytes:
    """The first `size_bytes`: one read may give less without being at the end."""
    data = os.pread(descriptor, size_bytes, 0)
    while len(data) < size_bytes and (more := os.pread(descriptor, size_bytes - len(data), len(data))):
        data += more
    return data


def _digests(data: bytes) -> Digests:
    return Digests(hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest())


def _unreadable(error: OSError) -> Rejected:
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return Rejected(Status.UNREADABLE, Reason.PERMISSION if denied else Reason.IO_ERROR)
