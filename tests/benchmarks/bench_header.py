"""What reading a header costs: ours beside pydicom's own minimal read, on the same bytes, turn by turn.

    python tests/benchmarks/bench_header.py

Ours must stay within 1.2 times pydicom's; it also finds files that were cut, which pydicom's does not.
"""

import logging
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from tasks.header import examine

ROUNDS = 9
TAGS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"]


def main() -> None:
    """Print one line per set of files."""
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").addHandler(logging.NullHandler())
    print(f"{'files':<28}{'number':>7}{'ours ms':>9}{'pydicom ms':>12}{'ratio':>7}")
    for name, files in (("pydicom's own", shipped()), ("CT slices of 516 KB", ct_slices(200))):
        ours, theirs = side_by_side(read_ours, read_pydicom, files)
        print(f"{name:<28}{len(files):>7}{ours:>9.3f}{theirs:>12.3f}{ours / theirs:>7.2f}")


def shipped() -> list[bytes]:
    """The DICOM files in pydicom's wheel that pydicom reads without force."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    contents = [path.read_bytes() for path in sorted(folder.glob("*.dcm"))]
    return [content for content in contents if content[128:132] == b"DICM"]


def ct_slices(number: int) -> list[bytes]:
    """CT slices of 512 x 512 pixels with the header of a real one."""
    dataset = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm")
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = bytes(512 * 512 * 2)
    slices = []
    for _ in range(number):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        file = BytesIO()
        dataset.save_as(file)
        slices.append(file.getvalue())
    return slices


def read_ours(content: bytes) -> None:
    """Read the way a batch does."""
    examine(BytesIO(content), len(content), "file")


def read_pydicom(content: bytes) -> None:
    """Read what pydicom must read for the same UIDs; they are not even decoded."""
    pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=TAGS)


def side_by_side(
    first: Callable[[bytes], None], second: Callable[[bytes], None], files: list[bytes]
) -> tuple[float, float]:
    """Each one's best round in milliseconds per file; they take turns."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, read in enumerate((first, second)):
            started = time.perf_counter()
            for content in files:
                read(content)
            best[index] = min(best[index], (time.perf_counter() - started) * 1000 / len(files))
    return best[0], best[1]


if __name__ == "__main__":
    main()
