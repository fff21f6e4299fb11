"""What an audit looks at: a report, its trail and certificates, and a ledger when there is one."""

from dataclasses import dataclass, field
from pathlib import Path

from tasks.audit.certificate import Certificate
from tasks.audit.findings import Findings
from tasks.audit.key_table import KeyTable
from tasks.ledger.known_runs import KnownRuns


@dataclass(slots=True)
class TrailFacts:
    """What the audited trail says, besides its keys."""

    runs: set[str] = field(default_factory=set)  # whose lines it has, up to the report's end
    later: set[str] = field(default_factory=set)  # whose lines follow that
    report_sha256: dict[str, str] = field(default_factory=dict)  # by run: of report.csv, as it ended
    first: tuple[str, float] | None = None  # of its first line: the run, and when
    killed: dict[str, str] = field(default_factory=dict)  # runs without an end, before the last run's end
    verified: dict[str, dict[str, str]] = field(default_factory=dict)  # by run: SHA-256 of what verify wrote
    has_ingest: bool = False  # a run of `ingest` has lines in it
    issued_later: int = 0  # keys in the lines that follow the report's end


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit looks at."""

    report_dir: Path
    trail_dir: Path
    certificate: Certificate | None  # the report's own
    certificates: dict[str, Certificate]  # all over the trail, by their path in its directory
    ledger: KnownRuns | None
    keys: KeyTable
    found: Findings
    trail: TrailFacts = field(default_factory=TrailFacts)

    @property
    def is_earlier(self) -> bool:
        """Whether it is a report in `runs/`."""
        return self.trail_dir != self.report_dir
