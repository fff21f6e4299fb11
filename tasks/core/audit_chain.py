"""The audit trail's form: one JSON object a line, each with the hash of the line before. Pure.

    {"no":1,"prev":"000...","at":"2026-01-31T12:00:00.000000Z","event":"run_started","run_id":...}
    {"no":2,"prev":"<SHA-256 of line 1 without its newline>","at":...,"event":"key_issued",...}

A line that is changed, left out, put in or moved breaks the chain at the next one. What is cut off at the end
no chain can show: the certificate beside the report has the number of lines and the last hash.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

GENESIS: Final = "0" * 64  # `prev` of the first line


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
    LINE_CUT = "line_cut"  # a crash had torn the last line, and it was cut off


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


def digest(line: bytes) -> str:
    """The hash by which the next line names this one: SHA-256 of its bytes without the newline."""
    return hashlib.sha256(line).hexdigest()


def follow(lines: Iterable[bytes]) -> Iterator[tuple[Chain, dict[str, Any]]]:
    """Each line's facts, with the chain up to and with it. Raises Break at the first that does not follow."""
    chain = Chain()
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            raise Break(
                number, "is cut off: the run that wrote it died. The next run mends that and says so."
            )
        facts = _facts(number, line)
        if facts.get("prev") != chain.head or facts.get("no") != number:
            raise Break(number, "does not follow from the line before it: one of the two was changed.")
        chain = Chain(number, digest(line[:-1]))
        yield chain, facts


def _facts(number: int, line: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise Break(number, "is no JSON object.")
    return facts
