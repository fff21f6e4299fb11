"""Whether an audit trail is whole, and says the same as the report beside it: `dicom-ingest audit`.

    certificate.py    what the trail and the report's files are held against
    trail_reader.py   the trail, line by line
    report_check.py   the report's rows, held against it
    other_trails.py   those of other report directories, whose runs stored files of this report
    key_table.py      what the trails say of each key

Nothing in the directory is trusted, and nothing is written to it.
"""

import fcntl
import math
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.audit.audited import Audited
from tasks.audit.certificate import has_signature, is_signed, read_certificate
from tasks.audit.continuity import since_ns
from tasks.audit.findings import Findings
from tasks.audit.key_table import KeyTable
from tasks.audit.log import require_trail
from tasks.audit.registration_check import check_registration
from tasks.audit.report_check import check_report
from tasks.audit.trail_reader import follow_trail, read_certificates
from tasks.audit.verification_check import check_verification
from tasks.core.audit_chain import ENDS, Course, Event
from tasks.core.errors import IngestError, UsageError
from tasks.core.escape import escape
from tasks.ledger.database import require_own_files, sqlite_file
from tasks.ledger.known_runs import KnownRun, KnownRuns, read_known_runs
from tasks.ledger.private_files import opened
from tasks.report.directory import (
    AUDIT_JSONL,
    CERTIFICATE_JSON,
    FILES,
    RUNS,
    SUMMARY_JSON,
    require_report_files,
)
from tasks.report.regular_file import sha256_of
from tasks.report.report_page import REPORT_HTML, digest_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_LEDGER: Final = "ledger.sqlite"
_OF_A_PLAN: Final = frozenset({Event.PLANNED, Event.LINE_CUT})


def audit(
    report_dir: Path, key: "Ed25519PublicKey | None" = None, ledger_at: Path | str | None = None
) -> Findings:
    """Checks chain, certificates, and that trail and report agree.

    `ledger_at`: by default ledger.sqlite in the report directory. UsageError when there was no run in it.
    """
    found, trail_dir = Findings(), _trail_dir(report_dir)
    require_report_files(report_dir)
    require_trail(trail_dir / AUDIT_JSONL)
    certificates = read_certificates(trail_dir, found.add_fault)
    ledger = _ask_ledger(ledger_at or trail_dir / _LEDGER, found)
    with closing(sqlite3.connect("")) as database:
        certificate = read_certificate(report_dir)
        keys = KeyTable(database)
        audited = Audited(report_dir, trail_dir, certificate, certificates, ledger, keys, found)
        _read_trail(audited)
        if not _is_without_upload(audited):
            _check_certificate(audited)
            _check_ledger(audited)
            check_report(audited)
        check_registration(report_dir, found)
        if key is not None:
            _check_signatures(audited, key)
    return found


def _is_without_upload(audited: Audited) -> bool:
    """Whether nothing was uploaded into this directory, and there is no report: ingest or plans alone."""
    trail = audited.trail
    names = (*FILES, CERTIFICATE_JSON)
    is_there = any(os.path.lexists(audited.report_dir / name) for name in names)
    if is_there or trail.runs or trail.later:
        return False
    is_planned = bool(audited.found.events) and audited.found.events.keys() <= _OF_A_PLAN
    return trail.has_ingest or (is_planned and not _is_known_to_ledger(audited))


def _trail_dir(report_dir: Path) -> Path:
    """Where the trail is: one for a report directory and the earlier reports in its `runs/`."""
    absolute = report_dir.absolute()
    is_earlier = absolute.parent.name == RUNS and not (absolute / AUDIT_JSONL).exists()
    return absolute.parent.parent if is_earlier else report_dir


def _ask_ledger(ledger_at: Path | str, found: Findings) -> KnownRuns | None:
    if file := sqlite_file(ledger_at):
        require_own_files(file)
    try:
        known = read_known_runs(ledger_at)
    except IngestError as error:
        found.add_unchecked(f"The ledger was not looked at: {error}")
        return None
    if known.run_ids:
        return known
    found.add_unchecked("The ledger was not looked at, for it is not in the directory: --ledger names it.")
    return None


