"""What is done with an object that has its outcome: it stays, is tagged, or is moved. All of it blocks.

A move is a copy, compared, and only then the object is deleted. Wherever it is cut short, the object is at
its key, at the new one, or at both, and the ledger has named the new one before.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from tasks.core.errors import Fault, FaultKind
from tasks.core.object_outcomes import PREFIXES, TAG_NAME, TAGS, After, ObjectStatus
from tasks.remote.bucket import Bucket, BucketObject
from tasks.remote.bucket_faults import AlteredError, GoneError

_MOVED_TO: Final = frozenset(PREFIXES.values())


def moved_prefixes(prefix: str) -> tuple[str, ...]:
    """Where what was moved lies: no new objects, unless the bucket's prefix says that they are wanted."""
    return tuple(sorted(each for each in _MOVED_TO if not prefix.startswith(each)))


def without_moved(pages: Iterable[list[BucketObject]], prefix: str) -> Iterator[list[BucketObject]]:
    """The pages of a listing without what was moved."""
    moved = moved_prefixes(prefix)
    for page in pages:
        yield [each for each in page if not each.key.startswith(moved)]


def has_tags(bucket: Bucket) -> bool:
    """Whether the store knows tags of objects, by the smallest object of the first ones; of none: yes.

    Raises Fault when it refuses the credentials. rclone's sends an object's bytes for its tags.
    """
    page = next(bucket.listing(), [])
    smallest = min(page, key=lambda each: each.size_bytes, default=None)
    if smallest is None:
        return True
    try:
        bucket.tags(smallest.key)
    except GoneError:
        return True
    except Fault as fault:
        if fault.kind in (FaultKind.FORBIDDEN, FaultKind.UNAUTHORIZED):
            raise
        return False
    return True


class Afterwards:
    """What an operator wants done, in one bucket."""

    def __init__(self, bucket: Bucket, after: After) -> None:
        self.after = after
        self._bucket = bucket

    def tag_of(self, status: ObjectStatus) -> str:
        """The tag that an object of this status gets; empty: none."""
        return TAGS.get(status, "") if self.after is After.TAG else ""

    def is_moved(self, status: ObjectStatus) -> bool:
        """Whether an object of this status is to be moved."""
        return self.after is After.MOVE and status in PREFIXES

    def tag(self, key: str, status: ObjectStatus) -> None:
        """Tags it, beside the tags that it has. Raises Fault, GoneError."""
        self._bucket.tag(key, TAG_NAME, self.tag_of(status))

    def target(self, key: str, status: ObjectStatus, size_bytes: int | None, etag: str) -> str:
        """The key that it is to be moved to: free, or that of its copy which an earlier move has made.

        Another object may lie where it belongs, of a key that was used twice: neither is lost.
        """
        wanted = PREFIXES[status] + key
        for number in count(1):
            target = wanted if number == 1 else f"{wanted}.{number}"
            there = self._bucket.head(target)
            if there is None or (there.size_bytes, there.etag) == (size_bytes, etag):
                return target
        raise AssertionError

    def move(self, key: str, target: str, etag: str, sha256: str) -> None:
        """Moves it. Raises Fault; AlteredError when there is another object at its key by now."""
        source = self._bucket.head(key)
        if source is None:
            if self._bucket.head(target) is None:
                raise GoneError
            return  # a move that was cut short after it had deleted
        if etag and source.etag != etag:
            raise AlteredError
        copied = self._bucket.head(target)
        if copied is None:
            self._bucket.copy(key, target, source.etag)
            copied = self._bucket.head(target)
        if copied is None or not self._is_same(source, copied, sha256):
            raise Fault(FaultKind.INTEGRITY, "a copy within the bucket is not the object", detail="BadCopy")
        now = self._bucket.head(key)
        if now is not None and (now.etag, now.modified_ns) != (source.etag, source.modified_ns):
            raise AlteredError
        self._bucket.delete(key)

    def _is_same(self, source: BucketObject, copied: BucketObject, sha256: str) -> bool:
        """By what the store shows of both, or else by the copy's bytes: ETags differ where KMS encrypts."""
        if source.size_bytes != copied.size_bytes:
            return False
        if source.etag == copied.etag or (source.checksum and source.checksum == copied.checksum):
            return True
        digest = hashlib.sha256()
        for piece in self._bucket.pieces(copied.key, copied.etag, copied.size_bytes):
            digest.update(piece)
        return bool(sha256) and digest.hexdigest() == sha256
