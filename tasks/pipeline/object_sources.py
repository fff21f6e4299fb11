"""Which objects: those that a list of keys or event messages name, page by page.

An object that is named and of which nobody knows the size has a negative one, until it is looked at.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tasks.bucket_settings import BucketAddress
from tasks.core.errors import UsageError
from tasks.core.event_messages import NewObject, key_of_line, new_objects
from tasks.ingest_settings import STDIN
from tasks.remote.bucket import BucketObject

_PAGE: Final = 1000
_LARGEST_MESSAGE: Final = 4 << 20  # bytes; S3's have less than 256 KiB
UNKNOWN_SIZE: Final = -1


def keys_in(path: Path) -> Iterator[list[BucketObject]]:
    """The objects that a file names, one key a line, wherever in the bucket; blank lines are none.

    UsageError when it can't be read, or names what can't be a key.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            yield from _pages(_named(lines))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UsageError(f"--keys can't be read: {why}. Nothing was registered.") from None


def events_in(source: str, address: BucketAddress) -> Iterator[list[BucketObject]]:
    """The objects of this bucket that event messages tell of: a folder's files, or lines of standard input.

    UsageError when they can't be read, or one is no message of S3.
    """
    messages = sys.stdin if source == STDIN else _messages(Path(source))
    yield from _pages(_of_bucket(messages, address))


def _named(lines: Iterable[str]) -> Iterator[BucketObject]:
    for number, line in enumerate(lines, 1):
        try:
            key = key_of_line(line)
            key.encode()
        except UnicodeError:
            raise UsageError(f"--keys, line {number}, is not UTF-8. Nothing was registered.") from None
        except ValueError as why:
            raise UsageError(f"--keys, line {number}, {why}. Nothing was registered.") from None
        if key:
            yield BucketObject(key, UNKNOWN_SIZE, "", 0)


def _messages(folder: Path) -> Iterator[str]:
    """In the order of the files' names; what has a name that begins with a dot is not ready yet."""
    try:
        names = sorted(each.name for each in os.scandir(folder) if each.is_file())
        for name in names:
            if not name.startswith("."):
                with (folder / name).open(encoding="utf-8", errors="strict") as file:
                    yield file.read(_LARGEST_MESSAGE)
    except (OSError, UnicodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "a message is not UTF-8"
        raise UsageError(f"--events can't be read: {why}. Nothing was registered.") from None


def _of_bucket(messages: Iterable[str], address: BucketAddress) -> Iterator[BucketObject]:
    for number, text in enumerate(messages, 1):
        if not text.strip():
            continue
        try:
            found = new_objects(text)
        except ValueError:
            raise UsageError(
                f"--events: message {number} is no event message of S3. Nothing was registered."
            ) from None
        for each in found:
            if each.bucket == address.name and each.key.startswith(address.prefix):
                yield _object(each)


def _object(new: NewObject) -> BucketObject:
    is_known = new.size_bytes is not None and new.etag
    size_bytes = new.size_bytes if is_known and new.size_bytes is not None else UNKNOWN_SIZE
    return BucketObject(new.key, size_bytes, new.etag, 0)


def _pages(objects: Iterator[BucketObject]) -> Iterator[list[BucketObject]]:
    """Each key once in a page: the last that was said of it."""
    while page := list(islice(objects, _PAGE)):
        yield list({each.key: each for each in page}.values())
