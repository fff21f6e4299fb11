"""A far side that takes 40 ms for a URL and 120 ms for a PUT: the slots decide, and are to be full.

The steady part is that between the end of the first tenth of the files and that of the ninth. The sequential
script is timed on a sample.
"""

from collections.abc import Iterator

from tests.benchmarks.archives import SIZES, archive
from tests.benchmarks.far_process import far_process
from tests.benchmarks.senders import ours, script, steady_rate, timed
from tests.benchmarks.table import Row

PRESIGN_S, PUT_S, SLOTS = 0.04, 0.12, 20
COUNTS = {"33 KB": 5000, "516 KB": 2000}
SAMPLE = 200


def rows(scale: float) -> Iterator[Row]:
    bound = SLOTS / PUT_S
    for name, count in COUNTS.items():
        count, sample = max(100, int(count * scale)), max(5, int(SAMPLE * scale))
        with archive(count, SIZES[name]) as directory:
            with far_process(PRESIGN_S, PUT_S) as far:
                timed(ours(far.url, directory))
            steady = steady_rate(directory / "report", 0.1, 0.9)
            with far_process(PRESIGN_S, PUT_S) as other:
                sequential = sample / timed(script(other.url, directory, sample)).wall_s
        what = f"slow link, {name}"
        bar = "0.97 of 20 / PUT time"
        yield Row(f"{what}, steady", f"{steady:.0f} files/s", f"bound {bound:.0f}", steady / bound, bar)
        beside = f"script {sequential:.1f}"
        yield Row(what, f"{steady:.0f} files/s", beside, steady / sequential, "25 x the script")
        saw = far.saw
        most = int(saw["most_puts"])
        yield Row(f"{what}, PUTs at once", str(most), f"slots {SLOTS}", most / SLOTS, "never above 1")
        age = f"median {saw['median_age_s'] * 1e3:.0f} ms, oldest {saw['oldest_s'] * 1e3:.0f}"
        ratio = saw["oldest_s"] / PRESIGN_S
        yield Row(f"{what}, age of a URL when used", age, "presign 40 ms", ratio, "a few presign times")
