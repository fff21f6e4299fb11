"""All benchmarks run, with few files: that they run is checked, never how fast anything is."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.benchmarks.table import HEADINGS, Row, markdown


@pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("nginx") and shutil.which("curl")),
    reason="needs nginx and curl: apt-get install nginx-light curl",
)
def test_every_benchmark_runs(only_our_settings: None) -> None:
    """In CI nothing skips: there it fails without nginx."""
    command = [sys.executable, "-m", "tests.benchmarks", "--scale", "0.005"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr[-3000:]
    lines = told.stdout.splitlines()
    assert all(line.count("|") == len(HEADINGS) + 1 for line in lines)
    for what in (
        "--help",
        "headers",
        "slow link",
        "fast link",
        "TLS",
        "by part",
        "sparse",
        "rerun",
        "Prefect",
    ):
        assert any(what in line for line in lines), what


def test_the_table_is_markdown() -> None:
    rows = [Row("one", "12 files/s", "script 6", 2.0, "at least 2"), Row("another", "3 MiB")]
    assert markdown(rows).splitlines() == [
        "| what    | ours       | beside   | ratio | bar        |",
        "| ------- | ---------- | -------- | ----- | ---------- |",
        "| one     | 12 files/s | script 6 | 2.00  | at least 2 |",
        "| another | 3 MiB      |          |       |            |",
    ]
