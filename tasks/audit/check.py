"""Whether an audit trail is whole, and says the same as the report beside it: `dicom-ingest audit`.

Keys are looked up in a temporary database on disk: a trail of ten million files needs little memory.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.audit.certificate import is_signed, read_certificate, sha256_of
from tasks.audit.log import AUDIT_JSONL, require_trail
from tasks.core.audit_chain import Break, Event, follow
from tasks.core.errors import UsageError
from tasks.core.models import Status
from tasks.ledger.private_files import opened
from tasks.report.directory import FILES, REPORT_CSV, RUNS, SUMMARY_JSON, require_report_files
from tasks.report.reader import read_report, read_summary

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_LISTED: Final = 20
_HAVE_KEYS: Final = (Status.UPLOADED, Status.ALREADY_UPLOADED)


@dataclass(slots=True)
class Findings:
    """What an audit found: trail and report are good when there is no fault."""

    lines: int = 0
    events: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0  # files that a run into another report directory had stored
    signed: bool = False
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0

    def add_fault(self, sentence: str) -> None:
        """Adds a fault; of very many only the first are kept."""
        if len(self.faults) < _LISTED:
            self.faults.append(sentence)
        else:
            self.more_faults += 1


def audit(report_dir: Path, key: "Ed25519PublicKey | None" = None) -> Findings:
    """Checks chain, certificate, and that trail and report agree. UsageError when there is no trail."""
    found = Findings()
    require_report_files(report_dir)
    require_trail(_trail_dir(report_dir) / AUDIT_JSONL)
    with closing(sqlite3.connect("")) as database:
        keys = _Keys(database)
        chains = _read_trail(report_dir, keys, found)
        _check_certificate(report_dir, chains, key, found)
        _check_report(report_dir, keys, found)
    return found


def _read_trail(report_dir: Path, keys: "_Keys", found: Findings) -> dict[int, str]:
    """Reads all events, of an earlier run those up to its end. Gives the hash of the certificate's line."""
    certificate = read_certificate(report_dir)
    trail_dir = _trail_dir(report_dir)
    last = certificate.lines if certificate and trail_dir != report_dir else math.inf
    named: dict[int, str] = {}
    try:
        with opened(trail_dir / AUDIT_JSONL) as lines:
            for chain, facts in follow(lines):
                if chain.lines > last:  # what became of its keys later is no business of its report
                    break
                found.lines = chain.lines
                found.events[str(facts.get("event"))] += 1
                keys.add(facts)
                if certificate and chain.lines == certificate.lines:
                    named[chain.lines] = chain.head
    except OSError:
        raise UsageError(
            "There is no run in this directory, for there is no audit.jsonl that can be read: name the "
            "report directory of a run."
        ) from None
    except Break as broken:
        found.add_fault(f"The audit trail is broken: {broken}")
    return named


def _trail_dir(report_dir: Path) -> Path:
    """Where the trail is: one for a report directory and the earlier reports in its `runs/`."""
    absolute = report_dir.absolute()
    is_earlier = absolute.parent.name == RUNS and not (absolute / AUDIT_JSONL).exists()
    return absolute.parent.parent if is_earlier else report_dir


def _check_certificate(
    report_dir: Path, named: dict[int, str], key: "Ed25519PublicKey | None", found: Findings
) -> None:
    certificate = read_certificate(report_dir)
    if certificate is None:
        found.add_fault(
            "There is no certificate.json that can be read: the last run did not end, or it was removed."
        )
        return
    for name in FILES:
        if certificate.sha256.get(name) != sha256_of(report_dir / name):
            found.add_fault(f"{name} is not as it was when the certificate was written.")
    if named.get(certificate.lines) != certificate.head:
        found.add_fault(f"The trail's line {certificate.lines} is not the one that the certificate names.")
    if key is not None:
        found.signed = is_signed(certificate, report_dir, key)
        if not found.signed:
            found.add_fault("certificate.sig is no signature of this key over certificate.json.")


