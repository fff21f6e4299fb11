"""Use case `retry`: what the last run into a report directory left is sent again, by the ledger.

    from tasks.core.selection import Selection
    from tasks.run.retry_run import retry
    from tasks.settings import load

    summary = retry(load(report_dir="report"), Selection({"failed"}, {"network"}))

It is a run of its own, over the studies of the last one: no manifest is needed. Only the directories of
studies that have a chosen row are walked, and only chosen rows are looked at; all others are in the report as
they were. Raises what `ingest` does, and UsageError when there is nothing that could be sent again.
"""

from collections.abc import Collection
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Final

from tasks.core.errors import UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import EXIT_ONE, Reason, Status, Summary
from tasks.core.selection import Selection
from tasks.core.study_entries import StudyEntries
from tasks.ledger.ledger import Ledger
from tasks.ledger.retried_run import RetriedRun
from tasks.run.edges import Edges
from tasks.run.engine import Watch, ingest
from tasks.settings import Settings
from tasks.source.scan import just_file, walk_study

_LEFT: Final = tuple(str(status) for status in Status if status in EXIT_ONE)


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run into a report directory: what is to be known of it to send some of it again."""

    run_id: str
    shards: list[str]
    entries: StudyEntries
    root: str  # escaped; empty: none was given


def retry(
    settings: Settings, selection: Selection, watch: Watch = nullcontext, edges: Edges | None = None
) -> Summary:
    """A whole run that sends again what is chosen; `watch` may show its progress meanwhile."""
    require_known(selection)
    last = _last_run(settings)
    root = settings.root or unescape(last.root)
    with closing(
        RetriedRun(settings.ledger_at, settings.campaign, last.run_id, last.shards, selection)
    ) as retried:
        if not retried.study_nos:
            raise UsageError(
                "The last run into this report directory left nothing that is chosen. Nothing was sent."
            )
        file = None if last.entries.sha256 else retried.only_file()  # which may have been sent by itself
        scan = just_file(file) if file else walk_study
        return ingest(last.entries, replace(settings, root=root), watch, scan, edges=edges, retried=retried)


def require_known(selection: Selection) -> None:
    """UsageError for a status that is no reason for exit 1, and for a word that is no reason of a row."""
    _require(selection.statuses, _LEFT, "--status")
    _require(selection.reasons, [str(each) for each in Reason if each], "--reason")


def _require(words: Collection[str], known: Collection[str], option: str) -> None:
    if unknown := sorted({*words} - {*known}):
        raise UsageError(
            f"{option}: there is nothing to send again that is {', '.join(map(escape, unknown))}. Known are "
            f"{', '.join(known)}. Nothing was sent."
        )


def _last_run(settings: Settings) -> LastRun:
    """UsageError when there is none, or one that is at work, or a later run has seen its files otherwise."""
    with closing(Ledger.of_last_run(settings.ledger_at, settings.campaign, settings.report_dir)) as ledger:
        shards = [shard.run_id for shard in ledger.shards()]
        if not shards:
            ledger.enrol_unscanned()
        target = ledger.with_target(ledger.facts())
        entries = StudyEntries(ledger.studies(), target.manifest_sha256)
        return LastRun(ledger.run_id, shards, entries, target.root)
