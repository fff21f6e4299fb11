"""Size does not matter: a file of 4 GiB, many files, a finished campaign of a million, in flat memory.

The campaign's files are a scan that is made up; its rows are put in through the ledger's own interface. Each
run is a process of its own, and says its largest memory itself: that of a child counts its parent's.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing import Process
from pathlib import Path

from tasks.core.models import (
    Digests,
    Header,
    Listed,
    Outcome,
    RunFacts,
    Status,
    StudyEntry,
    Todo,
)
from tasks.ledger.file_requests import Claiming, Issuing, Settling
from tasks.ledger.ledger import Ledger
from tests.benchmarks.archives import archive, scratch
from tests.benchmarks.far_process import far_process
from tests.benchmarks.nginx import nginx
from tests.benchmarks.senders import PEAK_OF, timed
from tests.benchmarks.table import Row
from tests.conftest import instance
from tests.tasks.ledger.sample_rows import answered

LARGE_BYTES = 4 * 1024**3
MANY = 10_000, 100_000  # small files
STUDIES, FILES_IN_A_STUDY = 20_000, 50
SMALL = 100  # a campaign with so many times fewer studies is what a million is compared with


def rows(scale: float) -> Iterator[Row]:
    yield _large_file(int(LARGE_BYTES * scale))
    yield _many_files([max(20, int(count * scale)) for count in MANY])
    yield from _large_campaign(max(200, int(STUDIES * scale)))


def _large_file(size_bytes: int) -> Row:
    with archive(1, 33 * 1024) as directory, nginx() as (url, _sink):
        idle = _upload_peak(url, directory)
        file = directory / "study" / "large.dcm"
        small = instance("1.2.3.4", pixel_bytes=2048)
        head, length = small[:-2048], (size_bytes - len(small)) // 2048 * 2048
        with file.open("wb") as large:
            large.write(head[:-4] + length.to_bytes(4, "little"))
            large.truncate(len(head) + length)
        peak = _upload_peak(url, directory)
    more = peak - idle
    what = f"one sparse file of {size_bytes / 1024**3:.2g} GiB"
    return Row(what, f"{peak:.0f} MiB", f"one of 33 KB {idle:.0f}", bar=f"64 MiB more: {more:.0f}")


def _many_files(counts: list[int]) -> Row:
    peaks = []
    for count in counts:
        with archive(count, 2048) as directory, nginx() as (url, _sink):
            peaks.append(_upload_peak(url, directory))
    what = f"upload of {counts[-1]:,} files, memory"
    beside = f"{counts[0]:,} files {peaks[0]:.0f}"
    return Row(what, f"{peaks[-1]:.0f} MiB", beside, peaks[-1] / peaks[0], "flat, below 200 MiB")


def _upload_peak(url: str, directory: Path) -> float:
    report_dir = directory / f"report-{time.monotonic_ns()}"
    command = ["upload", "-u", url, "-p", str(directory / "study"), "--report-dir", str(report_dir)]
    return float(timed([sys.executable, "-c", PEAK_OF, *command]).said)


def _large_campaign(studies: int) -> Iterator[Row]:
    with far_process() as far:
        small, _ = _rerun(far.url, max(2, studies // SMALL))
        large, peak_mib = _rerun(far.url, studies)
    files = studies * FILES_IN_A_STUDY
    what = f"rerun of a finished campaign, {studies:,} studies, {files:,} files"
    per_file = f"{large * 1e6:.0f} us per file"
    yield Row(what, per_file, f"{files // SMALL:,} files: {small * 1e6:.0f}", large / small, "at most 1.3")
    yield Row(f"{what}, memory", f"{peak_mib:.0f} MiB", bar="below 500")


def _rerun(url: str, studies: int) -> tuple[float, float]:
    """Seconds per file, the report included, and MiB."""
    with scratch() as directory:
        seeding = Process(target=seed, args=(directory, studies))
        seeding.start()
        seeding.join()
        assert seeding.exitcode == 0
        arguments = [url, str(directory), str(studies)]
        told = json.loads(timed([sys.executable, "-m", "tests.benchmarks.bench_size", *arguments]).said)
    return told["wall_s"] / (studies * FILES_IN_A_STUDY), told["peak_mib"]


def main() -> None:
    """One rerun; prints its seconds and its largest memory."""
    import resource

    from tasks.run.engine import ingest
    from tasks.settings import load

    url, directory, studies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    began = time.monotonic()
    settings = load(api_endpoint=url, report_dir=directory / "report")
    summary = ingest(_entries(studies), settings, scan=_made_up)
    assert summary.by_status == {"already_uploaded": studies * FILES_IN_A_STUDY}, summary.by_status
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_s": time.monotonic() - began, "peak_mib": peak_mib}))


def _entries(studies: int) -> list[StudyEntry]:
    return [StudyEntry(number, f"/archive/{number:06}") for number in range(1, studies + 1)]


def _made_up(entry: StudyEntry, _territory: object) -> Iterator[Listed]:
    for number in range(1, FILES_IN_A_STUDY + 1):
        path = f"{entry.study_dir}/1.2.840.113619.2.{entry.study_no}.{number}.dcm"
        yield Listed(entry.study_no, number, path, 526_336, 1_700_000_000_000_000_000)


def seed(directory: Path, studies: int) -> None:
    """The ledger of a run that stored all of it."""
    report_dir = directory / "report"
    ledger = Ledger(report_dir / "ledger.sqlite", "default", "seed")
    entries = _entries(studies)
    ledger.begin(time.time_ns(), directory / "seed", entries, {})  # it has no trail in the other one
    files = (row for entry in entries for row in _made_up(entry, None))
    batch_no = 0
    while rows := list(islice(files, 2000)):
        batch_no += 1
        ledger.enrol(batch_no, rows, [])
        todos = list(ledger.todo(batch_no))
        for requests in (
            [Claiming(todo, _uid(todo)) for todo in todos],
            [Issuing(todo, _uid(todo), _key(todo), 1) for todo in todos],
            [Settling(todo, _outcome(todo)) for todo in todos],
        ):
            answered(ledger, requests)
    ledger.end(RunFacts("seed", "default", 1, 2, peak_parallel=20))
    ledger.close()


def _uid(todo: Todo) -> str:
    return f"1.2.840.113619.2.{todo.study_no}.{todo.file_no}"


def _key(todo: Todo) -> str:
    return f"uploads/2026-01-01/{todo.study_no:016}{todo.file_no:016}.dcm"


def _outcome(todo: Todo) -> Outcome:
    study = f"1.2.840.113619.1.{todo.study_no}"
    return Outcome(
        Status.UPLOADED,
        header=Header(_uid(todo), study, f"{study}.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),
        digests=Digests(f"{todo.file_id:064x}", f"{todo.file_id:032x}"),
        size_bytes=526_336,
        mtime_ns=1_700_000_000_000_000_000,
        key=_key(todo),
        etag=f"{todo.file_id:032x}",
        attempts=1,
        http_status=200,
        started_ns=1,
        finished_ns=2,
    )


if __name__ == "__main__":
    main()
