"""What Prefect costs: `run` against a warm server beside `upload`, the same files into the same sink."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx

from tests.benchmarks.archives import SIZES, archive, scratch
from tests.benchmarks.nginx import nginx
from tests.benchmarks.senders import PEAK_OF, median_of, ours, rounds, steady_rate, timed
from tests.benchmarks.table import Row
from tests.prefect_server import PrefectServer

COUNT, ROUNDS = 10_000, 3
FEWER = 5  # times fewer files, to see that memory does not depend on them


def rows(scale: float) -> Iterator[Row]:
    count = max(100, int(COUNT * scale))
    times = rounds(ROUNDS, scale)
    with archive(count, SIZES["33 KB"]) as directory, _home() as home, PrefectServer(home) as server:
        manifest = directory / "manifest.csv"
        manifest.write_text("study_dir\nstudy\n")
        runs, uploads, run_rates, upload_rates = [], [], [], []
        for _ in range(times):
            with nginx() as (url, _sink):
                runs.append(timed(_run(url, manifest, directory), server.environment))
            run_rates.append(steady_rate(directory / "report"))
            with nginx() as (url, _sink):
                uploads.append(timed(ours(url, directory)))
            upload_rates.append(steady_rate(directory / "report"))
        run, upload = median_of(runs), median_of(uploads)
        task_runs = _task_runs(server.url) / times
        for file in sorted((directory / "study").iterdir())[count // FEWER :]:
            file.unlink()
        with nginx() as (url, _sink):
            fewer_mib = float(timed(_run(url, manifest, directory), server.environment).said)
    what = f"run of {count:,} files under a warm Prefect server"
    run_rate, upload_rate = median(run_rates), median(upload_rates)
    between = f"{what}, between first and last outcome"
    yield Row(between, f"{run_rate:.0f} files/s", f"upload {upload_rate:.0f}", run_rate / upload_rate, "0.92")
    yield Row(f"{what}, whole process", f"{run.wall_s:.1f} s", f"upload {upload.wall_s:.1f} s")
    yield Row(f"{what}, memory", f"{float(run.said):.0f} MiB", f"{count // FEWER:,} files {fewer_mib:.0f}")
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
