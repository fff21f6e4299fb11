"""How `dicom-ingest resolve` settles rows: by rule, by a list, and one by one at a terminal."""

import sqlite3
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.cli.run_messages import say_summary
from flows.orchestration.standard_streams import list_out, say
from tasks.core.decisions import Decision, objection, possible
from tasks.core.errors import UsageError
from tasks.core.report_columns import ReportRow
from tasks.core.words import counted
from tasks.ledger.decided import Decisions
from tasks.run.decision_lists import DecisionList, comparison_of, csv_lines, json_lines, listed, read_list
from tasks.run.resolution import (
    Chosen,
    Resolved,
    Rule,
    decision_of,
    read_exceptions,
    require_reason,
    require_statuses,
    require_user,
    resolve,
    standing,
)
from tasks.settings import ResolveSettings

_SKIP: Final = ""
_QUIT: Final = "quit"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are asked about; of what is not named, all."""

    statuses: Collection[str]
    reasons: Collection[str]

    def __call__(self, rows: Iterable[ReportRow]) -> Iterator[ReportRow]:
        """Those of the rows."""
        for row in rows:
            if (not self.statuses or row.status in self.statuses) and (
                not self.reasons or row.reason in self.reasons
            ):
                yield row


@dataclass(frozen=True, slots=True)
class Look:
    """Whether the files of a conflict are compared, and whether their values are shown."""

    compare: bool = True
    with_values: bool = False


def is_asked_at_terminal() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def resolve_by_rule(settings: ResolveSettings, decision: str, reason_text: str, chosen: Filter) -> int:
    """All rows of some statuses alike."""
    rule = Rule(decision_of(decision), require_reason(reason_text), chosen.statuses, chosen.reasons)
    resolved = resolve(settings, rule.decisions)
    for why, count in sorted(rule.left.items()):
        say(f"Left as it was: {counted(count, 'row')} that {why}")
    return _say_end(settings, resolved)


def resolve_by_list(settings: ResolveSettings, at: Path, reason_text: str, rule: Iterable[str] = ()) -> int:
    """As a list says that came back; 1 when some of it was refused. UsageError for a `rule` beside it."""
    if any(rule):
        raise UsageError(
            "--decisions settles what its list says, row by row. Leave out --decision, --status and "
            "--reason, or settle by them without a list. Nothing was decided."
        )
    with closing(sqlite3.connect("")) as database, closing(Decisions(settings.ledger_at)) as decisions:
        found = read_list(at, reason_text, database, decisions)
        resolved = resolve(settings, found.choose)
    if found.unchanged:
        say(f"Decided so already: {counted(found.unchanged, 'row')}")
    _say_refused(found)
    return _say_end(settings, resolved) or int(found.refused.total() > 0)


def write_list(settings: ResolveSettings, chosen: Filter, look: Look, *, as_json: bool) -> int:
    """To standard output. Nothing is changed."""
    if chosen.statuses:
        require_statuses(chosen.statuses)
    rows = chosen(read_exceptions(settings))
    with closing(Decisions(settings.ledger_at)) as decisions:
        lines = listed(rows, decisions, compare=look.compare, with_values=look.with_values)
        list_out(json_lines(lines) if as_json else csv_lines(lines))
    return 0


def ask(settings: ResolveSettings, chosen: Filter, look: Look, read: Callable[[str], str] = input) -> int:
    """One row after another, until all are settled or somebody has enough: what was decided is kept.

    No run has to wait for a person who thinks: the directory is locked when all answers are there.
    """
    require_user(settings)
    if chosen.statuses:
        require_statuses(chosen.statuses)
    with closing(sqlite3.connect("")) as database, closing(Decisions(settings.ledger_at)) as decisions:
        found = DecisionList(database, decisions)
        rows = (row for row in chosen(read_exceptions(settings)) if not row.decision)
        for number, (row, decision, reason_text) in enumerate(_answers(rows, look, read), 1):
            found.add(number, row.path, decisions.as_of([row.file_id])[row.file_id], decision, reason_text)
        resolved = resolve(settings, found.choose)
    _say_refused(found)
    return _say_end(settings, resolved) or int(found.refused.total() > 0)


def _answers(rows: Iterator[ReportRow], look: Look, read: Callable[[str], str]) -> Iterator[Chosen]:
    last = ""  # reason that was given
    try:
        for row in rows:
            list_out(_described(row, look))
            word = _decision(row, read)
            if word == _QUIT:
                return
            if word == _SKIP:
                continue
            last = _reason(last, read)
            yield Chosen(row, Decision(word), last)
    except (EOFError, KeyboardInterrupt):
        say("")


def _described(row: ReportRow, look: Look) -> Iterator[str]:
    what = "/".join(filter(None, (row.status, row.reason)))
    yield f"\nstudy {row.study_no} file {row.file_no}: {what}{f' ({row.detail})' if row.detail else ''}"
    yield f"  {row.path}"
    if row.same_uid_path:
        yield f"  has the SOP Instance UID of {row.same_uid_path}"
    if look.compare and (found := comparison_of(row, with_values=look.with_values)):
        yield from (f"  differs: {sentence}" for sentence in found.sentences(with_values=look.with_values))


def _decision(row: ReportRow, read: Callable[[str], str]) -> str:
    """A decision that the row leaves open, by its first letter, too."""
    words = [*map(str, possible(row.status, row.reason)), _QUIT]
    while True:
        given = read(f"[{'/'.join(words)}, or nothing to skip] ").strip().lower()
        found = [word for word in words if given and word.startswith(given)]
        if not given:
            return _SKIP
        if len(found) == 1 and (found[0] == _QUIT or not objection(standing(row), Decision(found[0]))):
            return found[0]


def _reason(last: str, read: Callable[[str], str]) -> str:
    while True:
        given = read(f"why{f' [{last}]' if last else ''}: ").strip() or last
        try:
            return require_reason(given)
        except UsageError as error:
            say(str(error))


def _say_refused(found: DecisionList) -> None:
    for line in found.first:
        say(line)
    if more := found.refused.total() - len(found.first):
        say(f"and {more:,} more")
    for why, count in sorted(found.refused.items()):
        say(f"Refused: {counted(count, 'row')} that {why}")


def _say_end(settings: ResolveSettings, resolved: Resolved) -> int:
    words = ", ".join(f"{count:,} {decision}" for decision, count in resolved.decided.items())
    say(f"Decided: {words or 'nothing'}")
    if resolved.decided[Decision.UPLOAD]:
        say("What is to be uploaded is sent by `dicom-ingest retry`, or the next run.")
    say_summary(resolved.summary, settings.report_dir)
    return resolved.summary.exit_code