def _read_trail(audited: Audited) -> None:
    """Reads the whole trail; its keys up to the report's end: what follows is not its business."""
    found, trail, certificate = audited.found, audited.trail, audited.certificate
    end = certificate.lines if certificate else math.inf
    own = os.path.relpath(audited.report_dir / CERTIFICATE_JSON, audited.trail_dir)
    known = _known_run_ids(audited)
    course, run_id = Course(known), ""
    try:
        for chain, facts in follow_trail(
            audited.trail_dir, audited.certificates, course, found.add_fault, own
        ):
            event = str(facts.get("event"))
            trail.first = trail.first or (str(facts.get("run_id")), since_ns(str(facts.get("at"))))
            is_later = chain.lines > end
            if event in ENDS:
                trail.verified.pop(str(facts.get("run_id")), None)  # the report was written anew
            elif event == Event.VERIFIED:
                trail.verified[str(facts.get("run_id"))] = dict(facts.get("sha256") or {})
            trail.has_ingest |= event == Event.INGEST_STARTED
            if event == Event.RUN_STARTED:
                run_id = str(facts.get("run_id"))
                (trail.later if is_later else trail.runs).add(run_id)
            if is_later:
                trail.issued_later += event == Event.KEY_ISSUED
                if audited.is_earlier:
                    continue
            else:
                audited.keys.add(facts, run_id)
                if event in ENDS:
                    trail.report_sha256[str(facts.get("run_id"))] = str(facts.get("report_sha256", ""))
            found.lines = chain.lines
            found.events[event] += 1
    except OSError as error:
        _add_no_trail(audited, error)
        return
    trail.killed = {each: at for each, at in course.open.items() if each not in course.open_since_end}
    if not audited.is_earlier:
        _check_end(audited, course)


def _known_run_ids(audited: Audited) -> frozenset[str] | None:
    if audited.ledger is None:
        return None
    return audited.ledger.run_ids | {each.run_id for each in audited.certificates.values()}


def _add_no_trail(audited: Audited, error: OSError) -> None:
    """A fault, where there was one; UsageError where nothing says so."""
    is_report = bool(audited.certificates) or (audited.report_dir / SUMMARY_JSON).exists()
    is_removed = is_report or _is_known_to_ledger(audited)
    if not is_removed and isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UsageError(
            "There is no run in this directory, for there is no audit.jsonl that can be read: name the "
            "report directory of a run."
        ) from None
    if isinstance(error, FileNotFoundError):
        why = "a run's report is there" if is_report else "the ledger knows a run into this directory"
        audited.found.add_fault(f"There is no {AUDIT_JSONL}: it was removed, for {why}.")
    else:
        why = os.strerror(error.errno or 0)
        audited.found.add_fault(f"The audit trail can't be read: {why}.")


def _is_known_to_ledger(audited: Audited) -> bool:
    """Whether the ledger knows a run into this directory that had lines in its trail."""
    ledger = audited.ledger
    return ledger is not None and any(map(ledger.has_lines, ledger.into(audited.trail_dir)))


def _check_end(audited: Audited, course: Course) -> None:
    """A run without an end after the last report, or one that is at work."""
    found, trail = audited.found, audited.trail
    is_open = course.open_since_end or course.ingest_since
    if is_open and _is_locked(audited.trail_dir / AUDIT_JSONL):
        found.add_fault("A run into this directory is at work: audit it again at its end.")
        return
    for at in course.open_since_end.values():
        found.add_fault(_without_end(audited, at))
    if course.ingest_since:
        found.add_fault(f"An ingest began at {course.ingest_since} and has no end: run it again.")
    if course.open_since_end and trail.issued_later:
        were = "key was" if trail.issued_later == 1 else "keys were"
        found.add_fault(
            f"{trail.issued_later:,} {were} issued since the last report, and no report has them."
        )
    if ended := trail.later - course.open.keys():
        count = "A later run" if len(ended) == 1 else f"{len(ended)} later runs"
        found.add_fault(f"{count} came to an end: the report here is an earlier run's.")


