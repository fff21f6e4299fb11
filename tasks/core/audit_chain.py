"""The audit trail's form: one JSON object a line, each with the hash of the line before. Pure.

    {"no":1,"prev":"000...","at":"2026-01-31T12:00:00.000000Z","event":"run_started","run_id":...}
    {"no":2,"prev":"<SHA-256 of line 1 without its newline>","at":...,"event":"key_issued",...}

A line that is changed, left out, put in or moved breaks the chain at the next one. What is cut off at the end
no chain can show: the certificate beside the report has the number of lines and the last hash.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

GENESIS: Final = "0" * 64  # `prev` of the first line
LONGEST_LINE: Final = 64 * 1024  # more than any line of ours has


class Event(StrEnum):
    """What a line says."""

    RUN_STARTED = "run_started"
    CREDENTIAL = "credential"  # which one, never the secret
    BATCH_STARTED = "batch_started"
    KEY_ISSUED = "key_issued"  # durable before the first byte is sent to it
    KEY_UNUSED = "key_unused"  # of the URL that a run asks for at its start: nothing is sent to it
    STORAGE_HOST = "storage_host"  # that files go to from here on
    STORED = "stored"
    SUPERSEDED = "superseded"  # a key that no file has any more, or never had
    REFUSED = "refused"  # a file that was tried and given up
    RUN_ENDED = "run_ended"
    REPORT_WRITTEN = "report_written"  # again, from the ledger
    INGEST_STARTED = "ingest_started"  # a run of the command ingest
    REGISTERED = "registered"  # the object with a key, in the registry
    NOT_REGISTERED = "not_registered"  # why it is not
    MOVED = "moved"  # the object with a key, to another
    INGEST_ENDED = "ingest_ended"
    PLANNED = "planned"  # by `plan`: the key of the URL that it asked for, to which nothing is sent
    VERIFIED = "verified"  # a report, against bucket and registry: what was found
    LINE_CUT = "line_cut"  # a crash had torn the last line, and it was cut off


STARTS: Final = (Event.RUN_STARTED, Event.INGEST_STARTED)
ENDS: Final = (Event.RUN_ENDED, Event.REPORT_WRITTEN, Event.INGEST_ENDED)  # nothing of a run follows them
_ANYWHERE: Final = (Event.PLANNED, Event.VERIFIED, Event.LINE_CUT)  # between runs, too


@dataclass(slots=True)
class Chain:
    """The end of a trail: how many lines it has, and the hash of the last."""

    lines: int = 0
    head: str = GENESIS

    def append(self, at: str, event: Event, facts: Mapping[str, Any]) -> bytes:
        """Adds an event to the chain. Gives its line, newline included."""
        link = {"no": self.lines + 1, "prev": self.head, "at": at, "event": event}
        line = json.dumps({**link, **facts}, separators=(",", ":")).encode()
        self.lines, self.head = self.lines + 1, digest(line)
        return line + b"\n"


@dataclass(frozen=True, slots=True)
class Break(Exception):  # noqa: N818 - where a trail is broken, not what went wrong here
    """The first line that does not follow from the one before it."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line} {self.what}"


_CUT_OFF: Final = "is cut off: the run that wrote it died. The next run mends that and says so."
_DOES_NOT_FOLLOW: Final = "does not follow from the line before it: one of the two was changed."


def digest(line: bytes) -> str:
    """The hash by which the next line names this one: SHA-256 of its bytes without the newline."""
    return hashlib.sha256(line).hexdigest()


def follow(lines: Iterable[bytes]) -> Iterator[tuple[Chain, dict[str, Any]]]:
    """Each line's facts, with the chain up to and with it. Raises Break at the first that does not follow."""
    chain = Chain()
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            raise Break(number, _CUT_OFF)
        facts = _facts(number, line)
        if facts.get("prev") != chain.head or facts.get("no") != number:
            raise Break(number, _DOES_NOT_FOLLOW)
        chain = Chain(number, digest(line[:-1]))
        yield chain, facts


def follow_links(lines: Iterable[bytes], after: Chain) -> Iterator[tuple[Chain, str, bytes]]:
    """Each line with the chain up to and with it, and its event. Raises Break as `follow` does.

    Of a line no more is read than `Chain.append` puts before its facts: half the time of JSON.
    """
    chain = after
    for line in lines:
        number = chain.lines + 1
        parts = line.split(b'"', 14)
        if not line.endswith(b"\n") or len(parts) < 15:
            raise Break(number, "is no line of an audit trail.")
        if parts[2] != b":%d," % number or parts[5] != chain.head.encode():
            raise Break(number, _DOES_NOT_FOLLOW)
        chain = Chain(number, digest(line[:-1]))
        yield chain, parts[13].decode("ascii", "replace"), line


@dataclass(slots=True)
class Course:
    """The runs of a trail, line by line: whose a line is, and which run has no end."""

    known: frozenset[str] | None  # all runs that there can be, by what else is known; None: not known
    current: str = ""  # the run whose the next line is; empty after its end
    open: dict[str, str] = field(default_factory=dict)  # run_id to its beginning, of what has no end
    open_since_end: dict[str, str] = field(default_factory=dict)  # of these, what began after any run's end
    ingest_since: str = ""  # when the last run of `ingest` began, if it has no end

    def follow(self, event: str, facts: Mapping[str, Any]) -> str:
        """Goes on by a line; what is wrong with it, or nothing. `facts` are of its run's start and end."""
        run_id = str(facts.get("run_id", ""))
        if event == Event.INGEST_STARTED:
            self.current, self.ingest_since = run_id, str(facts.get("at", ""))
        elif event == Event.INGEST_ENDED:
            self.current = self.ingest_since = ""
        elif event in STARTS:
            self.current = run_id
            self.open[run_id] = self.open_since_end[run_id] = str(facts.get("at", ""))
        elif event in ENDS:
            self.current = ""
            self.open.pop(run_id, None)
            self.open_since_end.clear()
        elif event not in _ANYWHERE and not self.current:
            return "follows the end of a run, after which nothing is written but by another run."
        else:
            return ""
        if self.known is not None and run_id not in self.known:
            return "is of a run that neither a certificate nor the ledger knows."
        return ""


def _facts(number: int, line: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise Break(number, "is no JSON object.")
    return facts
