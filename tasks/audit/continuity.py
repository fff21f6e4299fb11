"""Whether a trail still is the one that earlier runs left: what is looked at before a run adds to it.

Each certificate in the report directory, and in its runs/, names the trail's last line as it was written, by
number, hash and place. Looked at are these lines alone, and whatever follows the last of them: so a trail of
any size costs a run no time. Runs that were killed have no certificate: they cost 6 s for each GB that the
last wrote, and 0.5 s a GB to find the others; 0.6 s a GB where an earlier version gave no place. The lines
between are what `dicom-ingest audit` reads.
"""

import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.audit.certificate import Certificate, certificates_of, has_signature, is_signed
from tasks.core.audit_chain import ENDS, LONGEST_LINE, STARTS, Break, Chain, Course, digest, follow_links
from tasks.core.errors import IngestError, UsageError
from tasks.ledger.known_runs import KnownRuns, read_known_runs
from tasks.report.directory import SUMMARY_JSON

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_CHUNK: Final = 1 << 20
_STARTED: Final = re.compile(rb'"event":"run_started","run_id":"([^"\\]*)"')
_PARSED: Final = frozenset({*STARTS, *ENDS})


@dataclass(frozen=True, slots=True)
class Known:
    """What a run knows beside the trail: where its ledger is, and the key that signs certificates."""

    ledger_at: Path | str
    key: "Ed25519PublicKey | None" = None


@dataclass(frozen=True, slots=True)
class _Certified:
    """How far certificates name a trail, and the runs that they are of."""

    chain: Chain
    end: int
    run_ids: frozenset[str]


def require_continuity(file: int, size: int, report_dir: Path, known: Known | None) -> None:
    """Raises UsageError when the trail, `size` bytes of whole lines, is not what earlier runs left.

    Without `known` it is held against the certificates alone.
    """
    try:
        _hold(file, size, report_dir, known)
    except (_NotAsItWas, Break) as why:
        raise UsageError(
            "The audit trail in the report directory is not as earlier runs left it: "
            f"{str(why).rstrip('.')}. Nothing was sent, and nothing was changed. `dicom-ingest audit` says "
            "more. Go on with another --report-dir and the same --ledger: what is stored is not sent again."
        ) from None


def _hold(file: int, size: int, report_dir: Path, known: Known | None) -> None:
    certificates = list(_certificates(report_dir, known.key if known else None))
    if not size and (certificates or (report_dir / SUMMARY_JSON).exists()):
        raise _NotAsItWas("there is none, and there is a report of it")
    certified = _certified(file, size, certificates)
    in_ledger = _ask_ledger(known, is_at_end=certified.end == size) if known else None
    began = _follow_rest(file, size, certified, in_ledger)
    if in_ledger and _misses_a_run(file, size, began | certified.run_ids, report_dir, in_ledger):
        raise _NotAsItWas("the ledger knows a run into this directory of which it has no line")


class _NotAsItWas(Exception):  # noqa: N818 - a finding, within this module
    """What is wrong with a trail."""


def _certificates(report_dir: Path, key: "Ed25519PublicKey | None") -> Iterator[Certificate]:
    for place, certificate in certificates_of(report_dir):
        if certificate is None:
            raise _NotAsItWas("a certificate beside it can't be read")
        at = report_dir / place
        if key and has_signature(at) and not is_signed(certificate, at, key):
            raise _NotAsItWas("a certificate's signature is not one by DICOM_INGEST_SIGNING_KEY")
        yield certificate


def _ask_ledger(known: Known, *, is_at_end: bool) -> KnownRuns | None:
    """A server is asked only when lines follow that no certificate names: it may be away.

    None, too, when the ledger can't be read: the run, which opens it next, learns that by itself.
    """
    if is_at_end and not isinstance(known.ledger_at, Path):
        return None
    try:
        return read_known_runs(known.ledger_at, is_patient=True)
    except IngestError:
        return None


