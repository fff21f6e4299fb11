"""A verification's memory does not grow with the report."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.large_report import LargeReport

ROOT = Path(__file__).parents[3]


@pytest.mark.long
@pytest.mark.processes
def test_is_flat_up_to_a_million_rows(tmp_path: Path) -> None:
    """Ten times the rows take no more than a third more: SQLite's cache is full by then, and bounded."""
    peaks = [_peak_kib(tmp_path / str(count), count) for count in (100_000, 1_000_000)]
    assert peaks[1] < 1.33 * peaks[0], peaks


def _peak_kib(report_dir: Path, instances: int) -> int:
    report_dir.mkdir()
    LargeReport(report_dir, instances, instances // 1000).write()
    command = [sys.executable, "-m", "tests.benchmarks.large_report", str(report_dir), str(instances)]
    command.append(str(instances // 1000))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)
