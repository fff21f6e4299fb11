"""What a run is asked to send a second at the most, and what a server gets.

Ours is the whole process. The server counts the bytes of bodies as they come, from the first to the last of
them: what the bucket lets pass, with the pauses between PUTs.
"""

from collections.abc import Iterator

from tests.benchmarks.archives import SIZES, archive
from tests.benchmarks.far_process import far_process
from tests.benchmarks.senders import ours, timed
from tests.benchmarks.table import Row

MIB = 1024 * 1024
# Files of a size, and MiB/s: ten seconds each.
ASKED = (("33 KB", 2), ("33 KB", 10), ("516 KB", 20))
SECONDS = 10


def rows(scale: float) -> Iterator[Row]:
    for name, rate in ASKED:
        count = max(5, int(rate * MIB * SECONDS * scale / SIZES[name]))
        with archive(count, SIZES[name]) as directory, far_process() as far:
            timed([*ours(far.url, directory), "--bandwidth", f"{rate}M"])
        saw = far.saw
        measured = saw["body_bytes"] / (saw["last_byte_at"] - saw["first_put_at"]) / MIB
        what = f"bandwidth of {rate} MiB/s, {name}"
        yield Row(what, f"{measured:.2f} MiB/s", f"asked {rate}", measured / rate, "0.97 to 1.03")
