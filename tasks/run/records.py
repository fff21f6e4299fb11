"""What a run is written down in: ledger, audit trail, report and certificate."""

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.audit.certificate import sha256_of, signing_key, write_certificate
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import Fault, FaultKind, IngestError, ending
from tasks.core.models import RunFacts, Summary
from tasks.ledger.ledger import Ledger
from tasks.ledger.runs import Begins, begins
from tasks.report.directory import REPORT_CSV, write_report
from tasks.run.preflight import NOT_ASKED, FirstAnswer, open_trail
from tasks.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Records:
    """A run's records, open for it alone, and what was found out before they were."""

    trail: Trail
    ledger: Ledger
    key: "Ed25519PrivateKey | None"  # that signs the certificate
    begins: Begins = Begins.NOTHING
    first: FirstAnswer = NOT_ASKED

    def write(self, report_dir: Path, facts: RunFacts, event: Event) -> Summary:
        """The report, the trail's last line, and the certificate over both."""
        ledger, trail = self.ledger, self.trail
        facts = replace(facts, unused_keys=ledger.unused_keys())
        summary = write_report(report_dir, facts, ledger.studies(), ledger.overlaps(), ledger.report_rows())
        trail.record(
            event,
            run_id=summary.run_id,
            files=summary.files,
            by_status=summary.by_status,
            exit_code=summary.exit_code,
            report_sha256=sha256_of(report_dir / REPORT_CSV),
        )
        trail.flush()
        write_certificate(report_dir, summary, trail.chain, self.key)
        with suppress(IngestError):  # the report is whole; the next one's run does what this one could not
            ledger.prune()
        return summary

    def close(self) -> None:
        """Commits what waits, and lets other runs have them."""
        self.ledger.close()
        self.trail.close()


def open_records(
    undo: ExitStack,
    settings: Settings,
    run_id: str,
    studies: int,
    ask: Callable[[], FirstAnswer],
    counters: Callable[[], dict[str, int]] = dict,
) -> Records:
    """Opens a run's records, and `ask`s the platform before there is a ledger of it.

    `undo` takes all of it back: whatever refuses the run leaves nothing. The ledger is opened last, for a new
    one may be another run's by the time that it would be removed.
    """
    key = signing_key(settings.signing_key)
    trail = open_trail(undo, settings.report_dir)
    anew = begins(settings.ledger_at, settings.campaign)
    first = ask()
    ledger = Ledger(settings.ledger_at, settings.campaign, run_id, settings.dead_after, trail, counters)
    undo.callback(ledger.close)
    record_start(trail, run_id, settings, studies)
    return Records(trail, ledger, key, anew, first)


def record_start(trail: Trail, run_id: str, settings: Settings, studies: int) -> None:
    """The trail's first lines about a run."""
    trail.record(
        Event.RUN_STARTED,
        run_id=run_id,
        campaign=settings.campaign,
        version=version("dicom-ingest"),
        user_id=settings.user_id,
        settings_sha256=settings.digest,
        studies=studies,
    )
    trail.record(Event.CREDENTIAL, credential=settings.credential)


def keep_unused(ledger: Ledger, answer: FirstAnswer) -> IngestError | None:
    """Makes the key of the start durable; the run's end when the API had given it out before."""
    if not answer.key or ledger.issue_unused(answer.key, answer.asked_ns):
        return None
    return ending(Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before"))


def account_for_all(ledger: Ledger, ledger_at: str | Path) -> None:
    """A row for every study directory that nobody walked to its end, of the run or of each of its shards."""
    shards = ledger.shards()
    if not shards:
        ledger.enrol_unscanned()
    for shard in shards:
        with closing(Ledger(ledger_at, ledger.campaign, shard.run_id)) as each:
            each.enrol_unscanned()


def report_again(
    report_dir: Path, ledger_at: str | Path, campaign: str, key_at: Path | None = None
) -> Summary:
    """Writes the report of a directory's newest run from the ledger alone: after a kill, or a full disk."""
    key = signing_key(key_at)
    with ExitStack() as stack:
        ledger = Ledger.of_last_run(ledger_at, campaign, report_dir)
        stack.callback(ledger.close)
        trail = Trail(report_dir)
        stack.callback(trail.close)
        account_for_all(ledger, ledger_at)
        return Records(trail, ledger, key).write(report_dir, ledger.facts(), Event.REPORT_WRITTEN)
