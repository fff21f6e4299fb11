"""All benchmarks run, with few files: that they run is checked, never how fast anything is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.table import HEADINGS, Row, markdown

# Of each command, about as long as the other.
WHAT_IS_SHOWN = {
    ("start", "read", "slow_link", "bandwidth", "progress", "size", "report", "page", "verify"): (
        "first PUT",
        "--help",
        "headers",
        "slow link",
        "bandwidth",
        "progress",
        "sparse",
        "rerun",
        "report",
        "report.html",
        "verify",
    ),
    ("fast_link",): ("fast link", "TLS", "by part"),
    ("prefect",): ("Prefect",),
    ("dicomweb", "ingest"): ("STOW-RS", "QIDO-RS", "ingest"),
}


NAMES = [pytest.param(names, marks=pytest.mark.long if "prefect" in names else ()) for names in WHAT_IS_SHOWN]


@pytest.mark.skipif(
    not all(map(shutil.which, ("nginx", "curl", "chromium"))),
    reason="needs nginx, curl and Chromium: apt-get install nginx-light curl chromium",
)
@pytest.mark.parametrize("names", NAMES, ids="+".join)
@pytest.mark.long
def test_every_benchmark_runs(
    names: tuple[str, ...], only_our_settings: None, new_prefect_home: Callable[[], Path]
) -> None:
    environment = {"READY_PREFECT_HOME": str(new_prefect_home())} if "prefect" in names else {}
    command = [sys.executable, "-m", "tests.benchmarks", "--scale", "0.005", *names]
    told = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr[-3000:]
    lines = told.stdout.splitlines()
    assert all(line.count("|") == len(HEADINGS) + 1 for line in lines)
    for what in WHAT_IS_SHOWN[names]:
        assert any(what in line for line in lines), what


def test_no_benchmark_is_left_out() -> None:
    assert sorted(chain(*WHAT_IS_SHOWN)) == sorted(BENCHMARKS)


def test_the_table_is_markdown() -> None:
    rows = [Row("one", "12 files/s", "script 6", 2.0, "at least 2"), Row("another", "3 MiB")]
    assert markdown(rows).splitlines() == [
        "| what    | ours       | beside   | ratio | bar        |",
        "| ------- | ---------- | -------- | ----- | ---------- |",
        "| one     | 12 files/s | script 6 | 2.00  | at least 2 |",
        "| another | 3 MiB      |          |       |            |",
    ]
