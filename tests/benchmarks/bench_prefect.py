"""What Prefect costs: `run` against a warm server beside `upload`, the same files into the same sink."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.benchmarks.archives import SIZES, archive, scratch
from tests.benchmarks.nginx import nginx
from tests.benchmarks.senders import BIN, ours, summary_of, timed
from tests.benchmarks.table import Row

COUNT, ROUNDS = 10_000, 2


def rows(scale: float) -> Iterator[Row]:
    count = max(100, int(COUNT * scale))
    with archive(count, SIZES["33 KB"]) as directory, prefect_server() as environment:
        manifest = directory / "manifest.csv"
        manifest.write_text("study_dir\nstudy\n")
        run_rate, upload_rate = 0.0, 0.0
        for _ in range(ROUNDS):
            with nginx() as (url, _sink):
                run_wall_s = timed(_run(url, manifest, directory), environment).wall_s
            run_rate = max(run_rate, summary_of(directory)["files_per_s"])
            with nginx() as (url, _sink):
                upload_wall_s = timed(ours(url, directory)).wall_s
            upload_rate = max(upload_rate, summary_of(directory)["files_per_s"])
        task_runs = _task_runs(environment) / ROUNDS
    what = f"run of {count:,} files under a warm Prefect server"
    ratio = run_rate / upload_rate
    yield Row(what, f"{run_rate:.0f} files/s", f"upload {upload_rate:.0f}", ratio, "at least 0.9")
    yield Row(f"{what}, whole process", f"{run_wall_s:.1f} s", f"upload {upload_wall_s:.1f} s")
    yield Row(f"{what}, task runs", f"{task_runs:.0f}", bar="hundreds at most")


def _run(url: str, manifest: Path, directory: Path) -> list[str]:
    report_dir = directory / "report"
    shutil.rmtree(report_dir, ignore_errors=True)
    return [str(BIN / "dicom-ingest"), "run", str(manifest), "-u", url, "--report-dir", str(report_dir)]


def _task_runs(environment: dict[str, str]) -> int:
    url = f"{environment['PREFECT_API_URL']}/task_runs/count"
    return int(httpx.post(url, json={}, timeout=30).json())


@contextmanager
def prefect_server() -> Iterator[dict[str, str]]:
    """The environment of whoever uses it."""
    with scratch() as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        api = f"http://127.0.0.1:{port}/api"
        environment = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [str(BIN / "prefect"), "server", "start", "--port", str(port), "--no-ui"]
        server = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(f"{api}/health", server)
            yield environment
        finally:
            server.terminate()
            server.wait(30)


def _await(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError("Prefect's server does not come up")
