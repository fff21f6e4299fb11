"""As fast as the machine goes: ours beside a sequential script and curl, into the same nginx.

    python -m tests.benchmarks.bench_fast_link

Each is a process of its own, timed as a whole from start to end, with its CPU seconds; they take turns. Ours
does more than the others: header, SHA-256, MD5, ledger, audit trail, report. curl asks for no URLs.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bench_ledger import archive
from tests.benchmarks.nginx import nginx

SIZES = {"516 KB": (516 * 1024, 2000), "33 KB": (33 * 1024, 5000)}
ROUNDS = 2
_SCRIPT = """
import sys, pathlib, requests
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    url = requests.get(sys.argv[1] + "/upload/").json()["url"]
    headers = {"Content-Type": "application/dicom"}
    requests.put(url, data=path.read_bytes(), headers=headers).raise_for_status()
"""


@dataclass(slots=True)
class Cost:
    wall_s: float = float("inf")
    user_s: float = 0.0
    system_s: float = 0.0


def ours(url: str, study: Path, work: Path) -> list[str]:
    report = ["--report-dir", str(work / "report")]
    return [
        str(Path(sys.executable).with_name("dicom-ingest")),
        "upload",
        "-u",
        url,
        "-p",
        str(study),
        *report,
    ]


def curl(url: str, study: Path, work: Path) -> list[str]:
    config = work / "curl.conf"
    config.write_text(
        "".join(f'upload-file="{path}"\nurl="{url}/sink/curl-{path.name}"\n' for path in study.iterdir())
    )
    return ["curl", "--silent", "--parallel", "--parallel-max", "20", "--config", str(config)]


def script(url: str, study: Path, work: Path) -> list[str]:
    return [sys.executable, "-c", _SCRIPT, url, str(study)]


WAYS: dict[str, Callable[[str, Path, Path], list[str]]] = {
    "dicom-ingest": ours,
    "curl": curl,
    "script": script,
}


def main() -> None:
    """A table for each size."""
    if not shutil.which("nginx"):
        print("nginx is not installed: apt-get install nginx-light")
        return
    for name, (size, count) in SIZES.items():
        with archive(count, size) as directory:
            costs = side_by_side(directory / "study", directory)
        print(f"\n{name:<14}{'files/s':>9}{'CPU ms':>9}{'user':>8}{'system':>8}{'ours is':>9}")
        for way, cost in costs.items():
            user, system = cost.user_s / count * 1e3, cost.system_s / count * 1e3
            ratio = cost.wall_s / costs["dicom-ingest"].wall_s
            rate, cpu = count / cost.wall_s, user + system
            print(f"{way:<14}{rate:>9.0f}{cpu:>9.2f}{user:>8.2f}{system:>8.2f}{ratio:>9.2f}")


def side_by_side(study: Path, work: Path) -> dict[str, Cost]:
    """Each one's best round."""
    best = {way: Cost() for way in WAYS}
    for _ in range(ROUNDS):
        for way, command in WAYS.items():
            with nginx() as (url, _sink):
                best[way] = min(best[way], timed(command(url, study, work)), key=lambda cost: cost.wall_s)
            shutil.rmtree(work / "report", ignore_errors=True)
    return best


def timed(command: list[str]) -> Cost:
    """One process from its start to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"DICOM_INGEST_TOKEN": "token"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


if __name__ == "__main__":
    main()
