"""Expected: what a run will store of each study directory, from the headers of its files.

Which files belong to a directory is the run's own walk (`scan.py`), and whether one of them is sent the
run's own reader (`header_reader.py`): over an unchanged archive, what is expected is what a run stores.
Several files are read at once, for a share answers each after a while. Memory: the SOP Instance UIDs of one
study, and the names along one path.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias, TypeVar

from tasks.core.manifest import is_uid
from tasks.core.member_paths import is_member
from tasks.core.models import Header, Status, StudyEntry, Unwalked
from tasks.source.archives import Archives
from tasks.source.header_reader import Examined, read_header
from tasks.source.member_content import examine_member
from tasks.source.scan import Ownership, walk_study
from tasks.source.study_directories import StudyDir

# Files a second where each is there after 10 ms: 4 readers 320, 8 of them 620, 16 of them 960. On a disk that
# answers at once more than 4 gain nothing, and lose nothing.
READERS: Final = 16
_AHEAD: Final = 64  # files, and ends of studies, that are asked for and not counted yet
_STACK_BYTES: Final = 1 << 20  # of a reader, where 8 MiB are usual: they are not deep
_LOOK_UP_S: Final = 0.5  # Ctrl-C ends the wait at the latest then: see tasks/run/engine.py
_STUDY_NO: Final = 2  # of the directory in question; 1 owns what is not its own

T = TypeVar("T")


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
    files: int = 0  # examined
    instances: int = 0
    size_bytes: int = 0
    repeated: int = 0  # files with a SOP Instance UID that another one of the study has
    unreadable: int = 0  # files, directories and links
    unsent: int = 0  # files that are no image, or not whole


ReadHeader: TypeAlias = Callable[[str], Examined]
Reply: TypeAlias = "SimpleQueue[Examined | Exception]"


def expectations(
    study_dirs: Iterable[StudyDir],
    real_roots: Sequence[str],
    is_own: Callable[[str], bool],
    counts: Counts,
    read: ReadHeader = read_header,
    accepted: Collection[str] = (),
    archives: Archives | None = None,
) -> Iterator[tuple[StudyDir, Expected]]:
    """What is expected of each study directory, in their order.

    `real_roots` hold all of them: a link into one leads to another study. `is_own`: a file to pass over.
    `accepted`: reasons for which a file that would be held back is sent all the same. `archives`: those of a
    scan that looks into them.
    """
    tally = _Tally(counts, accepted)

    def read_any(path: str) -> Examined:
        return examine_member(archives, path) if archives and is_member(path) else read(path)

    with header_readers(read_any) as ask:
        for part in _ahead(_parts(study_dirs, real_roots, is_own, ask, archives), _AHEAD):
            if isinstance(part, StudyDir):
                yield part, tally.expected()
                counts.scanned += 1
                tally = _Tally(counts, accepted)
            elif isinstance(part, Unwalked):
                counts.unreadable += 1
            else:
                tally.add(await_answer(part))


class _Tally:
    """Counts the files of one study as they come."""

    def __init__(self, counts: Counts, accepted: Collection[str]) -> None:
        self._counts = counts
        self._accepted = accepted
        self._sop_instance_uids: set[str] = set()
        self._study_instance_uid: str | None = None
        self._agree = True
        self._size_bytes = 0

    def add(self, examined: Examined) -> None:
        found, size_bytes = examined
        self._counts.files += 1
        if isinstance(found, Header):
            self._add_instance(found, size_bytes)
        elif found.header and found.is_sent(self._accepted):
            self._add_instance(found.header, size_bytes)
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


def _parts(
    study_dirs: Iterable[StudyDir],
    real_roots: Sequence[str],
    is_own: Callable[[str], bool],
    ask: Callable[[str], Reply],
    archives: Archives | None,
) -> Iterator["Reply | Unwalked | StudyDir"]:
    """For each file the reply to come, for what can't be walked its row; after all of a study, the study."""
    for study_dir in study_dirs:
        ownership = replace(_ownership(study_dir, real_roots), archives=archives)
        for row in walk_study(StudyEntry(_STUDY_NO, study_dir.path), ownership):
            if isinstance(row, Unwalked):
                yield row
            elif is_member(row.path) or not is_own(row.path):
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
    """The same items, each delayed until `count` more have been made or none is left."""
    made: deque[T] = deque()
    for item in items:
        made.append(item)
        if len(made) > count:
            yield made.popleft()
    yield from made


@contextmanager
def header_readers(read: ReadHeader) -> Iterator[Callable[[str], Reply]]:
    """Threads that read headers when asked; daemons, for one that waits for a dead share never ends."""
    asked: SimpleQueue[tuple[str, Reply] | None] = SimpleQueue()

    def ask(path: str) -> Reply:
        reply: Reply = SimpleQueue()
        asked.put((path, reply))
        return reply

    _start_readers(asked, read)
    try:
        yield ask
    finally:
        _empty(asked)
        for _ in range(READERS):
            asked.put(None)


def _start_readers(asked: "SimpleQueue[tuple[str, Reply] | None]", read: ReadHeader) -> None:
    """As many as there may be: where address space or processes are limited, fewer do."""
    usual = threading.stack_size(_STACK_BYTES)
    started = 0
    try:
        while started < READERS:
            reader = threading.Thread(target=_read, args=(asked, read), name=f"reader-{started}", daemon=True)
            reader.start()
            started += 1
    except RuntimeError:
        if not started:
            raise
    finally:
        threading.stack_size(usual)


def _read(asked: "SimpleQueue[tuple[str, Reply] | None]", read: ReadHeader) -> None:
    while (job := asked.get()) is not None:
        path, reply = job
        try:
            reply.put(read(path))
        except Exception as error:  # noqa: BLE001 - a defect: whoever asked has to end, not to wait
            reply.put(error)


def _empty(queue: "SimpleQueue[T]") -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return


def await_answer(reply: Reply) -> Examined:
    """What a reader found; raises what it raised."""
    while True:
        try:
            answer = reply.get(timeout=_LOOK_UP_S)
        except Empty:
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer
