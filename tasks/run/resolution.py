"""Use case `resolve`: what a person decides about rows of a report that are a reason for exit 1.

    from tasks.declaration import load_as
    from tasks.run.resolution import Rule, resolve
    from tasks.settings import ResolveSettings

    settings = load_as(ResolveSettings, report_dir="report", user_id="anna")
    resolved = resolve(settings, Rule(Decision.KEEP, "the first scan counts", {"conflict"}).decisions)

What is decided is on the trail, then in the ledger, so many rows at a time; then the report is written anew
from the ledger. A process that is killed in between loses nothing: the same command goes on, or
`dicom-ingest report` writes the report. UsageError when a run into the directory is at work.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tasks.audit.certificate import read_certificate, signing_key
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.decisions import DECIDABLE, MOST_CHARS, Decision, Standing, objection, possible
from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.models import Summary
from tasks.core.report_columns import ReportRow
from tasks.ledger.decided import Decided, Decisions
from tasks.ledger.ledger import Ledger
from tasks.ledger.private_files import opened
from tasks.report.directory import AUDIT_JSONL, require_report_files
from tasks.report.reader import read_summary
from tasks.run.preflight import known_beside
from tasks.run.records import Records, rewrite
from tasks.settings import ResolveSettings

_AT_ONCE: Final = 1000  # rows that are decided in one commit
_WORDS: Final = tuple(str(each) for each in Decision if each)
_DECIDED: Final = f'"event":"{Event.DECIDED}"'.encode()


class Chosen(NamedTuple):
    """A row, what a person decided about it, and why, in his words."""

    row: ReportRow
    decision: Decision
    reason_text: str


# Of the rows that a person may decide about, in the report's order, those about which one did.
Choose: TypeAlias = Callable[[Iterator[ReportRow]], Iterable[Chosen]]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What was decided, in counts, and the report's summary since."""

    summary: Summary
    decided: Counter[Decision]


@dataclass(slots=True)
class Rule:
    """One decision about all rows of some statuses, and reasons if any are named."""

    decision: Decision
    reason_text: str
    statuses: Collection[str]
    reasons: Collection[str] = ()
    left: Counter[str] = field(default_factory=Counter)  # rows to which it can't apply, by why

    def __post_init__(self) -> None:
        """UsageError for what can be no rule."""
        require_statuses(self.statuses)
        if not self.statuses:
            raise UsageError(
                f"--decision needs --status: which rows it is about ({', '.join(DECIDABLE)}). Nothing was "
                "decided."
            )

    def decisions(self, rows: Iterator[ReportRow]) -> Iterator[Chosen]:
        """What is decided already stays, unless that is taken back."""
        for row in rows:
            if row.status not in self.statuses or (self.reasons and row.reason not in self.reasons):
                continue
            if bool(row.decision) != (self.decision is Decision.WITHDRAW):
                continue
            if why := objection(standing(row), self.decision):
                self.left[why] += 1
            else:
                yield Chosen(row, self.decision, self.reason_text)


def require_statuses(statuses: Collection[str]) -> None:
    """UsageError for one about whose rows nothing can be decided."""
    if unknown := sorted({*statuses} - {*DECIDABLE}):
        raise UsageError(
            f"--status: nothing can be decided about {', '.join(map(escape, unknown))}; it can about "
            f"{', '.join(DECIDABLE)}. Nothing was decided."
        )


def standing(row: ReportRow) -> Standing:
    """A row, as far as a decision is concerned."""
    return Standing(row.status, row.reason, row.decision)


def exceptions(rows: Iterable[ReportRow]) -> Iterator[ReportRow]:
    """Those that a person may decide about, or has."""
    return (row for row in rows if row.file_id and possible(row.status, row.reason))


def resolve(settings: ResolveSettings, choose: Choose) -> Resolved:
    """Keeps what `choose` decides, and writes the report again."""
    require_user(settings)
    decided: Counter[Decision] = Counter()
    with _last_run(settings) as records, closing(Decisions(settings.ledger_at)) as decisions:
        chosen = iter(choose(exceptions(records.ledger.report_rows())))
        while page := list(islice(chosen, _AT_ONCE)):
            _decide(records, decisions, settings.user_id, page)
            decided.update(each.decision for each in page)
        if decided or _is_interrupted(settings.report_dir):
            return Resolved(rewrite(settings.report_dir, records), decided)
    return Resolved(read_summary(settings.report_dir), decided)


def read_exceptions(settings: ResolveSettings) -> Iterator[ReportRow]:
    """The rows of a directory's last run that a person may decide about, or has; nothing is changed."""
    with closing(Ledger.of_last_run(settings.ledger_at, settings.campaign, settings.report_dir)) as ledger:
        yield from exceptions(ledger.report_rows())


def _is_interrupted(report_dir: Path) -> bool:
    """Whether decisions follow the report on the trail: who made them was killed before the next one."""
    certificate = read_certificate(report_dir)
    if certificate is None:
        return True
    with opened(report_dir / AUDIT_JSONL) as trail:
        trail.seek(certificate.trail_bytes)
        return any(_DECIDED in line for line in trail)


def require_user(settings: ResolveSettings) -> None:
    """UsageError when nobody says who decides."""
    if not settings.user_id.strip():
        raise UsageError(
            "DICOM_INGEST_USER_ID has to say who decides: it goes to the audit trail and the report. Nothing "
            "was decided."
        )


def decision_of(word: str) -> Decision:
    """The decision of that name. UsageError for another word."""
    if word.strip() in _WORDS:
        return Decision(word.strip())
    raise UsageError(f"--decision is one of {', '.join(_WORDS)}. Nothing was decided.")


def require_reason(text: str) -> str:
    """A reason in words, without blanks around it. UsageError when it is none, or too long for one."""
    words = text.strip()
    if not words:
        raise UsageError(
            "--reason-text has to say why: it goes to the audit trail and the report. Nothing was decided."
        )
    if len(words) > MOST_CHARS:
        raise UsageError(f"--reason-text has more than {MOST_CHARS:,} characters. Nothing was decided.")
    return words


@contextmanager
def _last_run(settings: ResolveSettings) -> Iterator[Records]:
    """The records of a directory's newest run, locked: no run begins there meanwhile."""
    key = signing_key(settings.signing_key)
    if not (settings.report_dir / AUDIT_JSONL).exists():
        raise UsageError(
            "There is no audit.jsonl in the report directory, so it is no run's own, or that of an earlier "
            "report: name the report directory of a run. Nothing was decided."
        )
    require_report_files(settings.report_dir)
    with ExitStack() as stack:
        trail = stack.enter_context(closing(Trail(settings.report_dir, known_beside(settings))))
        ledger = Ledger.of_last_run(settings.ledger_at, settings.campaign, settings.report_dir)
        stack.callback(ledger.close)
        yield Records(trail, ledger, key)


def _decide(records: Records, decisions: Decisions, user_id: str, page: list[Chosen]) -> None:
    """First on the trail, then in the ledger: what this one says, that one has."""
    for row, decision, reason_text in page:
        records.trail.record(
            Event.DECIDED,
            run_id=records.ledger.run_id,
            study_no=row.study_no,
            file_no=row.file_no,
            status=row.status,
            reason=row.reason,
            sha256=row.sha256,
            decision=decision,
            user_id=user_id,
            reason_text=reason_text,
        )
    records.trail.flush()
    said = [
        Decided(row.file_id, row.status, row.reason, decision, escape(user_id), escape(reason_text))
        for row, decision, reason_text in page
    ]
    decisions.decide(said, time.time_ns())
