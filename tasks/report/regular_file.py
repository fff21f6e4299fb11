"""Files of a directory that one does not trust: what is no regular file is not read, nor waited for."""

import hashlib
import os
import stat
from errno import EFBIG, EINVAL
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """The file, to be read. OSError for what is none, as a pipe that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, "no regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """All of a file of so many bytes at most. OSError for any other."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(EFBIG, "larger than any of ours")
    return content


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex. OSError when it can't be read."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
