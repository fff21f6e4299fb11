"""What the tests of whole commands share."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Dicom
from tests.e2e.archive import Archive
from tests.far_side import FarSide


@pytest.fixture
def new_archive(tmp_path: Path, far_side: FarSide, dicom: Dicom) -> Iterator[Callable[..., Archive]]:
    """`new_archive(seed, ledger)`: a ledger in SQLite unless a URL is given."""
    made: list[Archive] = []

    def new_archive(seed: int = 7, ledger: str = "") -> Archive:
        made.append(Archive(tmp_path, far_side, dicom, random.Random(seed), ledger))
        return made[-1]

    yield new_archive
    for archive in made:
        archive.end()
