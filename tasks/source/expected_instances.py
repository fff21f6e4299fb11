"""Expected: what a run will store of each study directory, from the headers of its files.

Which files belong to a directory is the run's own walk (`scan.py`), and whether one of them is sent the
run's own reader (`dicom_header.py`): over an unchanged archive, what is expected is what a run stores.
Several files are read at once, for a share answers each after a while; one thread at a time computes
(`tasks/turn.py`), for threads that fight for the interpreter's lock are slower than one alone. Memory: the
SOP Instance UIDs of one study, and the names along one path.
"""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH119

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias, TypeVar

from tasks.core.manifest import is_uid
from tasks.core.models import Header, Reason, Rejected, Status, StudyEntry, Unwalked
from tasks.source.dicom_header import examine
from tasks.source.file_content import MAX_PUT_BYTES
from tasks.source.scan import Ownership, walk_study
from tasks.turn import computing, waiting

# Files a second where each is there after 10 ms: one reader 77, 8 of them 660, 16 of them 1,100.
_READERS: Final = 16
_AHEAD: Final = 64  # files, and ends of studies, that are asked for and not counted yet
_HEAD_BYTES: Final = 1 << 15
_LOOK_UP_S: Final = 0.5  # Ctrl-C ends the wait at the latest then: see tasks/run/engine.py
_STUDY_NO: Final = 2  # of the directory in question; 1 owns what is not its own
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO would wait for its writer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StudyDir:
    """A study directory. `is_whole`: all below it is its own, else only the files that lie in it directly."""

    path: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run will store of one study directory.

    `study_instance_uid` is empty where its instances do not agree on one that a manifest may have.
    `instances` counts distinct SOP Instance UIDs, `size_bytes` the first file of each, in path order.
    """

    study_instance_uid: str
    instances: int
    size_bytes: int


@dataclass(slots=True)
class Counts:
    """How far a scan is, for a display of its progress, and in the end what it found."""

    study_dirs: int = 0  # found
    finding: bool = True
    scanned: int = 0  # study directories
    files: int = 0  # looked at
    instances: int = 0
    size_bytes: int = 0
    repeated: int = 0  # files with a SOP Instance UID that another one of the study has
    unreadable: int = 0  # files, directories and links
    unsent: int = 0  # files that are no image, or not whole


Seen: TypeAlias = tuple[Header | Rejected, int]  # a file's header, or why it is not sent; its bytes
Look: TypeAlias = Callable[[str], Seen]
_Reply: TypeAlias = "SimpleQueue[Seen | Exception]"


def look_at(path: str) -> Seen:
    """What a run makes of this file before it sends it. Memory is bounded; no content and no path raises."""
    try:
        with waiting():
            descriptor = os.open(path, _FLAGS)
        try:
            status = os.fstat(descriptor)
            return _judge(descriptor, status, os.path.basename(path)), status.st_size
        finally:
            os.close(descriptor)
    except OSError:
        return Rejected(Status.UNREADABLE, Reason.IO_ERROR), 0


def expectations(
    study_dirs: Iterable[StudyDir],
    real_roots: Sequence[str],
    is_own: Callable[[str], bool],
    counts: Counts,
    look: Look = look_at,
) -> Iterator[tuple[StudyDir, Expected]]:
    """What is expected of each study directory, in their order.

    `real_roots` hold all of them: a link into one leads to another study. `is_own`: a file to pass over.
    """
    tally = _Tally(counts)
    with _readers(look) as ask:
        for part in _ahead(_parts(study_dirs, real_roots, is_own, ask), _AHEAD):
            if isinstance(part, StudyDir):
                yield part, tally.expected()
                counts.scanned += 1
                tally = _Tally(counts)
            elif isinstance(part, Unwalked):
                counts.unreadable += 1
            else:
                tally.add(_answer(part))


# --- one file ---


class _Headed(BytesIO):
    """A file for reading of which the first bytes are held: most of a header costs no system call."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(_read_at(descriptor, _HEAD_BYTES, 0))
        self._descriptor = descriptor

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        data = super().read(size)
        if len(data) == size:
            return data
        start = self.tell() - len(data)
        data = _read_at(self._descriptor, size, start)
        self.seek(start + len(data))
        return data


def _read_at(descriptor: int, size: int, start: int) -> bytes:
    """So many bytes, fewer only at the end of the file: one read may give less."""
    with waiting():
        data = os.pread(descriptor, size, start)
        while 0 < len(data) < size and (more := os.pread(descriptor, size - len(data), start + len(data))):
            data += more
    return data


