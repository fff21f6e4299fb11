"""Whether a file is whole, beside what pydicom and DCMTK's dcmdump read of it: shipped and damaged files.

Neither of the two takes part in our own reading. What one of them reads to the last pixel byte is not called
truncated. What both call cut is not sent, unless all that the file ended with is there: then it is one of the
oddities that travel (a VR that is none, wrong delimiters, garbage behind the pixels), at which they give up.
"""

import logging
import shutil
from io import BytesIO
from pathlib import Path

import pytest

from tasks.core.models import Header, Reason, Rejected
from tasks.source.dicom_header import examine
from tests.second_opinion import (
    Damaged,
    damaged,
    dcmtk_reads,
    ends_between_elements,
    originals,
    pydicom_reads,
)

FEW, MANY, SEED = 2_000, 20_000, 16
SMALL, LARGE = 40_000, 400_000  # bytes of what is damaged


@pytest.fixture(scope="module")
def dcmdump() -> None:
    """Debian's package dcmtk has it."""
    if shutil.which("dcmdump") is None:
        pytest.skip("no dcmdump: Debian's package dcmtk has it")


def disagreements(files: list[Damaged], directory: Path) -> list[str]:
    """What we say of a file where another reader shows that it is wrong."""
    paths = [directory / f"{number:05}" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file.content)
    by_dcmtk = dcmtk_reads(paths, [file.original.has_pixels for file in files])
    found = []
    for path, file, is_read in zip(paths, files, by_dcmtk, strict=True):
        ours = examine(BytesIO(file.content), len(file.content), "IM1")
        is_whole = is_read or pydicom_reads(file.content, has_pixels=file.original.has_pixels)
        if is_whole and is_truncated(ours) and not may_be_cut_trailer(file):
            found.append(f"{path.name}: truncated, and read to its end")
        if not is_whole and isinstance(ours, Header) and lacks_something(file):
            found.append(f"{path.name}: sent, and cut")
        path.unlink()
    return found


def is_truncated(ours: Header | Rejected) -> bool:
    return isinstance(ours, Rejected) and ours.reason is Reason.TRUNCATED


def lacks_something(file: Damaged) -> bool:
    """What the file ended with is gone, and something in it says so.

    Nothing does where it ends with a whole element, nor where zeros follow the last item of what has no
    pixels.
    """
    if not file.may_lack or file.original.last_bytes in file.content or ends_between_elements(file.content):
        return False
    return file.original.has_pixels or any(file.content[-8:])


def may_be_cut_trailer(file: Damaged) -> bool:
    """Whether one to three bytes behind the pixels may begin the header of data set trailing padding."""
    content, last_bytes = file.content, file.original.last_bytes
    behind = len(content) - content.rfind(last_bytes) - len(last_bytes) - 8
    return file.original.has_pixels and 0 < behind < 4


@pytest.fixture(autouse=True)
def silent_pydicom(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pydicom")


@pytest.mark.usefixtures("dcmdump")
class TestSecondOpinion:
    def test_on_every_file_that_three_packages_ship(self, tmp_path: Path) -> None:
        """pydicom, pynetdicom and pydicom-data: all that can be read is found whole."""
        shipped = [Damaged(original.content, original) for original in originals(1 << 30)]
        assert len(shipped) > 250
        assert disagreements(shipped, tmp_path) == []

    def test_on_two_thousand_damaged_files(self, tmp_path: Path) -> None:
        assert disagreements([*damaged(originals(SMALL), FEW, SEED)], tmp_path) == []

    @pytest.mark.long
    def test_on_twenty_thousand_damaged_files(self, tmp_path: Path) -> None:
        """Larger ones, too."""
        files = originals(LARGE)
        for seed in range(MANY // FEW):
            assert disagreements([*damaged(files, FEW, seed)], tmp_path) == [], f"seed {seed}"


def test_damage_is_the_same_each_time() -> None:
    """So that a number names a file."""
    files = originals(SMALL)[:20]
    first, again = ([file.content for file in damaged(files, 50, SEED)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40
