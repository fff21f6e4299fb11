"""What a run of `ingest` is written down in: ledger, audit trail, registration.csv and its certificate."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from tasks.audit.certificate import signing_key, write_registration_certificate
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.models import RunFacts
from tasks.core.registration_rows import REGISTRATION_CSV, RegistrationSummary
from tasks.ingest_settings import IngestSettings
from tasks.ledger.registration_ledger import Endpoints, RegistrationLedger
from tasks.report.registration_report import require_registration_files, write_registration
from tasks.run.preflight import open_trail
from tasks.run.records import exposures

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger("dicom_ingest")


@dataclass(frozen=True, slots=True)
class RegistrationRecords:
    """A run's records, open for it alone."""

    trail: Trail
    ledger: RegistrationLedger
    key: "Ed25519PrivateKey | None"  # that signs the certificate
    problems: tuple[str, ...] = ()  # of the directories that they are in

    def begin(self, run_id: str, settings: IngestSettings, started_ns: int) -> None:
        """The ledger knows the run from here on, then the trail."""
        self.ledger.begin(started_ns, settings.report_dir)
        self.trail.record(
            Event.INGEST_STARTED,
            run_id=run_id,
            campaign=settings.campaign,
            version=version("dicom-ingest"),
            user_id=settings.user_id,
            settings_sha256=settings.digest,
            bucket=str(settings.address),
            registry=settings.registry,
        )
        self.trail.record(Event.CREDENTIAL, credential=settings.credential)

    def write(self, settings: IngestSettings, facts: RunFacts, seen: int) -> RegistrationSummary:
        """The report, the trail's last line, and the certificate over both."""
        place = str(settings.address), settings.registry
        written = write_registration(settings.report_dir, facts, place, seen, self.ledger.rows())
        summary = written.summary
        self.trail.record(
            Event.INGEST_ENDED,
            run_id=summary.run_id,
            objects=summary.objects,
            by_status=summary.by_status,
            exit_code=summary.exit_code,
            registration_sha256=written.sha256[REGISTRATION_CSV],
        )
        self.trail.flush()
        chain, size_bytes = self.trail.chain, self.trail.size_bytes
        write_registration_certificate(settings.report_dir, written, chain, size_bytes, self.key)
        return summary

    def close(self) -> None:
        """Commits what waits, and lets other runs have them."""
        self.ledger.close()
        self.trail.close()


def open_registration_records(
    undo: ExitStack,
    settings: IngestSettings,
    run_id: str,
    counters: Callable[[], dict[str, int]],
) -> RegistrationRecords:
    """Opens them; `undo` takes all of it back: whatever refuses the run leaves nothing."""
    key = signing_key(settings.signing_key)
    trail = open_trail(undo, settings)
    require_registration_files(settings.report_dir)
    prefix = "" if settings.keys else settings.address.prefix  # what is named may lie anywhere
    endpoints = Endpoints(settings.address.name, prefix, settings.registry)
    ledger = RegistrationLedger(
        settings.ledger_at, settings.campaign, run_id, endpoints, settings.dead_after, trail, counters
    )
    undo.callback(ledger.close)
    problems = exposures(settings)
    for problem in problems:
        log.warning(problem)
    return RegistrationRecords(trail, ledger, key, problems)