def _certified(file: int, size: int, certificates: Sequence[Certificate]) -> _Certified:
    """Up to the last line that a certificate names. Raises Break when one of them is another."""
    last, last_end = Chain(), 0
    placed = _ends_of_lines(file, size, {each.lines for each in certificates if not each.trail_bytes})
    for each in certificates:
        end = each.trail_bytes or placed.get(each.lines, size + 1)
        if end > size:
            raise Break(each.lines, "is missing, and a certificate names it")
        if digest(_line_before(file, end)) != each.head:
            raise Break(each.lines, "is not the one that a certificate names")
        if end > last_end:
            last, last_end = Chain(each.lines, each.head), end
    return _Certified(last, last_end, frozenset(each.run_id for each in certificates))


def _line_before(file: int, end: int) -> bytes:
    """The line that ends there, without its newline; empty when none does."""
    begin = max(0, end - LONGEST_LINE)
    tail = os.pread(file, end - begin, begin)
    return tail[:-1].rpartition(b"\n")[2] if tail.endswith(b"\n") else b""


def _ends_of_lines(file: int, size: int, numbers: set[int]) -> dict[int, int]:
    """Where the lines of these numbers end."""
    ends: dict[int, int] = {}
    lines = begin = 0
    for number in sorted(numbers):
        while begin < size:
            chunk = os.pread(file, min(_CHUNK, size - begin), begin)
            if lines + (count := chunk.count(b"\n")) < number:
                lines, begin = lines + count, begin + len(chunk)
                continue
            at = -1
            for _ in range(number - lines):
                at = chunk.index(b"\n", at + 1)
            ends[number] = begin + at + 1
            break
    return ends


def _follow_rest(file: int, size: int, certified: _Certified, in_ledger: KnownRuns | None) -> set[str]:
    """The runs of the lines that follow the last certified one; raises what is wrong with a line."""
    course = Course(certified.run_ids | in_ledger.run_ids if in_ledger else None)
    began: set[str] = set()
    for chain, event, line in follow_links(lines_of(file, certified.end, size), certified.chain):
        if event not in _PARSED and course.current:
            continue  # as all but a few
        facts = facts_of(line) if event in _PARSED else {}
        if what := course.follow(event, facts):
            raise Break(chain.lines, what)
        began.add(str(facts.get("run_id", "")))
    return began


def lines_of(file: int, begin: int, end: int) -> Iterator[bytes]:
    """The lines of an open trail between two places."""
    with os.fdopen(os.dup(file), "rb") as lines:
        lines.seek(begin)
        while begin < end and (line := lines.readline(LONGEST_LINE)):
            begin += len(line)
            yield line


def facts_of(line: bytes) -> dict[str, Any]:
    """What a line says; nothing of one that is no JSON object."""
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _misses_a_run(file: int, size: int, seen: Set[str], report_dir: Path, in_ledger: KnownRuns) -> bool:
    """Whether a run into this directory should have lines here, and has none.

    Servers are asked by machines on which one path is many directories.
    """
    if not in_ledger.is_on_disk:
        return False
    first = facts_of(os.pread(file, LONGEST_LINE, 0).partition(b"\n")[0])
    since = str(first.get("run_id")), since_ns(str(first.get("at")))
    sought = [each for each in in_ledger.into_since(report_dir, *since) if each.run_id not in seen]
    in_trail = _runs_of(file, size) if sought else set()
    return any(each.run_id not in in_trail and in_ledger.has_lines(each) for each in sought)


def since_ns(at: str) -> float:
    """The time that a line has, in Unix nanoseconds; never, when it has none."""
    try:
        return datetime.fromisoformat(at).astimezone(UTC).timestamp() * 1e9
    except (ValueError, OverflowError):
        return math.inf


def _runs_of(file: int, size: int) -> set[str]:
    """Every run that began, as the lines themselves say it."""
    if not size:
        return set()
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as lines:
        return {match.group(1).decode("ascii", "replace") for match in _STARTED.finditer(lines)}
