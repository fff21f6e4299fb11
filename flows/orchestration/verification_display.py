"""What a terminal, and Prefect's UI, show of a verification: how far it is, and in the end its counts.

Counts alone, and the report's directory: no path of a file, no UID, no key.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Final

from flows.orchestration.artifacts import page_link
from flows.orchestration.background import running_beside
from flows.orchestration.progress_display import FIRST_LINE_S, LINE_EVERY_S
from flows.orchestration.standard_streams import say
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.signs import MEANINGS, Sign
from tasks.core.verification_totals import Verification
from tasks.core.words import counted
from tasks.report.directory import REPAIR_KEYS_TXT, REPAIR_MANIFEST_CSV
from tasks.verify_settings import VerifySettings

_LOOK_S: Final = 0.5


@contextmanager
def display_verification(progress: ComparisonProgress) -> Iterator[None]:
    """Says on standard error how far it is, until the block ends."""
    show = _show_line_over if sys.stderr.isatty() else show_lines
    with running_beside(partial(show, progress), "progress"):
        yield


def show_lines(
    progress: ComparisonProgress,
    ended: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = say,
) -> None:
    """A line within five seconds and every half minute."""
    due = clock() + FIRST_LINE_S
    while not ended.wait(_LOOK_S):
        if clock() >= due:
            say(progress.sentence())
            due = clock() + LINE_EVERY_S


def _show_line_over(progress: ComparisonProgress, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        while not ended.wait(_LOOK_S):
            live.update(Text(progress.sentence()), refresh=True)


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
