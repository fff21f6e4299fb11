"""The report of a run of 10,000, 100,000 and 1,000,000 files, 2 % duplicates and 1 % conflicts among them.

A row costs the same whatever the ledger holds. On SQLite, and on PostgreSQL where that is installed. Rows are
read and not written, and CPU is counted, the server's too, so that it is the databases that are timed.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tasks.ledger.ledger import Ledger
from tests.benchmarks.archives import scratch
from tests.benchmarks.table import Row
from tests.databases import PostgreSQL, binaries
from tests.tasks.ledger.large_ledger import RUN_ID, STUDY_FILES, fill

SIZES = 10_000, 100_000, 1_000_000
ROUNDS = 3


def rows(scale: float) -> Iterator[Row]:
    sizes = [max(100, int(size * scale) // STUDY_FILES * STUDY_FILES) for size in SIZES]
    with scratch() as directory:
        ledgers = [(size, directory / f"{size}.sqlite") for size in sizes]
        yield from _rows_of("SQLite", ledgers, time.process_time)
    where = binaries()
    if where is None:
        return
    server = PostgreSQL(where)
    try:
        databases = [(size, server.new_database()) for size in sizes]
        yield from _rows_of("PostgreSQL", databases, lambda: time.process_time() + _cpu_s_of(server))
    finally:
        server.remove()


def _rows_of(
    database: str, ledgers: Sequence[tuple[int, Path | str]], cpu_s: Callable[[], float]
) -> Iterator[Row]:
    first = 0.0
    for files, where in ledgers:
        fill(where, files, Path("/report"))
        seconds = min(_read(where, files, cpu_s) for _ in range(ROUNDS)) / files
        first = first or seconds
        beside = f"{ledgers[0][0]:,} files: {first * 1e6:.1f}"
        what = f"rows of a report of {files:,} files, {database}, CPU"
        yield Row(what, f"{seconds * 1e6:.1f} us each", beside, seconds / first, "at most 1.2")


def _read(where: Path | str, files: int, cpu_s: Callable[[], float]) -> float:
    ledger = Ledger(where, "default", RUN_ID)
    next(ledger.report_rows())  # what the first connection costs, and the first compilation
    began = cpu_s()
    assert sum(1 for _ in ledger.report_rows()) == files
    took = cpu_s() - began
    ledger.close()
    return took


def _cpu_s_of(server: PostgreSQL) -> float:
    """Of the processes that serve connections: their CPU, user and system (proc(5))."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[1] == str(server.pid):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
