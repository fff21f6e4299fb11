"""What standard error says while files move: a bar on a terminal, a line now and then anywhere else."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from flows.orchestration.background import running_beside
from flows.orchestration.run_progress import SAMPLED_EVERY_S, Sampler, Snapshot, sentence
from flows.orchestration.standard_streams import say
from tasks.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

# Where standard error is no terminal: within five seconds somebody knows that it is at work.
FIRST_LINE_S: Final = 3.0
LINE_EVERY_S: Final = 30.0
_REDRAW_S: Final = 0.5


def display_progress(progress: Progress) -> AbstractContextManager[None]:
    """Shows the progress on standard error until the block ends."""
    show = _show_bar if sys.stderr.isatty() else show_lines
    return running_beside(partial(show, progress), "progress")


def show_lines(
    progress: Progress, ended: threading.Event, clock: Callable[[], float] = time.monotonic
) -> None:
    """A line within five seconds and every half minute, until the run has ended."""
    sampler = Sampler(progress, clock)
    due = clock() + FIRST_LINE_S
    while not ended.wait(SAMPLED_EVERY_S):
        seen = sampler.snapshot()
        if clock() >= due:
            say(sentence(seen))
            due = clock() + LINE_EVERY_S


def _show_bar(progress: Progress, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live

    sampler, began = Sampler(progress), time.monotonic()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        while not ended.wait(_REDRAW_S):
            live.update(bar(sampler.snapshot(), time.monotonic() - began), refresh=True)


def bar(seen: Snapshot, elapsed_s: float) -> "RenderableType":
    """The bar with the time since the start, and below it the sentence."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = None if seen.scanning else max(1, seen.files_listed)
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=total, completed=seen.files_done, width=40),
        Text(str(timedelta(seconds=int(elapsed_s)))),
    )
    return Group(line, Text(sentence(seen)))
