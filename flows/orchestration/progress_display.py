"""What standard error says while files move: a bar on a terminal, a line now and then anywhere else.

With --json-logs each such line is an object with counters, on a terminal, too; with --quiet there is none.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flows.orchestration.background import running_beside
from flows.orchestration.run_progress import SAMPLED_EVERY_S, Sampler, Snapshot, in_counters, sentence
from flows.orchestration.standard_streams import Kind, current_output, say
from tasks.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

# Where standard error is no terminal: within five seconds somebody knows that it is at work.
FIRST_LINE_S: Final = 3.0
LINE_EVERY_S: Final = 30.0
_REDRAW_S: Final = 0.5
_TYPEWRITERS: Final = frozenset({"dumb", "unknown"})  # terminals that draw over nothing
_WIDEST: Final = 60  # of a bar


def display_progress(progress: Progress) -> AbstractContextManager[None]:
    """Shows the progress on standard error until the block ends."""
    return showing(partial(_show_bar, progress), partial(show_lines, progress))


def showing(
    on_terminal: Callable[[threading.Event], None], elsewhere: Callable[[threading.Event], None]
) -> AbstractContextManager[None]:
    """Has one of the two show something until the block ends, or none of them."""
    output = current_output()
    if output.is_quiet:
        return nullcontext()
    is_drawn = sys.stderr.isatty() and not output.is_json and os.environ.get("TERM") not in _TYPEWRITERS
    return running_beside(on_terminal if is_drawn else elsewhere, "progress")


def show_lines(
    progress: Progress, ended: threading.Event, clock: Callable[[], float] = time.monotonic
) -> None:
    """A line within five seconds and every half minute, until the run has ended."""
    sampler = Sampler(progress, clock)
    due = clock() + FIRST_LINE_S
    while not ended.wait(SAMPLED_EVERY_S):
        seen = sampler.snapshot()
        if clock() >= due:
            say(sentence(seen), Kind.PROGRESS, **in_counters(seen))
            due = clock() + LINE_EVERY_S


def _show_bar(progress: Progress, ended: threading.Event) -> None:
    sampler, began = Sampler(progress), time.monotonic()
    draw_until(ended, lambda: bar(sampler.snapshot(), time.monotonic() - began))


def draw_until(ended: threading.Event, draw: Callable[[], "RenderableType"]) -> None:
    """Draws on the terminal, over what was drawn before; in the end nothing of it is left."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        while not ended.wait(_REDRAW_S):
            live.update(draw(), refresh=True)


def bar(seen: Snapshot, elapsed_s: float) -> "RenderableType":
    """The bar with how much of it is done and the time since the start, and below it the sentence."""
    done, total = seen.files_done, None if seen.scanning else max(1, seen.files_listed)
    if seen.studies_listed:
        done, total = seen.studies_done, seen.studies_listed
    return bar_with_words(done, total, elapsed_s, sentence(seen), is_bad=seen.files_failed > 0)


def bar_with_words(
    done: int, total: int | None, elapsed_s: float, words: str, *, is_bad: bool = False
) -> "RenderableType":
    """On a terminal of any width; a total of None is not known yet."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line: Any = Table.grid(padding=(0, 1))
    line.add_column(ratio=1, max_width=_WIDEST)
    percent = "" if total is None else f"{min(100, 100 * done // max(1, total))} %"
    elapsed = Text(str(timedelta(seconds=int(elapsed_s))), no_wrap=True)
    line.add_row(ProgressBar(total=total, completed=done), Text(percent, no_wrap=True), elapsed)
    text = Text(words)
    if is_bad:
        text.highlight_regex(r"[\d,]+ (failed|not confirmed)", "bold red")
    return Group(line, text)
