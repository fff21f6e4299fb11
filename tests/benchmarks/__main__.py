"""All benchmarks, one after another: `make bench`. They print; they assert nothing."""

from tests.benchmarks import bench_fast_link, bench_header, bench_ledger, bench_rerun


def main() -> None:
    """About four minutes."""
    for benchmark in (bench_header, bench_ledger, bench_rerun, bench_fast_link):
        print(f"\n{benchmark.__name__.rpartition('.')[2]}")
        benchmark.main()


if __name__ == "__main__":
    main()
