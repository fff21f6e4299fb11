"""The header of a file that is not to be sent now: as a run would read it, in a few system calls."""

# A tree may hold millions of files: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH119

import os
import stat
from io import BytesIO
from typing import Final, TypeAlias

from tasks.core.models import Header, Reason, Rejected, Status
from tasks.source.dicom_header import examine
from tasks.source.file_content import MAX_PUT_BYTES

_HEAD_BYTES: Final = 1 << 15
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO would wait for its writer

Examined: TypeAlias = tuple[Header | Rejected, int]  # a file's header, or why it is not sent; its bytes


def read_header(path: str) -> Examined:
    """What a run would find of this file. Memory is bounded; no content and no path raises."""
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            status = os.fstat(descriptor)
            return _judge(descriptor, status, os.path.basename(path)), status.st_size
        finally:
            os.close(descriptor)
    except OSError:
        return Rejected(Status.UNREADABLE, Reason.IO_ERROR), 0


class _BufferedFile(BytesIO):
    """An open file whose first bytes are held: most of a header costs no system call."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(_read_at(descriptor, _HEAD_BYTES, 0))
        self._descriptor = descriptor

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        data = super().read(size)
        if len(data) == size:
            return data
        start = self.tell() - len(data)
        data = _read_at(self._descriptor, size, start)
        self.seek(start + len(data))
        return data


def _read_at(descriptor: int, size: int, start: int) -> bytes:
    """So many bytes, fewer only at the end of the file: one read may give less."""
    data = os.pread(descriptor, size, start)
    while 0 < len(data) < size and (more := os.pread(descriptor, size - len(data), start + len(data))):
        data += more
    return data


def _judge(descriptor: int, status: os.stat_result, name: str) -> Header | Rejected:
    if not stat.S_ISREG(status.st_mode):
        return Rejected(Status.UNREADABLE, Reason.IO_ERROR)
    if status.st_size > MAX_PUT_BYTES:
        return Rejected(Status.TOO_LARGE, Reason.NONE)
    return examine(_BufferedFile(descriptor), status.st_size, name)
