"""What a command says of a run: what it begins, what became of its files, and where the report is."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from flows.orchestration.standard_streams import Kind, list_out, say
from tasks.core.words import counted, one_word

if TYPE_CHECKING:
    from tasks.core.models import Summary
    from tasks.ledger.earlier_runs import Begins
    from tasks.settings import Settings

# Of the last line of a run, in JSON; by their names in summary.json.
_COUNTERS: Final = ("run_id", "exit_code", "files", "by_status", "wall_s", "files_per_s", "bytes_per_s")


def say_what_begins(settings: "Settings", begins: "Begins") -> None:
    """Says that the ledger, or the campaign in it, is new, when it is."""
    from tasks.core.escape import escape

    ledger_at = settings.ledger_at
    name = escape(str(ledger_at.absolute() if isinstance(ledger_at, Path) else ledger_at))
    if sentence := begins.sentence(settings.campaign, name):
        say(sentence, Kind.NEWS)


def list_files(report_dir: Path) -> None:
    """Each file's path, key and outcome to standard output, a line each."""
    from tasks.core.escape import escape
    from tasks.report.reader import read_report

    def line(row: dict[str, str]) -> str:
        outcome = " ".join(filter(None, (row["status"], row["reason"], one_word(row["detail"]))))
        return f"{escape(row['path'])}\t{escape(row['key']) or '-'}\t{escape(outcome)}"

    list_out(map(line, read_report(report_dir)))


def say_summary(summary: "Summary", report_dir: Path) -> None:
    """Counts, the first studies that are not complete, the pace, and the report's path."""
    from flows.orchestration.incomplete import LINES_SHOWN, in_words, lines, not_complete

    for problem in summary.problems:
        say(problem, Kind.WARNING)
    statuses = ", ".join(f"{count:,} {status}" for status, count in summary.by_status.items())
    rate = summary.bytes_per_s / 1024 / 1024
    say(f"{counted(summary.files, 'file')}: {statuses or 'none'}")
    found = not_complete(summary, report_dir, LINES_SHOWN)
    for sentence in (*in_words(summary, found), *lines(found)):
        say(sentence)
    say(f"{summary.wall_s:.1f} s, {summary.files_per_s:,.0f} files/s, {rate:,.1f} MiB/s", Kind.NEWS)
    counters = {name: getattr(summary, name) for name in _COUNTERS}
    say(f"Report: {report_dir.absolute() / 'report.csv'}", **counters)
