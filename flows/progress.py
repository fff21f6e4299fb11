"""What a person sees while files move: a bar on a terminal, a line now and then anywhere else."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tasks.upload import Progress

_REDRAW_S: Final = 0.2
_LINE_EVERY_S: Final = 30.0
_MIB: Final = 1024 * 1024


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Shows the counters on standard error until the block ends."""
    show = _show_bar if sys.stderr.isatty() else _show_lines
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(progress, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sentence(progress: Progress, elapsed_s: float = 0.0) -> str:
    """The counters in words; the rate when a time is given. What is waited for, before any can move."""
    if progress.waiting_for:
        return progress.waiting_for
    rate = f", {progress.bytes_stored / _MIB / elapsed_s:.1f} MiB/s" if elapsed_s else ""
    failed = f", {progress.files_failed:,} failed" if progress.files_failed else ""
    scanning = ", still listing" if progress.scanning else ""
    return (
        f"{progress.files_done:,} of {progress.files_listed:,} files done, "
        f"{progress.files_stored:,} uploaded{failed}{rate}{scanning}"
    )


def _show_lines(progress: Progress, ended: threading.Event) -> None:
    began = time.monotonic()
    while not ended.wait(_LINE_EVERY_S):
        print(sentence(progress, time.monotonic() - began), file=sys.stderr, flush=True)


def _show_bar(progress: Progress, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    began = time.monotonic()
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("")
        while not ended.wait(_REDRAW_S):
            bars.update(
                bar,
                completed=progress.files_done,
                total=None if progress.scanning else progress.files_listed,
                description=sentence(progress, time.monotonic() - began),
            )