def _check_report(report_dir: Path, keys: "_Keys", found: Findings) -> None:
    summary = read_summary(report_dir)
    run_id = summary.run_id
    if run_id not in keys.runs:
        found.add_fault(f"The trail does not know run {run_id}, whose report {REPORT_CSV} is.")
    for row in read_report(report_dir):
        for sentence in _disagreements(row, keys, found):
            found.add_fault(f"study {row['study_no']} file {row['file_no']}: {sentence}")
        keys.mark_reported(row["key"], *row["superseded_keys"].split(";"))
    _check_unused(summary.unused_keys, keys, found)
    for state, study_no, file_no in keys.unreported(run_id):
        if state == Event.KEY_UNUSED:
            found.add_fault(
                f"A key was handed out at the start that unused_keys of {SUMMARY_JSON} does not name."
            )
        else:
            found.add_fault(
                f"study {study_no} file {file_no}: a key was issued for it that the report does not name"
            )


def _check_unused(unused_keys: list[str], keys: "_Keys", found: Findings) -> None:
    """Nothing was sent to an unused key. Those that shards were given are in the trails of the shards."""
    for key in unused_keys:
        known = keys.get(key)
        if known and known[1]:
            found.add_fault(
                f"A key is in unused_keys of {SUMMARY_JSON}, and the trail has what was stored there."
            )
    keys.mark_reported(*unused_keys)


def _disagreements(row: dict[str, str], keys: "_Keys", found: Findings) -> Iterator[str]:
    if row["status"] not in _HAVE_KEYS:
        return
    if row["run_id"] not in keys.runs:
        found.elsewhere += 1
        return
    known = keys.get(row["key"])
    if known is None:
        yield "the trail does not know its key"
    elif known[0] != Event.STORED:
        yield f"its key is {known[0]} in the trail, not stored"
    elif known[1] != row["sha256"]:
        yield "the trail says that other bytes were stored"


_TABLE: Final = """
CREATE TABLE key (
    key TEXT PRIMARY KEY, state TEXT, sha256 TEXT, run_id TEXT, study_no, file_no, reported INTEGER DEFAULT 0
) WITHOUT ROWID
"""
_ADD: Final = """
INSERT INTO key (key, state, sha256, run_id, study_no, file_no) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET state = excluded.state, sha256 = max(sha256, excluded.sha256)
"""
_UNREPORTED: Final = """
SELECT state, study_no, file_no FROM key WHERE run_id = ? AND NOT reported ORDER BY study_no, file_no
"""


class _Keys:
    """Every key of the trail: what became of it, and of what bytes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.runs: set[str] = set()
        self._run_id = ""
        self._database = database
        database.execute(_TABLE)

    def add(self, facts: dict[str, Any]) -> None:
        """Adds what one line of the trail says."""
        match facts.get("event"):
            case Event.RUN_STARTED:
                self._run_id = str(facts.get("run_id"))
                self.runs.add(self._run_id)
            case Event.KEY_ISSUED | Event.KEY_UNUSED | Event.STORED | Event.SUPERSEDED as state:
                names = ("key", "sha256", "study_no", "file_no")
                key, sha256, study_no, file_no = (facts.get(name, "") for name in names)
                self._database.execute(_ADD, (key, state, sha256, self._run_id, study_no, file_no))

    def get(self, key: str) -> tuple[str, str] | None:
        """State and SHA-256 of what was stored under a key; None when the trail does not have it."""
        query = "SELECT state, sha256 FROM key WHERE key = ?"
        row: tuple[str, str] | None = self._database.execute(query, (key,)).fetchone()
        return row

    def mark_reported(self, *keys: str) -> None:
        """Notes that the report names these keys."""
        self._database.executemany(
            "UPDATE key SET reported = 1 WHERE key = ?", [(key,) for key in keys if key]
        )

    def unreported(self, run_id: str) -> Iterator[tuple[str, int, int]]:
        """State, study and file of each key that a run was given and that its report does not name."""
        yield from self._database.execute(_UNREPORTED, (run_id,))
