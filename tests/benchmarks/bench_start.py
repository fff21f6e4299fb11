"""What a command costs before it does anything, beside importing the packages that it can't do without."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.archives import archive
from tests.benchmarks.far_process import far_process
from tests.benchmarks.senders import BIN, ours, rounds, timed
from tests.benchmarks.table import Row

ROUNDS = 9
_NEEDED = "import pydicom, sqlalchemy, pydantic_settings, pycurl, awscrt"


def rows(scale: float) -> Iterator[Row]:
    times = rounds(ROUNDS, scale)
    library, shown = _side_by_side(times, [sys.executable, "-c", "import cyclopts"], ["--help"])
    yield _row("dicom-ingest --help", shown, "import cyclopts", library, "at most 1.5")
    with archive(1, 33 * 1024) as directory:
        needed, until_put = [], []
        for _ in range(times):
            needed.append(timed([sys.executable, "-c", _NEEDED]).wall_s)
            until_put.append(_until_first_put(directory))
    yield _row("start to first PUT", median(until_put), _NEEDED, median(needed), "at most 1.25")


def _side_by_side(times: int, library: list[str], ours: list[str]) -> tuple[float, float]:
    pairs = [(timed(library).wall_s, timed([str(BIN / "dicom-ingest"), *ours]).wall_s) for _ in range(times)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def _until_first_put(directory: Path) -> float:
    with far_process() as far:
        command = ours(far.url, directory)
        began = time.monotonic()
        timed(command)
    return far.saw["first_put_at"] - began


def _row(what: str, seconds: float, beside: str, other: float, bar: str) -> Row:
    return Row(what, f"{seconds * 1e3:.0f} ms", f"{beside} {other * 1e3:.0f}", seconds / other, bar)
