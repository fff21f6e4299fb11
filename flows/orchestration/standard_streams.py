"""Standard output and error of commands and flows: that nobody reads them, or not to the end, is no fault.

Nothing that a file or a server says moves a terminal's cursor: control characters are escaped.
"""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from tasks.core.escape import printable


def say(sentence: str) -> None:
    """To standard error: standard output is for what scripts read. That nobody reads it stops no run."""
    try:
        sys.stderr.write(f"{printable(sentence)}\n")
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
