"""Find: the study directories of an archive that has no manifest, and a manifest written of them."""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH100, PTH105, PTH110, PTH112, PTH118, PTH119

import csv
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from heapq import nsmallest
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final, TypeAlias

from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.manifest import is_inside
from tasks.core.models import Rejected
from tasks.source.expected_instances import Counts, Expected, StudyDir, expectations, look_at
from tasks.source.manifest_reader import PARQUET_BATCH_ROWS, cause, for_suffix

_FILES_PROBED: Final = 8  # in a directory, until one has a Study Instance UID
_FOUND: Final = ("study_dir",)
_SCANNED: Final = (*_FOUND, "study_instance_uid", "expected_instances", "expected_bytes")
_NUMBERS: Final = frozenset({"expected_instances", "expected_bytes"})

Watch: TypeAlias = Callable[[Counts], AbstractContextManager[object]]
Cells: TypeAlias = tuple[str | int, ...]  # of a row, in the order of its columns


def write_manifest(roots: Sequence[Path], out: Path, watch: Watch = nullcontext) -> Counts:
    """Writes one row per study directory found under the roots, in path order, and counts them.

    `watch` may display the counts meanwhile.

    What is a study directory, by one DICOM header per directory:
    - a directory that holds files is one: a study, or a series of its own;
    - but where directories of one Study Instance UID, and none of another, lie in a directory, that one is;
    - and files beside directories of several studies make their directory one too. It comes after those, so
      that each of them keeps its own row (a run names that an overlap).
    So each regular file below the roots belongs to exactly one row; only this manifest itself is left out.
    A directory counts as one that holds files, too, when it can't be listed or has a link that is broken or
    leads out of the roots: the run's report says so. Links are not followed. Memory: names along one path.
    """

    def rows(finder: _Finder, counts: Counts, _spool: Path) -> Generator[Cells, None, None]:
        for found in finder.study_dirs(counts):
            yield (escape(found.path),)

    return _write(roots, out, _FOUND, rows, watch)


def scan_manifest(roots: Sequence[Path], out: Path, watch: Watch = nullcontext) -> Counts:
    """The same rows, each with what a run will store of its directory (`tasks/source/expected_instances.py`).

    All directories are found before the first is scanned, so that it is known how many are left. Meanwhile
    they are in a file beside the manifest.
    """

    def rows(finder: _Finder, counts: Counts, spool: Path) -> Generator[Cells, None, None]:
        with _spool(finder.study_dirs(counts), spool) as study_dirs:
            counts.finding = False
            for found, expected in expectations(study_dirs, finder.real_roots, finder.is_own, counts):
                yield _cells(found, expected)

    return _write(roots, out, _SCANNED, rows, watch)


def _write(
    roots: Sequence[Path],
    out: Path,
    columns: Sequence[str],
    rows: "Callable[[_Finder, Counts, Path], Generator[Cells, None, None]]",
    watch: Watch,
) -> Counts:
    write = for_suffix(_WRITERS, out)
    for position, root in enumerate(roots, 1):
        if not os.path.isdir(root):
            raise UsageError(f"ROOT {position} is not a directory. Nothing was written.")
    counts = Counts()
    try:
        with _replacing(out) as file, watch(counts):
            spool = Path(file.name).with_suffix(".found")
            finder = _Finder(roots, frozenset(os.path.realpath(path) for path in (out, file.name, spool)))
            with closing(rows(finder, counts, spool)) as cells:  # also when the writer is interrupted
                write(file, columns, cells)
    except OSError as error:
        raise UsageError(f"The manifest can't be written: {cause(error)}.") from None
    return counts


def _cells(found: StudyDir, expected: Expected) -> Cells:
    return escape(found.path), expected.study_instance_uid, expected.instances, expected.size_bytes


@contextmanager
def _spool(study_dirs: Iterator[StudyDir], spool: Path) -> Iterator[Iterator[StudyDir]]:
    """The same study directories once all are known, from a file: memory should not hold them all."""
    try:
        with open(spool, "x+b", opener=_private) as file:
            file.writelines(json.dumps([each.path, each.is_whole]).encode() + b"\n" for each in study_dirs)
            file.seek(0)
            yield (StudyDir(*json.loads(line)) for line in file)
    finally:
        spool.unlink(missing_ok=True)


# --- finding study directories ---


@dataclass(frozen=True, slots=True)
class _Found:
    """What may become a row: a directory, and the only Study Instance UID known of in it, or nothing."""

    path: str
    uid: str


@dataclass(slots=True)
class _Branch:
    """A directory on the way down, and what was found in it so far."""

    path: str
    holds_files: bool
    uid: str
    subdirs: list[bytes]  # names still to come, last first
    waiting: list[_Found] = field(default_factory=list)  # rows, unless all proves to be one study
    is_several: bool = False


