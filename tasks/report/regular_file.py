"""Files of a directory that one does not trust: what is no file of ours is not read, nor waited for."""

import hashlib
from errno import EFBIG
from pathlib import Path

from tasks.ledger.private_files import opened


def read_regular(path: Path, most: int) -> bytes:
    """All of a file of so many bytes at most. OSError for any other."""
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(EFBIG, "larger than any of ours")
    return content


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex. OSError when it can't be read."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
