"""What a terminal, and Prefect's UI, show of a verification: how far it is, and in the end its counts.

Counts alone, and the report's directory: no path of a file, no UID, no key.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from flows.orchestration.progress_display import (
    FIRST_LINE_S,
    LINE_EVERY_S,
    bar_with_words,
    draw_until,
    showing,
)
from flows.orchestration.run_progress import rate
from flows.orchestration.standard_streams import Kind, say
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.signs import MEANINGS, Sign
from tasks.core.verification_totals import Verification
from tasks.core.words import counted, duration
from tasks.report.directory import REPAIR_KEYS_TXT, REPAIR_MANIFEST_CSV
from tasks.report.report_page import page_link
from tasks.verify_settings import VerifySettings

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOOK_S: Final = 0.5
_RECENT_S: Final = 60.0


def display_verification(progress: ComparisonProgress) -> AbstractContextManager[None]:
    """Says on standard error how far it is, until the block ends."""
    return showing(partial(_show_bar, progress), partial(show_lines, progress))


def show_lines(
    progress: ComparisonProgress,
    ended: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[..., None] = say,
) -> None:
    """A line within five seconds and every half minute."""
    pace = Pace(progress, clock)
    due = clock() + FIRST_LINE_S
    while not ended.wait(_LOOK_S):
        pace.look()
        if clock() >= due:
            say(pace.sentence(), Kind.PROGRESS, **pace.in_counters())
            due = clock() + LINE_EVERY_S


def _show_bar(progress: ComparisonProgress, ended: threading.Event) -> None:
    pace, began = Pace(progress), time.monotonic()

    def draw() -> "RenderableType":
        pace.look()
        is_bad = bool(progress.not_confirmed)
        total = progress.total or None
        return bar_with_words(progress.done, total, time.monotonic() - began, pace.sentence(), is_bad=is_bad)

    draw_until(ended, draw)


class Pace:
    """How fast a step has been in the last minute, and how long it lasts at that."""

    def __init__(self, progress: ComparisonProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._what = ""
        self._samples: deque[tuple[float, int]] = deque()

    def look(self) -> None:
        """Takes a sample; a new step begins anew."""
        at, done = self._clock(), self._progress.done
        if self._progress.what != self._what:
            self._what = self._progress.what
            self._samples.clear()
        if not self._samples or at - self._samples[-1][0] >= _LOOK_S:
            self._samples.append((at, done))
        while len(self._samples) > 1 and self._samples[1][0] <= at - _RECENT_S:
            self._samples.popleft()

    @property
    def per_s(self) -> float | None:
        """None while it is not known."""
        if len(self._samples) < 2:
            return None
        (began, first), (at, last) = self._samples[0], self._samples[-1]
        return max(0, last - first) / (at - began)

    @property
    def seconds_left(self) -> float | None:
        """Of this step; None while that is not known."""
        left = self._progress.total - self._progress.done
        return left / self.per_s if self.per_s and left > 0 else None

    def sentence(self) -> str:
        """For a person who waits."""
        parts = [self._progress.sentence()]
        if self.per_s:
            parts.append(f"{rate(self.per_s)}/s")
        if (left_s := self.seconds_left) is not None:
            parts.append(f"about {duration(left_s)} left of this step")
        return ", ".join(parts)

    def in_counters(self) -> dict[str, Any]:
        """For a line of JSON: what is not known is left out."""
        progress = self._progress
        counters: dict[str, Any] = {
            "step": progress.what,
            "done": progress.done,
            "total": progress.total,
            "bytes_done": progress.bytes_done,
            "not_confirmed": dict(progress.not_confirmed),
            "slots": progress.requests,
            "slots_in_use": progress.requests_in_use,
        }
        if self.per_s is not None:
            counters["per_s"] = round(self.per_s, 3)
        if (left_s := self.seconds_left) is not None:
            counters["seconds_left"] = round(left_s)
        return counters


def in_words(found: Verification) -> str:
    """The instances by their signs: "4 instances: 3 confirmed, 1 not in the bucket"."""
    signs = ", ".join(f"{count:,} {MEANINGS[Sign(sign)]}" for sign, count in found.by_sign.items())
    return f"{counted(found.instances, 'instance')}: {signs or 'none'}"


def lines(found: Verification, settings: VerifySettings) -> Iterator[str]:
    """What a person at a terminal is to know."""
    yield from found.problems
    yield in_words(found)
    if compared := compared_in_words(found):
        yield compared
    safe = ", ".join(f"{count:,} {answer}" for answer, count in found.safe_to_delete.items() if count)
    yield f"Safe to delete: {safe or 'no study'} (studies.csv)"
    yield from _repairs(found, settings)
    yield f"Verification: {settings.report_dir.absolute() / 'verification.csv'}"


def compared_in_words(found: Verification) -> str:
    """Whose bytes were compared, and how."""
    parts = []
    if found.compared_in_bucket:
        parts.append(f"{counted(found.compared_in_bucket, 'instance')} by the bucket's checksum")
    if found.retrieved:
        copies = ", ".join(f"{count:,} {what}" for what, count in found.retrieved.items())
        parts.append(f"{found.retrieved.get('same', 0):,} retrieved ({copies}; seed {found.seed})")
    return f"Bytes compared: {'; '.join(parts)}" if parts else ""


def _repairs(found: Verification, settings: VerifySettings) -> Iterator[str]:
    """The commands that repair it, by the same ledger; a run's report would take the place of this one's."""
    report_dir, ledger = settings.report_dir.absolute(), settings.ledger_at
    where = quote(str(ledger.absolute() if isinstance(ledger, Path) else ledger))
    if found.campaign != VerifySettings.campaign:
        where = f"{where} --campaign {found.campaign}"
    if found.to_send:
        manifest, repair = quote(str(report_dir / REPAIR_MANIFEST_CSV)), quote(f"{report_dir}-repair")
        yield f"What the bucket lacks: dicom-ingest run {manifest} --ledger {where} --report-dir {repair}"
    if found.to_register:
        keys, here = quote(str(report_dir / REPAIR_KEYS_TXT)), quote(str(report_dir))
        command = f"dicom-ingest ingest --keys {keys} --ledger {where} --report-dir {here}"
        yield f"What the registry lacks: {command}"


def markdown(found: Verification, report_dir: Path) -> str:
    """One verification for a person who looks at the UI."""
    rows = [f"| `{sign}` {MEANINGS[Sign(sign)]} | {count:,} |" for sign, count in found.by_sign.items()]
    safe = [f"| {answer} | {count:,} |" for answer, count in found.safe_to_delete.items()]
    text = [
        f"# {found.campaign}: exit code {found.exit_code}",
        f"{in_words(found)}.",
        *([f"{compared}."] if (compared := compared_in_words(found)) else []),
        "",
        *("| sign | instances |", "| --- | ---: |", *rows, ""),
        *("| safe to delete | studies |", "| --- | ---: |", *safe, ""),
        f"What was found is in `{report_dir.absolute()}` on the machine that ran it, of run {found.run_id}.",
        f"To look at, there: {page_link(report_dir)}.",
        *(f"- {problem}" for problem in found.problems),
    ]
    return "\n".join(text)


def counts(found: Verification) -> dict[str, Any]:
    """For an event, and the flow's state."""
    return {
        "run_id": found.run_id,
        "exit_code": found.exit_code,
        "instances": found.instances,
        "confirmed": found.confirmed,
        "by_sign": {MEANINGS[Sign(sign)]: count for sign, count in found.by_sign.items()},
        "studies": found.studies,
        "safe_to_delete": found.safe_to_delete,
    }