class _Finder:
    """Finds study directories as `write_manifest` says."""

    def __init__(self, roots: Iterable[Path], own_files: frozenset[str]) -> None:
        self._roots = _outermost(roots)
        self.real_roots = [os.path.realpath(root) for root in self._roots]
        self._own_files = own_files
        self._own_names = {os.path.basename(path) for path in own_files}

    def study_dirs(self, counts: Counts) -> Iterator[StudyDir]:
        for root in self._roots:
            for study_dir in self._below(root):
                counts.study_dirs += 1
                yield study_dir

    def is_own(self, path: str) -> bool:
        """Whether it is a file of this manifest."""
        return os.path.basename(path) in self._own_names and os.path.realpath(path) in self._own_files

    def _is_own(self, entry: "os.DirEntry[str]") -> bool:
        return entry.name in self._own_names and self.is_own(entry.path)

    def _below(self, root: str) -> Iterator[StudyDir]:
        stack = [self._branch(root)]
        while stack:
            if stack[-1].subdirs:
                stack.append(self._branch(os.path.join(stack[-1].path, os.fsdecode(stack[-1].subdirs.pop()))))
            else:
                yield from _settle(stack.pop(), stack)

    def _branch(self, path: str) -> _Branch:
        files: list[bytes] = []
        subdirs: list[bytes] = []
        holds_more = False
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        subdirs.append(os.fsencode(entry.name))
                    elif entry.is_file(follow_symlinks=False) and not self._is_own(entry):
                        files.append(os.fsencode(entry.name))
                    elif entry.is_symlink() and self._leads_away(entry.path):
                        holds_more = True
        except OSError:
            holds_more = True
        subdirs.sort(key=_in_path_order, reverse=True)
        first = [os.path.join(path, os.fsdecode(name)) for name in nsmallest(_FILES_PROBED, files)]
        uid = next(filter(None, map(_study_instance_uid, first)), "")
        return _Branch(path, bool(files) or holds_more, uid, subdirs)

    def _leads_away(self, link: str) -> bool:
        real = os.path.realpath(link)
        return not os.path.exists(real) or not any(is_inside(real, root) for root in self.real_roots)


def _settle(branch: _Branch, above: list[_Branch]) -> Iterator[StudyDir]:
    """Adds what a finished directory amounts to to the one above, and yields what is a row for sure.

    Below a directory of several studies, all that holds files is a row: it has only its own files itself.
    """
    found = _as_one(branch)
    if branch.is_several:
        if branch.holds_files:
            yield StudyDir(branch.path, is_whole=False)
    elif found is None:
        if branch.waiting:
            yield from _release([*above, branch])
    elif not above:
        yield StudyDir(found.path, is_whole=True)
    else:
        parent = above[-1]
        parent.waiting.append(found)
        if parent.is_several or (found.uid and parent.uid and found.uid != parent.uid):
            yield from _release(above)
        parent.uid = parent.uid or found.uid


def _as_one(branch: _Branch) -> _Found | None:
    if branch.holds_files or sum(1 for found in branch.waiting if found.uid) > 1:
        return _Found(branch.path, branch.uid)
    return branch.waiting[0] if len(branch.waiting) == 1 else None


def _release(branches: Iterable[_Branch]) -> Iterator[StudyDir]:
    """What waits in these becomes rows: several studies in one directory are several in all above it, too."""
    for branch in branches:
        yield from (StudyDir(found.path, is_whole=True) for found in branch.waiting)
        branch.waiting.clear()
        branch.is_several = True


def _outermost(roots: Iterable[Path]) -> list[str]:
    """Absolute paths in path order, without those that lie in another."""
    paths = {os.path.realpath(root): os.path.abspath(root) for root in roots}
    kept: list[str] = []
    for real in sorted(paths, key=lambda real: _in_path_order(os.fsencode(real))):
        if not kept or not is_inside(real, kept[-1]):
            kept.append(real)
    return sorted((paths[real] for real in kept), key=lambda path: _in_path_order(os.fsencode(path)))


def _in_path_order(directory: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/"


def _study_instance_uid(path: str) -> str:
    """Of a DICOM file; empty when it is none, or can't be read: the run will say why."""
    found, _ = look_at(path)
    header = found.header if isinstance(found, Rejected) else found
    return header.study_instance_uid if header else ""


# --- writing ---


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that replaces `out` at the end, whole and on the disk, or not at all."""
    temporary = out.with_name(f".{out.name}.{token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", opener=_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(out.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_csv(file: BinaryIO, columns: Sequence[str], rows: Iterator[Cells]) -> None:
    text = TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    text.detach()


def _write_json_lines(file: BinaryIO, columns: Sequence[str], rows: Iterator[Cells]) -> None:
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        file.write(json.dumps(cells, ensure_ascii=False).encode() + b"\n")


def _write_parquet(file: BinaryIO, columns: Sequence[str], rows: Iterator[Cells]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = [pa.int64() if name in _NUMBERS else pa.string() for name in columns]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(rows, PARQUET_BATCH_ROWS)):
            writer.write_batch(pa.record_batch(list(zip(*batch, strict=True)), schema=schema))


_WRITERS: Final[Mapping[str, Callable[[BinaryIO, Sequence[str], Iterator[Cells]], None]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".parquet": _write_parquet,
}
