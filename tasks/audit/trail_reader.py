"""A trail, followed from its first line to its last, and held against the certificates beside it."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.audit.certificate import Certificate, certificates_of, is_of_registration, is_of_verification
from tasks.core.audit_chain import ENDS, LONGEST_LINE, Break, Chain, Course, Event, follow
from tasks.core.registration_rows import REGISTRATION_CSV
from tasks.ledger.private_files import opened
from tasks.report.directory import AUDIT_JSONL, REPORT_CSV, VERIFICATION_JSON

Say = Callable[[str], None]
Hold = Callable[[Chain, dict[str, Any], str, Certificate, Say], None]


def read_certificates(trail_dir: Path, add_fault: Say) -> dict[str, Certificate]:
    """The certificates over a directory's trail, by their path in it; one that can't be read is a fault."""
    found = {}
    try:
        for place, certificate in certificates_of(trail_dir):
            if certificate:
                found[place] = certificate
            else:
                add_fault(f"There is no certificate in {place} that can be read.")
    except OSError as error:
        add_fault(f"The earlier reports can't be read: {os.strerror(error.errno or 0)}.")
    return found


def follow_trail(
    trail_dir: Path,
    certificates: dict[str, Certificate],
    course: Course,
    add_fault: Say,
    own: str = "",
) -> Iterator[tuple[Chain, dict[str, Any]]]:
    """Each line's chain and facts. What is wrong with a line, or not as a certificate says, is a fault.

    `own` is the place of the certificate that is called so, without a name. Raises OSError when there is no
    trail that can be read.
    """
    by_line: dict[int, list[tuple[str, str, Certificate]]] = defaultdict(list)
    for place, certificate in certificates.items():
        who = "the certificate" if place == own else f"the certificate {place}"
        by_line[certificate.lines].append((who, place, certificate))
    with opened(trail_dir / AUDIT_JSONL) as file:
        lines = iter(lambda: file.readline(LONGEST_LINE), b"")
        try:
            for chain, facts in follow(lines):
                if what := course.follow(str(facts.get("event")), facts):
                    add_fault(f"The trail's line {chain.lines} {what}")
                for who, place, certificate in by_line.pop(chain.lines, ()):
                    _holding(place)(chain, facts, who, certificate, add_fault)
                yield chain, facts
        except Break as broken:
            add_fault(f"The audit trail is broken: {broken}")
        except OSError as error:
            add_fault(f"The audit trail can't be read to its end: {os.strerror(error.errno or 0)}.")
    for number in sorted(by_line):
        for who, *_ in by_line[number]:
            add_fault(f"The trail's line {number} is not the one that {who} names.")


def _holding(place: str) -> Hold:
    if is_of_registration(place):
        return _hold_registration
    return _hold_verification if is_of_verification(place) else _hold


def _hold(chain: Chain, facts: dict[str, Any], who: str, certificate: Certificate, add_fault: Say) -> None:
    if chain.head != certificate.head:
        add_fault(f"The trail's line {chain.lines} is not the one that {who} names.")
    elif facts.get("event") not in ENDS or facts.get("run_id") != certificate.run_id:
        add_fault(f"The trail's line {chain.lines} is not the end of the run that {who} is of.")
    elif facts.get("report_sha256") != certificate.sha256.get(REPORT_CSV):
        add_fault(f"The trail's line {chain.lines} has another SHA-256 of {REPORT_CSV} than {who}.")


def _hold_verification(
    chain: Chain, facts: dict[str, Any], who: str, certificate: Certificate, add_fault: Say
) -> None:
    if chain.head != certificate.head:
        add_fault(f"The trail's line {chain.lines} is not the one that {who} names.")
    elif facts.get("event") != Event.VERIFIED or facts.get("run_id") != certificate.run_id:
        add_fault(f"The trail's line {chain.lines} is not the verification that {who} is of.")
    elif facts.get("sha256") != certificate.sha256:
        add_fault(f"The trail's line {chain.lines} has another SHA-256 of {VERIFICATION_JSON} than {who}.")


def _hold_registration(
    chain: Chain, facts: dict[str, Any], who: str, certificate: Certificate, add_fault: Say
) -> None:
    if chain.head != certificate.head:
        add_fault(f"The trail's line {chain.lines} is not the one that {who} names.")
    elif facts.get("event") != Event.INGEST_ENDED or facts.get("run_id") != certificate.run_id:
        add_fault(f"The trail's line {chain.lines} is not the end of the ingest that {who} is of.")
    elif facts.get("registration_sha256") != certificate.sha256.get(REGISTRATION_CSV):
        add_fault(f"The trail's line {chain.lines} has another SHA-256 of {REGISTRATION_CSV} than {who}.")
