"""What Prefect costs: `run` against a warm server beside `upload`, the same files into the same sink."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.benchmarks.archives import SIZES, archive, scratch
from tests.benchmarks.nginx import nginx
from tests.benchmarks.senders import BIN, ours, summary_of, timed
from tests.benchmarks.table import Row
from tests.prefect_server import PrefectServer

COUNT, ROUNDS = 10_000, 2


def rows(scale: float) -> Iterator[Row]:
    count = max(100, int(COUNT * scale))
    with archive(count, SIZES["33 KB"]) as directory, scratch() as home, PrefectServer(home) as server:
        manifest = directory / "manifest.csv"
        manifest.write_text("study_dir\nstudy\n")
        run_rate, upload_rate = 0.0, 0.0
        for _ in range(ROUNDS):
            with nginx() as (url, _sink):
                run_wall_s = timed(_run(url, manifest, directory), server.environment).wall_s
            run_rate = max(run_rate, summary_of(directory)["files_per_s"])
            with nginx() as (url, _sink):
                upload_wall_s = timed(ours(url, directory)).wall_s
            upload_rate = max(upload_rate, summary_of(directory)["files_per_s"])
        task_runs = _task_runs(server.url) / ROUNDS
    what = f"run of {count:,} files under a warm Prefect server"
    ratio = run_rate / upload_rate
    yield Row(what, f"{run_rate:.0f} files/s", f"upload {upload_rate:.0f}", ratio, "at least 0.9")
    yield Row(f"{what}, whole process", f"{run_wall_s:.1f} s", f"upload {upload_wall_s:.1f} s")
    yield Row(f"{what}, task runs", f"{task_runs:.0f}", bar="hundreds at most")


def _run(url: str, manifest: Path, directory: Path) -> list[str]:
    report_dir = directory / "report"
    shutil.rmtree(report_dir, ignore_errors=True)
    return [str(BIN / "dicom-ingest"), "run", str(manifest), "-u", url, "--report-dir", str(report_dir)]


def _task_runs(api: str) -> int:
    return int(httpx.post(f"{api}/task_runs/count", json={}, timeout=30).json())
