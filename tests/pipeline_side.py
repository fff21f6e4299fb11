"""The platform's pipeline as a test runs it: a bucket, a DICOMweb server with a script, and `register`."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.escape import unescape
from tasks.core.registration_rows import RegistrationSummary
from tasks.ingest_settings import IngestSettings, load_ingest
from tasks.run.edges import Edges
from tasks.run.registration import register
from tests.dicomweb_side import DicomwebSide
from tests.object_store import ObjectStore

Row = dict[str, str]
# Neither jitter nor a start that fails takes time: what the servers ask for is waited alone.
NOT_WAITING = Edges(jitter=lambda: 0.0, longest_pause_s=0.0)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a run said: its summary, and its report's rows by key, without the test's own prefix."""

    summary: RegistrationSummary
    rows: dict[str, Row]

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code

    @property
    def statuses(self) -> dict[str, str]:
        """Status and reason in one word, by key."""
        return {key: "/".join(filter(None, (row["status"], row["reason"]))) for key, row in self.rows.items()}


@dataclass(slots=True)
class PipelineSide:
    """One bucket and one registry; runs share a report directory and a ledger, unless they say otherwise."""

    store: ObjectStore
    registry: DicomwebSide
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)
    edges: Edges = NOT_WAITING

    @property
    def report_dir(self) -> Path:
        return self.directory / "report"

    def put(self, key: str, body: bytes) -> str:
        return self.store.put(key, body)

    def settings(self, **options: Any) -> IngestSettings:
        given = {
            "bucket": self.store.address,
            "dicomweb_url": self.registry.url,
            "report_dir": self.report_dir,
        }
        return load_ingest(**{**given, **self.options, **options})

    def run(self, **options: Any) -> Ingested:
        """A whole run, and its report."""
        settings = self.settings(**options)
        return self.told(register(settings, edges=self.edges), settings.report_dir)

    def told(self, summary: RegistrationSummary, report_dir: Path | None = None) -> Ingested:
        with ((report_dir or self.report_dir) / "registration.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        by_key = {unescape(row["key"]).removeprefix(self.store.prefix): row for row in rows}
        assert len(by_key) == len(rows), "one row for each object"
        return Ingested(summary, by_key)