def _without_end(audited: Audited, at: str) -> str:
    where = escape(str(audited.trail_dir))
    return f"A run began at {at} and has no end: `dicom-ingest report {where}` writes its report."


def _is_locked(trail: Path) -> bool:
    """Whether a run has the trail open."""
    try:
        with opened(trail) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _check_certificate(audited: Audited) -> None:
    certificate, found = audited.certificate, audited.found
    if certificate is None:
        found.add_fault(
            "There is no certificate.json that can be read: the last run did not end, or it was removed."
        )
    verified = audited.trail.verified.get(certificate.run_id, {}) if certificate else {}
    expected = certificate.sha256 | verified if certificate else {}
    for name in FILES:
        if name != REPORT_HTML or _has_page(audited, expected):
            _check_file(audited, name, expected)
    if certificate and certificate.digest and certificate.digest != digest_of(certificate.sha256):
        found.add_fault("The digest in certificate.json, which the page has, is not that of the files there.")
    check_verification(audited, verified)


def _has_page(audited: Audited, expected: Mapping[str, str]) -> bool:
    """Whether there is one, or has to be: an earlier version wrote none."""
    return REPORT_HTML in expected or os.path.lexists(audited.report_dir / REPORT_HTML)


def _check_file(audited: Audited, name: str, expected: Mapping[str, str]) -> None:
    """`expected`: by name, what the certificate says, or a verification after it that wrote the file anew."""
    try:
        sha256 = sha256_of(audited.report_dir / name)
    except OSError as error:
        audited.found.add_fault(f"{name} can't be read: {os.strerror(error.errno or 0)}.")
        return
    if expected and expected.get(name) != sha256:
        audited.found.add_fault(f"{name} is not as it was when the certificate was written.")


def _check_signatures(audited: Audited, key: "Ed25519PublicKey") -> None:
    """The report's own has to be there; one of an earlier report has to be right where it is there."""
    found, unsigned = audited.found, 0
    if audited.certificate:
        found.signed = is_signed(audited.certificate, audited.report_dir / CERTIFICATE_JSON, key)
        if not found.signed:
            found.add_fault("certificate.sig is no signature of this key over certificate.json.")
    for place, certificate in audited.certificates.items():
        at = audited.trail_dir / place
        is_own = at == audited.report_dir / CERTIFICATE_JSON
        if not has_signature(at):
            unsigned += not is_own
        elif not is_own and not is_signed(certificate, at, key):
            found.add_fault(f"{escape(place)} has a signature that is not of this key.")
    if unsigned:
        found.add_unchecked(f"Other certificates without a signature: {unsigned:,}.")


def _check_ledger(audited: Audited) -> None:
    """Every run into this directory that the ledger knows has its lines in the trail."""
    ledger, trail = audited.ledger, audited.trail
    if ledger is None or not ledger.is_on_disk or audited.is_earlier:
        return
    seen = {*trail.runs, *trail.later}
    runs = ledger.into_since(audited.trail_dir, *(trail.first or ("", math.inf)))
    for each in runs:
        if each.run_id in seen:
            continue
        if ledger.has_lines(each):
            audited.found.add_fault(
                f"The ledger knows a run into this directory that began at {_at(each)}, the trail does not."
            )
        elif each is runs[-1] and not _is_locked(audited.trail_dir / AUDIT_JSONL):
            # Killed before its first line.
            audited.found.add_fault(_without_end(audited, _at(each)))


def _at(each: KnownRun) -> str:
    return f"{datetime.fromtimestamp(each.started_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%S}Z"