def _judge(descriptor: int, status: os.stat_result, name: str) -> Header | Rejected:
    if not stat.S_ISREG(status.st_mode):
        return Rejected(Status.UNREADABLE, Reason.IO_ERROR)
    if status.st_size > MAX_PUT_BYTES:
        return Rejected(Status.TOO_LARGE, Reason.NONE)
    return examine(_Headed(descriptor), status.st_size, name)


# --- one study ---


class _Tally:
    """Counts the files of one study as they come."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._sop_instance_uids: set[str] = set()
        self._study_instance_uid: str | None = None
        self._agree = True
        self._size_bytes = 0

    def add(self, seen: Seen) -> None:
        found, size_bytes = seen
        self._counts.files += 1
        if isinstance(found, Header):
            self._add_instance(found, size_bytes)
        elif found.status is Status.UNREADABLE:
            self._counts.unreadable += 1
        else:
            self._counts.unsent += 1

    def _add_instance(self, header: Header, size_bytes: int) -> None:
        self._agree &= self._study_instance_uid in (None, header.study_instance_uid)
        self._study_instance_uid = header.study_instance_uid
        if header.sop_instance_uid in self._sop_instance_uids:
            self._counts.repeated += 1
            return
        self._sop_instance_uids.add(header.sop_instance_uid)
        self._size_bytes += size_bytes
        self._counts.instances += 1
        self._counts.size_bytes += size_bytes

    def expected(self) -> Expected:
        uid = self._study_instance_uid or ""
        known = uid if self._agree and is_uid(uid) else ""
        return Expected(known, len(self._sop_instance_uids), self._size_bytes)


# --- many files at once ---


def _parts(
    study_dirs: Iterable[StudyDir],
    real_roots: Sequence[str],
    is_own: Callable[[str], bool],
    ask: Callable[[str], _Reply],
) -> Iterator["_Reply | Unwalked | StudyDir"]:
    """Of each file the answer to be, of what can't be walked the row; after a study's last one the study."""
    for study_dir in study_dirs:
        for row in walk_study(StudyEntry(_STUDY_NO, study_dir.path), _ownership(study_dir, real_roots)):
            if isinstance(row, Unwalked):
                yield row
            elif not is_own(row.path):
                yield ask(row.path)
        yield study_dir


def _ownership(study_dir: StudyDir, real_roots: Sequence[str]) -> Ownership:
    """What `survey` would find of the whole manifest, as far as one directory's walk asks for it."""
    real = os.path.realpath(os.fsencode(study_dir.path))
    owners = dict.fromkeys(map(os.fsencode, real_roots), _STUDY_NO + 1)  # below which others' rows are
    owners |= dict.fromkeys(() if study_dir.is_whole else _subdirs(real), _STUDY_NO - 1)
    return Ownership({_STUDY_NO: real}, owners | {real: _STUDY_NO}, frozenset(), {}, None)


def _subdirs(directory: bytes) -> list[bytes]:
    try:
        with os.scandir(directory) as listing:
            return [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
    except OSError:  # the walk will come to the same
        return []


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, each when so many more have been made, or none is left."""
    made: deque[T] = deque()
    for item in items:
        made.append(item)
        if len(made) > count:
            yield made.popleft()
    yield from made


@contextmanager
def _readers(look: Look) -> Iterator[Callable[[str], _Reply]]:
    """Asks threads to look at a file. Daemons: one that waits for a dead share must not keep the process."""
    asked: SimpleQueue[tuple[str, _Reply] | None] = SimpleQueue()

    def ask(path: str) -> _Reply:
        reply: _Reply = SimpleQueue()
        asked.put((path, reply))
        return reply

    for number in range(_READERS):
        threading.Thread(target=_read, args=(asked, look), name=f"reader-{number}", daemon=True).start()
    try:
        yield ask
    finally:
        _empty(asked)
        for _ in range(_READERS):
            asked.put(None)


def _read(asked: "SimpleQueue[tuple[str, _Reply] | None]", look: Look) -> None:
    with computing():
        while True:
            with waiting():
                job = asked.get()
            if job is None:
                return
            path, reply = job
            try:
                reply.put(look(path))
            except Exception as error:  # noqa: BLE001 - a defect: whoever asked has to end, not to wait
                reply.put(error)


def _empty(queue: "SimpleQueue[T]") -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return


def _answer(reply: _Reply) -> Seen:
    while True:
        try:
            answer = reply.get(timeout=_LOOK_UP_S)
        except Empty:
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer
