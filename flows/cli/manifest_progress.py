"""What a person sees of `manifest`: a bar on a terminal, or a line now and then, and what a scan found."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from flows.orchestration.progress_display import (
    FIRST_LINE_S,
    LINE_EVERY_S,
    bar_with_words,
    draw_until,
    showing,
)
from flows.orchestration.standard_streams import Kind, say
from tasks.core.words import counted, duration
from tasks.source.expected_instances import Counts

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR_AFTER_S: Final = 1.0  # what ends sooner needs none


def show_counts(counts: Counts) -> AbstractContextManager[None]:
    """Shows the counts on standard error until the block ends."""
    return showing(lambda ended: _show_bar(counts, ended), lambda ended: show_lines(counts, ended.wait))


def scan_sentences(counts: Counts) -> Iterator[str]:
    """What a run will store, and in one line how many files are no part of that."""
    yield f"Expected: {counted(counts.instances, 'instance')}, {counted(counts.size_bytes, 'byte')}"
    parts = (
        (counts.repeated, "file", "with a SOP Instance UID of another file of the study"),
        (counts.unsent, "file", "that would not be sent (no image, not whole, over 5 GiB)"),
        (counts.unreadable, "path", "that can't be read (mend that, then scan again)"),
    )
    if not_counted := [f"{counted(count, noun)} {which}" for count, noun, which in parts if count]:
        yield f"Not counted: {'; '.join(not_counted)}"


def sentence(counts: Counts, scanning_s: float) -> str:
    """The counts in words; `scanning_s`: since the first study directory was scanned."""
    found = counted(counts.study_dirs, "study directory")
    if counts.finding:
        return f"{found} found, still looking"
    read = counted(counts.files, "file")
    return f"{counts.scanned:,} of {found} scanned, {read} read{_pace(counts, scanning_s)}"


def _pace(counts: Counts, scanning_s: float) -> str:
    if not (counts.scanned and scanning_s):
        return ""
    left_s = scanning_s / counts.scanned * (counts.study_dirs - counts.scanned)
    return f", {counts.files / scanning_s:,.0f} files/s, about {duration(left_s)} left"


def _in_counters(counts: Counts) -> dict[str, Any]:
    """For a line of JSON."""
    return {
        "study_dirs": counts.study_dirs,
        "scanned": counts.scanned,
        "files": counts.files,
        "bytes": counts.size_bytes,
    }


class _Clock:
    """How long the scan has been at work; not counted is the time in which directories are found."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._began_s = time.monotonic()

    def scanning_s(self) -> float:
        if self._counts.finding:
            self._began_s = time.monotonic()
        return time.monotonic() - self._began_s


def show_lines(
    counts: Counts,
    wait: Callable[[float], bool],
    write: Callable[..., None] = say,
) -> None:
    """A line within five seconds and every half minute, until `wait` says that it is over."""
    clock = _Clock(counts)
    pause_s = FIRST_LINE_S
    while not wait(pause_s):
        write(sentence(counts, clock.scanning_s()), Kind.PROGRESS, **_in_counters(counts))
        pause_s = LINE_EVERY_S


def _show_bar(counts: Counts, ended: threading.Event) -> None:
    if ended.wait(_BAR_AFTER_S):
        return
    clock, began_s = _Clock(counts), time.monotonic()

    def draw() -> "RenderableType":
        total = None if counts.finding else counts.study_dirs
        words = sentence(counts, clock.scanning_s())
        return bar_with_words(counts.scanned, total, time.monotonic() - began_s, words)

    draw_until(ended, draw)
