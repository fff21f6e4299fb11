"""What it costs to show how far an upload is: its CPU with a bar, or with lines, beside that with --quiet.

Over the slow link, where a run takes long and so the bar is drawn often. In pairs, one after the other, for
the machine is as fast as it pleases; whole processes, so that what the bar's library takes to import counts.
"""

import os
import pty
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.archives import SIZES, archive
from tests.benchmarks.far_process import far_process
from tests.benchmarks.senders import ours, rounds
from tests.benchmarks.table import Row
from tests.far_side import TOKEN

COUNT, ROUNDS = 5000, 3
PRESIGN_S, PUT_S = 0.04, 0.12


@dataclass(frozen=True, slots=True)
class Pair:
    """CPU and wall clock in seconds, with and without."""

    shown_cpu_s: float
    quiet_cpu_s: float
    wall_s: float

    @property
    def share(self) -> float:
        """Of one core, in percent."""
        return 100 * (self.shown_cpu_s - self.quiet_cpu_s) / self.wall_s


def rows(scale: float) -> Iterator[Row]:
    with archive(max(100, int(COUNT * scale)), SIZES["33 KB"]) as directory:
        for what, on_terminal in (("a bar on a terminal", True), ("lines", False)):
            pairs = [_pair(directory, on_terminal=on_terminal) for _ in range(rounds(ROUNDS, scale))]
            share = median(pair.share for pair in pairs)
            ratio = median(pair.shown_cpu_s / pair.quiet_cpu_s for pair in pairs)
            quiet = median(pair.quiet_cpu_s for pair in pairs)
            beside = f"--quiet {quiet:.1f} s of CPU"
            yield Row(f"progress, {what}", f"{share:.2f} % of a core", beside, ratio, "below 2 %")


def _pair(directory: Path, *, on_terminal: bool) -> Pair:
    shown, wall_s = _cpu_s(directory, [], on_terminal=on_terminal)
    quiet, _ = _cpu_s(directory, ["--quiet"], on_terminal=on_terminal)
    return Pair(shown, quiet, wall_s)


def _cpu_s(directory: Path, options: list[str], *, on_terminal: bool) -> tuple[float, float]:
    """Of one upload; what it says is read, as a terminal does."""
    with far_process(PRESIGN_S, PUT_S) as far:
        mine, theirs = pty.openpty() if on_terminal else os.pipe()
        before, began = _children_s(), time.monotonic()
        process = subprocess.Popen(
            [*ours(far.url, directory), *options],
            env=os.environ | {"DICOM_INGEST_TOKEN": TOKEN, "TERM": "xterm", "COLUMNS": "120"},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        reading = threading.Thread(target=_read_all, args=(mine,), daemon=True)
        reading.start()
        if code := process.wait():
            raise RuntimeError(f"upload ended with {code}")
        cpu_s, wall_s = _children_s() - before, time.monotonic() - began
        reading.join(10)
        os.close(mine)
    return cpu_s, wall_s


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read_all(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:  # of a terminal whose other side is closed
        return
