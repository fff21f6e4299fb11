"""Standard output and error of commands and flows: that nobody reads them, or not to the end, is no fault.

Nothing that a file or a server says moves a terminal's cursor: control characters are escaped. What is said
has a kind, by which `--quiet` and `--json-logs` know what becomes of it.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple, TextIO

from tasks.core.escape import printable


class Kind(StrEnum):
    """What a line is: `event` of a JSON line."""

    RESULT = "result"  # what the command was asked for, and what became of it
    NEWS = "news"  # what it does meanwhile
    PROGRESS = "progress"
    LOG = "log"  # a log record, of a library, too
    WARNING = "warning"
    ERROR = "error"  # what ends the command


_LEVELS: Final = {Kind.WARNING: "warning", Kind.ERROR: "error"}
_CHATTER: Final = frozenset({Kind.NEWS, Kind.PROGRESS})


class Output(NamedTuple):
    """How a process says things on standard error."""

    is_quiet: bool = False  # neither news nor progress
    is_json: bool = False  # each line is an object


_NOT_DECIDED: Final = Output()
_current: Final = [_NOT_DECIDED]  # of this process: standard error is one, whoever writes to it


def current_output() -> Output:
    """How this process says things."""
    return _current[0]


def is_decided() -> bool:
    """Whether a command has said how, or a flow of a deployment."""
    return _current[0] is not _NOT_DECIDED


@contextmanager
def saying(output: Output) -> Iterator[None]:
    """Says things so until the block ends."""
    before, _current[0] = _current[0], output
    try:
        yield
    finally:
        _current[0] = before


def say(sentence: str, kind: Kind = Kind.RESULT, **counters: Any) -> None:
    """To standard error: standard output is for what scripts read. That nobody reads it stops no run.

    `counters` are what JSON lines have besides.
    """
    output = _current[0]
    if output.is_quiet and kind in _CHATTER:
        return
    if output.is_json:
        write_line(json_line(sentence, kind, _LEVELS.get(kind, "info"), **counters))
    else:
        write_line(printable(sentence))


def say_lines(sentences: Iterable[str], **counters: Any) -> None:
    """Says what came of it, line by line; in JSON the last line has the counters."""
    *others, last = sentences
    for sentence in others:
        say(sentence)
    say(last, **counters)


def json_line(sentence: str, kind: Kind, level: str, **counters: Any) -> str:
    """One line as an object: of ASCII, so that it moves no cursor either."""
    import json
    from datetime import UTC, datetime

    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"time": at, "level": level, "event": kind.value, "message": printable(sentence)}
    return json.dumps(said | counters, default=str)


def write_line(line: str) -> None:
    """To standard error, as it is."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        _discard(sys.stderr)


def list_out(lines: Iterable[str]) -> None:
    """To standard output, until whoever reads it has enough, as `head` has: that is no fault."""
    try:
        for line in lines:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)


def discard_unread_output() -> bool:
    """Discards what goes to standard output from now on, if nobody reads it any more; whether that is so."""
    from select import POLLERR, POLLHUP, poll

    output = poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & (POLLERR | POLLHUP) for _, event in output.poll(0)):
        return False
    _discard(sys.stdout)
    return True


def _discard(stream: TextIO) -> None:
    """What is left in its buffer, and all that follows: else the interpreter would try again at its end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
