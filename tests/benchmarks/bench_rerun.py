"""How fast a finished campaign is rerun, and in how much memory: `upload` as a process of its own.

    python -m tests.benchmarks.bench_rerun [FILES]

The files are empty and their rows are put in through the ledger's own interface. The bar: 20,000 files/s from
the start of the process to its end, with the report written, in less than 400 MiB.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Process
from pathlib import Path

from tasks.core.models import Digests, Header, Listed, Outcome, RunFacts, Status, StudyEntry, Todo
from tasks.ledger import Ledger
from tasks.scan import survey, walk_study
from tests.benchmarks.far_process import far_process
from tests.far_side import TOKEN

FILES = 200_000
FILES_IN_A_DIRECTORY = 1000


def main() -> None:
    """Prints one line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        seeding = Process(target=seed, args=(directory, count))  # a child's peak counts its parent's memory
        seeding.start()
        seeding.join()
        with far_process() as url:
            wall_s, peak_mib = rerun(directory, url)
    finally:
        shutil.rmtree(directory)
    print(
        f"rerun of {count:,} stored files: {wall_s:.1f} s, {count / wall_s:,.0f} files/s, {peak_mib:.0f} MiB"
    )


def rerun(directory: Path, url: str) -> tuple[float, float]:
    """The very command: its seconds, and its largest MiB as it says itself."""
    arguments = [
        "upload",
        "-u",
        url,
        "-p",
        str(directory / "archive"),
        "--report-dir",
        str(directory / "report"),
    ]
    code = (
        "import resource, sys; from flows.cli import execute; assert execute(sys.argv[1:]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"DICOM_INGEST_TOKEN": TOKEN},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began, float(process.stdout)


def seed(directory: Path, count: int) -> None:
    """An archive, and the ledger of a run that stored it."""
    archive, report_dir = directory / "archive", directory / "report"
    for number in range(count):
        path = archive / f"{number // FILES_IN_A_DIRECTORY:06}" / f"{number:08}.dcm"
        if number % FILES_IN_A_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    entry = StudyEntry(1, str(archive))
    ledger = Ledger(report_dir / "ledger.sqlite", "default", "seed")
    ledger.begin(time.time_ns(), report_dir, [entry], {})
    rows = [row for row in walk_study(entry, survey([entry])) if isinstance(row, Listed)]
    with ThreadPoolExecutor(100) as pool:
        for batch_no, start in enumerate(range(0, count, 5000), 1):
            store(ledger, batch_no, rows[start : start + 5000], pool)
    ledger.end(RunFacts("seed", "default", 1, 2, peak_parallel=20))
    ledger.close()


def store(ledger: Ledger, batch_no: int, rows: Sequence[Listed], pool: ThreadPoolExecutor) -> None:
    """As the workers do it: each file claims, is issued a key, and settles."""
    mtimes = {row.path: row.mtime_ns for row in rows}

    def one(todo: Todo) -> None:
        uid, key = f"1.2.840.{todo.file_no}", f"uploads/2026-01-01/{todo.file_no:032}.dcm"
        ledger.claim(todo, uid)
        ledger.issue(todo, uid, key, 1)
        header = Header(uid, "1.2.840.1", "1.2.840.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        digests = Digests("ab" * 32, "cd" * 16)
        mtime_ns = mtimes[todo.path]
        outcome = Outcome(
            Status.UPLOADED, header=header, digests=digests, size_bytes=0, mtime_ns=mtime_ns, key=key
        )
        ledger.settle(todo, outcome)

    ledger.enrol(batch_no, rows, [])
    list(pool.map(one, ledger.todo(batch_no)))


if __name__ == "__main__":
    main()
