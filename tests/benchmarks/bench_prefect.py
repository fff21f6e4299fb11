"""What Prefect costs: `run` against a warm server beside `upload`, the same files into the same sink."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.benchmarks.archives import SIZES, archive, scratch
from tests.benchmarks.nginx import nginx
from tests.benchmarks.senders import PEAK_OF, ours, rounds, summary_of, timed
from tests.benchmarks.table import Row
from tests.prefect_server import PrefectServer

COUNT, ROUNDS = 10_000, 2
FEWER = 5  # times fewer files, to see that memory does not depend on them


def rows(scale: float) -> Iterator[Row]:
    count = max(100, int(COUNT * scale))
    times = rounds(ROUNDS, scale)
    with archive(count, SIZES["33 KB"]) as directory, _home() as home, PrefectServer(home) as server:
        manifest = directory / "manifest.csv"
        manifest.write_text("study_dir\nstudy\n")
        run_rate, upload_rate = 0.0, 0.0
        for _ in range(times):
            with nginx() as (url, _sink):
                cost = timed(_run(url, manifest, directory), server.environment)
            run_wall_s, peak_mib = cost.wall_s, float(cost.said)
            run_rate = max(run_rate, summary_of(directory)["files_per_s"])
            with nginx() as (url, _sink):
                upload_wall_s = timed(ours(url, directory)).wall_s
            upload_rate = max(upload_rate, summary_of(directory)["files_per_s"])
        task_runs = _task_runs(server.url) / times
        for file in sorted((directory / "study").iterdir())[count // FEWER :]:
            file.unlink()
        with nginx() as (url, _sink):
            fewer_mib = float(timed(_run(url, manifest, directory), server.environment).said)
    what = f"run of {count:,} files under a warm Prefect server"
    ratio = run_rate / upload_rate
    yield Row(what, f"{run_rate:.0f} files/s", f"upload {upload_rate:.0f}", ratio, "at least 0.9")
    yield Row(f"{what}, whole process", f"{run_wall_s:.1f} s", f"upload {upload_wall_s:.1f} s")
    yield Row(f"{what}, memory", f"{peak_mib:.0f} MiB", f"{count // FEWER:,} files {fewer_mib:.0f}")
    yield Row(f"{what}, task runs", f"{task_runs:.0f}", bar="hundreds at most")


@contextmanager
def _home() -> Iterator[Path]:
    """A new one, or a copy of the one that READY_PREFECT_HOME names: its first start takes no half minute."""
    ready = os.environ.get("READY_PREFECT_HOME")
    with scratch() as home:
        yield Path(shutil.copytree(ready, home, dirs_exist_ok=True)) if ready else home


def _run(url: str, manifest: Path, directory: Path) -> list[str]:
    report_dir = directory / "report"
    shutil.rmtree(report_dir, ignore_errors=True)
    return [sys.executable, "-c", PEAK_OF, "run", str(manifest), "-u", url, "--report-dir", str(report_dir)]


def _task_runs(api: str) -> int:
    return int(httpx.post(f"{api}/task_runs/count", json={}, timeout=30).json())
