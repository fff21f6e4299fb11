"""An object of the bucket, read once: held, or streamed into its request, hashed and looked at as it passes.

All of it blocks: for reader threads. What is wrong with an object is a value; what is wrong with the way to
it is raised: Fault, GoneError, AlteredError (`tasks/remote/bucket.py`).
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, cast

from tasks.core.errors import Fault, FaultKind
from tasks.core.models import Header, Rejected
from tasks.core.object_outcomes import ObjectReason, ObjectTodo
from tasks.core.object_rules import ObjectRule, Unfit, judge_object
from tasks.pipeline.stream_window import HEAD_BYTES, LetGoError, StreamWindow
from tasks.remote.bucket import Bucket
from tasks.remote.bucket_faults import GoneError
from tasks.source.dicom_header import examine

HELD_BYTES: Final = 16 * 1024 * 1024  # an object up to this size is held while it is sent
_VERDICT_S: Final = 120.0  # after the last byte
_NO_HEADER: Final = Header("")


class UnfitError(Exception):
    """A streamed object turns out to be unfit, just before its last bytes would leave."""

    def __init__(self, unfit: Unfit, sha256: str) -> None:
        super().__init__(unfit.reason)
        self.unfit = unfit
        self.sha256 = sha256


@dataclass(slots=True)
class ReadObject:
    """An object's bytes, and what they say. `sha256` of a streamed one is known when it has passed."""

    size_bytes: int
    etag: str
    header: Header
    sha256: str
    pieces: Callable[[], Iterable[bytes]]
    unfit: Unfit | None = None
    held_bytes: int = 0


def read_object(bucket: Bucket, todo: ObjectTodo, off: Collection[ObjectRule] = ()) -> ReadObject:
    """The object as it is now, with why it is held back, if it is. `off`: rules that do not count."""
    size_bytes, etag = todo.size_bytes, todo.etag
    if size_bytes is None or not etag:
        head = bucket.head(todo.location)
        if head is None:
            raise GoneError
        size_bytes, etag = head.size_bytes, head.etag
    if not size_bytes:
        return ReadObject(0, etag, _NO_HEADER, _sha256(b""), list, Unfit(ObjectReason.EMPTY))
    read = _hold if size_bytes <= HELD_BYTES else _stream
    return read(bucket, todo, size_bytes, etag, off)


def _hold(
    bucket: Bucket, todo: ObjectTodo, size_bytes: int, etag: str, off: Collection[ObjectRule]
) -> ReadObject:
    return judge_held(b"".join(bucket.pieces(todo.location, etag, size_bytes)), todo, etag, off)


def judge_held(data: bytes, todo: ObjectTodo, etag: str, off: Collection[ObjectRule]) -> ReadObject:
    """An object of which all bytes are here; `etag`: theirs."""
    found, sha256 = examine(BytesIO(data), len(data), ""), _sha256(data)
    unfit = judge_object(found, sha256, todo.expected, off)
    return ReadObject(
        len(data), etag, _header(found), sha256, lambda: [data], unfit, 0 if unfit else len(data)
    )


def _stream(
    bucket: Bucket, todo: ObjectTodo, size_bytes: int, etag: str, off: Collection[ObjectRule]
) -> ReadObject:
    """What identifies it stands at its beginning; whether it is whole, its last bytes say."""
    head = bucket.beginning(todo.location, etag, HEAD_BYTES)
    found = examine(BytesIO(head), size_bytes, "")
    unfit = judge_object(found, "", todo.expected, {*off, ObjectRule.PART10})
    read = ReadObject(size_bytes, etag, _header(found), "", list, unfit, HEAD_BYTES)
    read.pieces = lambda: _Passing(bucket, todo, read, off).pieces()
    return read


class _Passing:
    """One pass of a large object: every byte is hashed and looked at, and the last ones wait for that."""

    def __init__(
        self, bucket: Bucket, todo: ObjectTodo, read: ReadObject, off: Collection[ObjectRule]
    ) -> None:
        self._bucket = bucket
        self._todo = todo
        self._read = read
        self._off = off
        self._window = StreamWindow(read.size_bytes)
        self._verdict: Future[Header | Rejected | None] = Future()

    def pieces(self) -> Iterator[bytes]:
        sha256, last, read = hashlib.sha256(), b"", self._read
        threading.Thread(target=self._examine, name="examine", daemon=True).start()
        try:
            for piece in self._bucket.pieces(self._todo.location, read.etag, read.size_bytes):
                if last:
                    yield last
                sha256.update(piece)
                self._window.feed(piece)
                last = piece
        finally:
            self._window.close()
        self._judge(sha256.hexdigest())
        yield last

    def _examine(self) -> None:
        try:
            file = cast("BinaryIO", self._window)
            self._verdict.set_result(examine(file, self._read.size_bytes, ""))
        except LetGoError:  # nobody can say: the registry will
            self._verdict.set_result(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the verdict is asked for
            self._verdict.set_exception(error)
        finally:
            self._window.end_reading()

    def _judge(self, sha256: str) -> None:
        found = self._verdict.result(_VERDICT_S)
        header = self._read.header
        if isinstance(found, Header) and _identity(found) != _identity(header):
            raise Fault(FaultKind.CHANGED, "an object is not what its beginning said")
        unfit = judge_object(found or header, sha256, self._todo.expected, self._off)
        if unfit:
            raise UnfitError(unfit, sha256)
        self._read.sha256 = sha256


def _identity(header: Header) -> tuple[str, str]:
    return header.sop_instance_uid, header.study_instance_uid


def _header(found: Header | Rejected) -> Header:
    return found if isinstance(found, Header) else found.header or _NO_HEADER


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
