"""What a run is written down in: ledger, audit trail, report and certificate."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Final

from tasks.audit.certificate import signing_key, write_certificate
from tasks.audit.continuity import Known
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import Fault, FaultKind, IngestError, ending
from tasks.core.models import RunFacts, Summary, Target
from tasks.ledger.database import sqlite_file
from tasks.ledger.earlier_runs import Begins, begins
from tasks.ledger.ledger import Ledger
from tasks.ledger.platforms import require_same_platform
from tasks.ledger.private_files import why_exposed
from tasks.report.directory import REPORT_CSV, require_report_files, write_report
from tasks.report.plan_file import read_forecast
from tasks.run.preflight import NOT_ASKED, FirstAnswer, open_trail
from tasks.settings import ReportSettings, Settings

log = logging.getLogger("dicom_ingest")

_NAMED_VERSIONS: Final = ("pycurl", "SQLAlchemy")
_KEYS_AT_ONCE: Final = 1000  # that are looked up

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
    problems: tuple[str, ...] = ()  # of the directories that they are in

    def begin(self, run_id: str, settings: Settings, studies: int, target: Target) -> None:
        """The trail's first lines about a run: once the ledger knows it, or before it has a key of it.

        So a trail has no run that the ledger does not know, wherever a run was killed.
        """
        record_start(self.trail, run_id, settings, studies, target)

    def write(self, report_dir: Path, facts: RunFacts, event: Event) -> Summary:
        """The report, the trail's last line, and the certificate over both."""
        ledger, trail = self.ledger, self.trail
        facts = replace(ledger.with_target(facts), unused_keys=ledger.unused_keys())
        facts = replace(facts, forecast=read_forecast(report_dir, facts.manifest_sha256))
        written = write_report(report_dir, facts, ledger.studies(), ledger.overlaps(), ledger.report_rows())
        summary = written.summary
        trail.record(
            event,
            run_id=summary.run_id,
            files=summary.files,
            by_status=summary.by_status,
            exit_code=summary.exit_code,
            storage_hosts=summary.storage_hosts,
            report_sha256=written.sha256[REPORT_CSV],
        )
        trail.flush()
        write_certificate(report_dir, written, trail.chain, trail.size_bytes, self.key)
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
    target: Target,
    ask: Callable[[], FirstAnswer],
    counters: Callable[[], dict[str, int]] = dict,
) -> Records:
    """Opens a run's records, and `ask`s the platform before there is a ledger of it.

    A campaign of another platform is refused before that: nothing is asked of a wrong one.

    `undo` takes all of it back: whatever refuses the run leaves nothing. The ledger is opened last, for a new
    one may be another run's by the time that it would be removed.
    """
    key = signing_key(settings.signing_key)
    require_same_platform(settings.ledger_at, settings.campaign, target)
    trail = open_trail(undo, settings)
    anew = begins(settings.ledger_at, settings.campaign)
    first = ask()
    ledger = Ledger(settings.ledger_at, settings.campaign, run_id, settings.dead_after, trail, counters)
    undo.callback(ledger.close)
    problems = exposures(settings)
    for problem in problems:
        log.warning(problem)
    return Records(trail, ledger, key, anew, first, problems)


def versions() -> dict[str, str]:
    """Of the software that does a run."""
    return {
        "dicom-ingest": version("dicom-ingest"),
        "Python": python_version(),
        **{name: version(name) for name in _NAMED_VERSIONS},
    }


def exposures(settings: ReportSettings) -> tuple[str, ...]:
    """Why the directories of report and ledger are not safe from other users."""
    directories = {settings.report_dir.resolve(): "The report directory"}
    if ledger := sqlite_file(settings.ledger_at):
        directories.setdefault(ledger.parent.resolve(), "The ledger's directory")
    return tuple(filter(None, (why_exposed(path, name) for path, name in directories.items())))


def record_start(trail: Trail, run_id: str, settings: Settings, studies: int, target: Target) -> None:
    """The trail's first lines about a run."""
    trail.record(
        Event.RUN_STARTED,
        run_id=run_id,
        campaign=settings.campaign,
        version=version("dicom-ingest"),
        user_id=settings.user_id,
        settings_sha256=settings.digest,
        studies=studies,
        api_host=target.api_host,
        manifest_sha256=target.manifest_sha256,
        root=target.root,
    )
    trail.record(Event.CREDENTIAL, credential=settings.credential)


def keep_unused(ledger: Ledger, answer: FirstAnswer) -> IngestError | None:
    """Makes the key of the start durable; the run's end when the API had given it out before."""
    if not answer.key or ledger.issue_unused(answer.key, answer.asked_ns):
        return None
    return ending(Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before"))


def report_again(
    report_dir: Path, ledger_at: str | Path, campaign: str, key_at: Path | None = None
) -> Summary:
    """Writes the report of a directory's newest run from the ledger alone: after a kill, or a full disk."""
    key = signing_key(key_at)
    with ExitStack() as stack:
        ledger = Ledger.of_last_run(ledger_at, campaign, report_dir)
        stack.callback(ledger.close)
        require_report_files(report_dir)
        trail = Trail(report_dir, Known(ledger_at, key.public_key() if key else None))
        stack.callback(trail.close)
        if not ledger.shards():  # theirs are in the report alone: one may be taken up at any moment
            ledger.enrol_unscanned()
            in_trail = trail.issued_to(ledger.run_id)
            while keys := list(islice(in_trail, _KEYS_AT_ONCE)):
                ledger.issue_lost(keys)
        return Records(trail, ledger, key).write(report_dir, ledger.facts(), Event.REPORT_WRITTEN)
