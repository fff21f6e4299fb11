"""Archives to send, in memory, so that no disk is measured."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import instance

SIZES = {"33 KB": 33 * 1024, "516 KB": 516 * 1024}


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def archive(count: int, size_bytes: int) -> Iterator[Path]:
    """A directory with `study`, which has so many instances."""
    with scratch() as directory:
        (directory / "study").mkdir()
        for number in range(count):
            body = instance(f"1.2.{number}", pixel_bytes=size_bytes // 2048 * 2048)
            (directory / "study" / f"{number:06}.dcm").write_bytes(body)
        yield directory
