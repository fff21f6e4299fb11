"""audit.jsonl: who sent what, when. Append-only; one chain of lines for a report directory.

The ledger writes a group's events here before it commits the group, so that after any crash the trail has at
least what the ledger has. What it has in excess is a key to which the next run sends nothing any more;
that run says so by a line of its own.
"""

import fcntl
import json
import logging
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tasks.audit.continuity import Known, facts_of, lines_of, require_continuity, since_ns
from tasks.core.audit_chain import ENDS, LONGEST_LINE, Chain, Event, digest
from tasks.core.errors import StoppedError, UsageError
from tasks.ledger.private_files import OPEN_SAFELY, require_ours, require_regular
from tasks.report.directory import AUDIT_JSONL

log = logging.getLogger("dicom_ingest")

_CHUNK: Final = 1 << 20  # bytes
_STARTED: Final = f'"event":"{Event.RUN_STARTED}"'.encode()
_ISSUED: Final = f'"event":"{Event.KEY_ISSUED}"'.encode()
_FIRST: Final = b'{"no":1,'  # what a trail begins with


class Trail:
    """The trail of a report directory, open for one run alone. Thread-safe.

    Raises UsageError when another run has it, StoppedError when it can't be written.
    """

    def __init__(self, report_dir: Path, known: Known | None = None) -> None:
        """Holds it against every certificate there, and what is `known` besides, before it changes anything.

        UsageError, too, when it is not what earlier runs left (`continuity.py`).
        """
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Event, dict[str, Any]]] = []
        self._is_torn = False
        self._is_over = False
        self._path = report_dir / AUDIT_JSONL
        require_trail(self._path)
        with _write_errors():
            self._file, self._is_new = _open_locked(self._path)
            try:
                self._size, self.chain, torn = _end(self._file)
                require_continuity(self._file, self._size, report_dir, known)
                os.ftruncate(self._file, self._size)
                if torn:
                    log.warning(
                        "The audit trail ended in %d bytes that a crash had left: they are cut off.", torn
                    )
                    self.record(Event.LINE_CUT, bytes=torn)
                    self.flush()
            except BaseException:
                self._close()
                raise
        self._began = self._size, self.chain

    @property
    def size_bytes(self) -> int:
        """How much of it is on the disk."""
        return self._size

    @property
    def path(self) -> Path:
        """The file, which is locked until it is closed."""
        return self._path

    def record(self, event: Event, **facts: Any) -> None:
        """Adds a line, which is on the disk after the next flush. StoppedError after the run's end."""
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        with self._lock:
            if self._is_over and event not in ENDS:
                raise StoppedError("The run is over: nothing more becomes of its files.")
            self._is_over = event in ENDS
            self._waiting.append((at, event, facts))

    def issued_to(self, run_id: str) -> Iterator[tuple[str, int]]:
        """Each key that a run was given for a file, and when, in Unix nanoseconds."""
        at_work = ""
        for line in lines_of(self._file, 0, self._size):
            if _STARTED in line:
                at_work = facts_of(line).get("run_id", "")
            elif at_work == run_id and _ISSUED in line:
                facts = facts_of(line)
                if (at_ns := since_ns(str(facts.get("at")))) < math.inf:
                    yield str(facts.get("key", "")), int(at_ns)

    def flush(self) -> None:
        """Returns when every recorded line is on the disk."""
        with self._lock:
            if self._waiting:
                with _write_errors():
                    self._append(self._waiting)
                self._waiting = []  # not before: on a full disk no line is lost, the next flush writes it

    def close(self) -> None:
        """Writes what waits, and unlocks it for the next run."""
        try:
            self.flush()
        finally:
            os.close(self._file)

    def undo(self) -> None:
        """Removes every line since it was opened, for a run that attempted nothing, and closes it.

        A trail that began with this run is removed.
        """
        with self._lock:
            self._waiting = []
            self._size, self.chain = self._began
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            self._close()

    def _close(self) -> None:
        """Unlocks it for the next run; removes it first when it is empty and began here."""
        with suppress(OSError):
            if self._is_new and not os.fstat(self._file).st_size:
                self._path.unlink()
        os.close(self._file)

    def _append(self, waiting: list[tuple[str, Event, dict[str, Any]]]) -> None:
        if self._is_torn:
            os.ftruncate(self._file, self._size)
            self._is_torn = False
        chain = Chain(self.chain.lines, self.chain.head)
        lines = b"".join(chain.append(at, event, facts) for at, event, facts in waiting)
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
            os.fdatasync(self._file)
        except OSError:
            self._is_torn = True  # half a line would break the chain: it is cut off now, or before the next
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
                self._is_torn = False
            raise
        self._size, self.chain = self._size + len(lines), chain


def require_trail(path: Path) -> None:
    """UsageError when the trail is a link, no regular file, or another user's; nothing is opened."""
    require_ours(path, f"{AUDIT_JSONL} in the report directory")


def _open_locked(path: Path) -> tuple[int, bool]:
    """Opens and locks the file; also whether it was made here. UsageError when another run has it."""
    while True:
        file, is_new = _open(path)
        try:
            require_regular(file)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                require_trail(path)  # it may have been put there since somebody looked
                return file, is_new
        except BlockingIOError:
            os.close(file)
            raise UsageError(
                "Another run writes into this report directory. Nothing was sent. Wait for its end, or name "
                "another --report-dir."
            ) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the run that had it removed it before it gave up the lock


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_APPEND | OPEN_SAFELY | os.O_CREAT
    try:
        return os.open(path, flags | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags, 0o600), False


def _is_at(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _end(file: int) -> tuple[int, Chain, int]:
    """Where the last whole line ends, the chain up to there, and how many bytes a crash left after it."""
    size = os.fstat(file).st_size
    written = _without_zeros(file, size)
    tail = os.pread(file, LONGEST_LINE, max(0, written - LONGEST_LINE))[:written]
    whole, newline, torn = tail.rpartition(b"\n")
    end = written - len(torn)
    if not newline:
        if written >= LONGEST_LINE or tail[: len(_FIRST)] != _FIRST[:written]:
            raise UsageError(_NO_TRAIL)
        return 0, Chain(), size
    last = whole.rpartition(b"\n")[2]
    try:
        lines = int(json.loads(last)["no"])
    except (ValueError, TypeError, KeyError):
        raise UsageError(_NO_TRAIL) from None
    return end, Chain(lines, digest(last)), size - end


def _without_zeros(file: int, size: int) -> int:
    """Where the zeros begin that a power cut leaves in place of what was not on the disk yet."""
    while size:
        begin = max(0, size - _CHUNK)
        if written := len(os.pread(file, size - begin, begin).rstrip(b"\0")):
            return begin + written
        size = begin
    return 0


_NO_TRAIL: Final = (
    "audit.jsonl in the report directory is no audit trail of ours. Nothing was sent. Look into it with "
    "`dicom-ingest audit`, and name another --report-dir for this run."
)


@contextmanager
def _write_errors() -> Iterator[None]:
    """Turns an OSError into a StoppedError without a path in it."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise StoppedError(
            f"The audit trail can't be written: {why}. Mend that, then run the same command again. "
            "The report of what was done until now: `dicom-ingest report` with this report directory."
        ) from None
