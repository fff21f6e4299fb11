"""Who sends: ours, and what people would use instead, each a process of its own, timed as a whole."""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.report.reader import read_report
from tests.far_side import TOKEN

BIN = Path(sys.executable).parent
# A command of ours that prints how many MiB its process held at most.
PEAK_OF = """
import resource, sys
from flows.cli.__main__ import execute
assert not execute(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
# What everybody writes first: a URL, a PUT, one file after the other, no check and no report.
SCRIPT = """
import itertools, pathlib, requests, sys
api, study, count = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
authorization = {"Authorization": "Bearer " + sys.argv[4]}
for path in itertools.islice(sorted(study.iterdir()), count):
    url = requests.get(api + "/upload/", headers=authorization).json()["url"]
    headers = {"Content-Type": "application/dicom"}
    requests.put(url, data=path.read_bytes(), headers=headers).raise_for_status()
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds; CPU of the process and its children, and its largest memory in MiB where it says it."""

    wall_s: float
    user_s: float
    system_s: float
    said: str = ""


def timed(command: list[str], environment: Mapping[str, str] | None = None) -> Cost:
    """One process from its start to its end, with its bytecode kept as in any installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.run(
        command,
        env=kept | {"DICOM_INGEST_TOKEN": TOKEN} | dict(environment or {}),
        capture_output=True,
        text=True,
    )
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {process.stderr[-2000:]}")
    return Cost(wall_s, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, process.stdout)


def median_of(costs: Sequence[Cost]) -> Cost:
    """Whole as it was measured: the round of the median time."""
    return sorted(costs, key=lambda cost: cost.wall_s)[len(costs) // 2]


def rounds(most: int, scale: float) -> int:
    """One where files are so few that nothing is measured."""
    return most if scale >= 0.1 else 1


def ours(url: str, directory: Path, count: int = 0) -> list[str]:
    """`dicom-ingest upload`, everything on."""
    report_dir = directory / "report"
    shutil.rmtree(report_dir, ignore_errors=True)
    command = [str(BIN / "dicom-ingest"), "upload", "-u", url, "-p", str(directory / "study")]
    return [*command, "--report-dir", str(report_dir)]


def script(url: str, directory: Path, count: int) -> list[str]:
    return [sys.executable, "-c", SCRIPT, url, str(directory / "study"), str(count), TOKEN]


def rclone(url: str, directory: Path, count: int = 0) -> list[str]:
    """Its S3 backend: its WebDAV one asks no more than 100 things a second. It takes MD5 and asks back."""
    import rclone_api

    remote = f':s3,provider=Other,endpoint="{url}",access_key_id=a,secret_access_key=b,no_check_bucket=true'
    command = [str(Path(rclone_api.__file__).parent / "bin" / "rclone"), "copy", str(directory / "study")]
    options = ["--transfers", "20", "--no-check-dest", "--no-check-certificate", "--config", os.devnull]
    return [*command, f"{remote},force_path_style=true:sink/rclone", *options]


def curl(url: str, directory: Path, count: int = 0) -> list[str]:
    """PUTs alone, without asking for URLs: about what the machine can do."""
    config = directory / "curl.conf"
    paths = sorted((directory / "study").iterdir())
    config.write_text("".join(f'upload-file="{path}"\nurl="{url}/sink/curl/{path.name}"\n' for path in paths))
    command = ["curl", "--silent", "--show-error", "--insecure", "--parallel", "--parallel-max", "20"]
    return [*command, "--config", str(config)]


Sender = Callable[[str, Path, int], list[str]]


def steady_rate(report_dir: Path, first: float = 0.0, last: float = 1.0) -> float:
    """Files a second between the first outcome and the last, or between these shares of all outcomes."""
    ends = sorted(
        datetime.fromisoformat(row["finished_at"]).timestamp()
        for row in read_report(report_dir)
        if row["status"] == "uploaded"
    )
    begin, end = int(first * (len(ends) - 1)), int(last * (len(ends) - 1))
    return (end - begin) / (ends[end] - ends[begin])
