"""A file whose hash is taken from the bytes that are written: what lies at its path later may differ."""

import hashlib
import io
from typing import IO, Any


class HashingFile(io.RawIOBase):
    """Passes on to `file`, which stays open, what is written here."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all that was written until now, in hex."""
        return self._hash.hexdigest()

    def writable(self) -> bool:
        """It is for nothing else."""
        return True

    def tell(self) -> int:
        """How much was written; Parquet asks for it."""
        return self._file.tell()

    def write(self, data: Any) -> int:
        """All of it, as a buffered file does."""
        self._hash.update(data)
        return self._file.write(data)
