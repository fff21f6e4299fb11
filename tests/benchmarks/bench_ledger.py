"""What the ledger costs of an upload's CPU, and whether a slot waits for it.

    python -m tests.benchmarks.bench_ledger

The ledger's thread is timed by its own CPU clock while files go to a far side in another process. Its bar is
a tenth of all CPU per file. Slots that wait for nothing send 20 / PUT time files a second to a slow far side.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.models import StudyEntry, Summary
from tasks.engine import ingest
from tasks.settings import load
from tests.benchmarks.far_process import far_process
from tests.conftest import instance
from tests.far_side import TOKEN

SIZES = {"33 KB": (33 * 1024, 2000), "516 KB": (516 * 1024, 800)}
PUT_S, PRESIGN_S = 0.12, 0.04


def main() -> None:
    """Prints a line per size of file, and one for the slow far side."""
    print(f"{'fast far side':<16}{'files':>7}{'files/s':>9}{'CPU ms':>9}{'ledger ms':>11}{'share':>8}")
    for name, (size, count) in SIZES.items():
        with archive(count, size) as directory, far_process() as url, ledger_cpu() as ledger_s:
            began = time.process_time()
            summary = upload(directory, url)
            cpu_s = time.process_time() - began
            of_ledger = ledger_s() / count
        print(
            f"{name:<16}{count:>7}{summary.files_per_s:>9.0f}{cpu_s / count * 1e3:>9.2f}"
            f"{of_ledger * 1e3:>11.3f}{of_ledger / (cpu_s / count):>8.1%}"
        )
    with archive(1500, 33 * 1024) as directory, far_process(PRESIGN_S, PUT_S) as url:
        rate = upload(directory, url).files_per_s
    bound = 20 / PUT_S
    print(
        f"slow far side (presign 40 ms, PUT 120 ms): {rate:.0f} files/s, {rate / bound:.0%} of 20 / PUT time"
    )


def upload(directory: Path, url: str) -> Summary:
    """One study, with its report."""
    settings = load(api_endpoint=url, token=TOKEN, report_dir=directory / "report")
    return ingest([StudyEntry(1, str(directory / "study"))], settings)


@contextmanager
def archive(count: int, size_bytes: int) -> Iterator[Path]:
    """A study of so many instances in memory."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (directory / "study").mkdir()
    for number in range(count):
        body = instance(f"1.2.{number}", pixel_bytes=size_bytes // 2048 * 2048)
        (directory / "study" / f"{number:06}.dcm").write_bytes(body)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def ledger_cpu() -> Iterator["Callable[[], float]"]:
    """The CPU seconds of the ledger's thread so far, also when it has ended."""
    seen = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal seen
        while not ended.wait(0.02):
            for thread in threading.enumerate():
                if thread.name == "ledger" and thread.ident:
                    seen = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: seen
    finally:
        ended.set()
        watcher.join()


if __name__ == "__main__":
    main()
