"""Files that are ours alone: ledger, audit trail, report. None is opened through a link.

Whoever may write to the directory could put a link there, and have us write, or show, another file.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

from tasks.core.errors import UsageError

OPEN_SAFELY: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would be waited for


def require_ours(path: Path, what: str) -> None:
    """UsageError when what is there is no file of ours; nothing is opened. Nothing may be there."""
    try:
        found = path.lstat()
        owners = {path.parent.stat().st_uid, 0, os.geteuid()}
    except OSError:  # whoever opens it says why
        return
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners:
        raise UsageError(
            f"Not opened, and left as it is: {what} is a link, no regular file, or another user's. Find out "
            "who put it there and remove it, or name another directory."
        )


def require_directory_of_ours(path: Path, what: str) -> None:
    """The same of a directory in one of ours, into which files are moved."""
    try:
        found = path.lstat()
        owners = {path.parent.stat().st_uid, 0, os.geteuid()}
    except OSError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise UsageError(
            f"Not opened, and left as it is: {what} is a link, no directory, or another user's. Find out who "
            "put it there and remove it, or name another directory."
        )


def opened(path: Path) -> BufferedReader:
    """A file to read. OSError also when it is a link, or no regular file."""
    file = os.fdopen(os.open(path, os.O_RDONLY | OPEN_SAFELY), "rb")
    try:
        require_regular(file.fileno())
    except OSError:
        file.close()
        raise
    return file


def require_regular(descriptor: int) -> None:
    """OSError unless what was opened is a regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def read_private(path: Path) -> bytes:
    """All of a file. OSError also when it is a link, or no regular file."""
    with opened(path) as file:
        return file.read()


def why_exposed(directory: Path, name: str) -> str:
    """A sentence when others may change what is in the directory, named by `name`; else nothing."""
    try:
        found = directory.stat()
    except OSError:
        return ""
    if found.st_uid in {0, os.geteuid()} and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return ""
    return (
        f"{name} is another user's, or others may write to it: they can remove or replace what is in it. "
        "A directory of your own with mode 0700 keeps them from that."
    )
