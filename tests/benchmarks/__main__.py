"""All benchmarks, one after another: `make bench`. They print; they assert nothing of how fast anything is.

    python -m tests.benchmarks [--scale 0.02] [NAME ...]

About twelve minutes on two cores. With a small scale it shows in a minute that all of them run.
"""

import argparse
import shutil
import sys
import time

from tests.benchmarks import (
    bench_bandwidth,
    bench_dicomweb,
    bench_fast_link,
    bench_ingest,
    bench_page,
    bench_prefect,
    bench_progress,
    bench_read,
    bench_report,
    bench_size,
    bench_slow_link,
    bench_start,
    bench_verify,
)
from tests.benchmarks.table import Row, markdown

BENCHMARKS = {
    "start": bench_start,
    "read": bench_read,
    "slow_link": bench_slow_link,
    "bandwidth": bench_bandwidth,
    "fast_link": bench_fast_link,
    "prefect": bench_prefect,
    "progress": bench_progress,
    "size": bench_size,
    "report": bench_report,
    "page": bench_page,
    "verify": bench_verify,
    "dicomweb": bench_dicomweb,
    "ingest": bench_ingest,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of files")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    given = parser.parse_args()
    if missing := [program for program in ("nginx", "curl") if not shutil.which(program)]:
        sys.exit(f"These have to be installed: {', '.join(missing)} (apt-get install nginx-light curl)")
    rows: list[Row] = []
    for name in given.names or BENCHMARKS:
        began = time.monotonic()
        for row in BENCHMARKS[name].rows(given.scale):
            print(" ".join(row.cells()), file=sys.stderr)
            rows.append(row)
        print(f"({name}: {time.monotonic() - began:.0f} s)", file=sys.stderr)
    print(markdown(rows))


if __name__ == "__main__":
    main()
