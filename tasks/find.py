"""Find: the study directories of an archive that has no manifest, and a manifest written of them."""

# A tree may hold millions of directories: paths here are text, pathlib's objects are several times slower.
# ruff: noqa: PTH100, PTH105, PTH110, PTH112, PTH118, PTH119

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import nsmallest
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.manifest import is_inside
from tasks.load import PARQUET_BATCH_ROWS, cause, for_suffix

_FILES_PROBED: Final = 8  # in a directory, until one tells its Study Instance UID


def write_manifest(roots: Sequence[Path], out: Path) -> int:
    """Writes one row per study directory found under the roots, in path order, and returns how many.

    What is a study directory, told from one DICOM header per directory:
    - a directory that holds files is one: a study, or a series of its own;
    - but where directories of one Study Instance UID, and none of another, lie in a directory, that one is;
    - and files beside directories of several studies make their directory one too. It comes after those, so
      that each of them keeps its own row (a run names that an overlap).
    So each regular file below the roots belongs to exactly one row; only this manifest itself is left out.
    A directory counts as one that holds files, too, when it can't be listed or has a link that is broken or
    leads out of the roots: the run's report says so. Links are not followed. Memory: names along one path.
    """
    write = for_suffix(_WRITERS, out)
    for position, root in enumerate(roots, 1):
        if not os.path.isdir(root):
            raise UsageError(f"ROOT {position} is not a directory. Nothing was written.")
    try:
        with _replacing(out) as file:
            own_files = frozenset(os.path.realpath(path) for path in (out, file.name))
            return write(file, _Finder(roots, own_files).study_dirs())
    except OSError as error:
        raise UsageError(f"The manifest can't be written: {cause(error)}.") from None


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
        self._real_roots = [os.path.realpath(root) for root in self._roots]
        self._own_files = own_files
        self._own_names = {os.path.basename(path) for path in own_files}

    def study_dirs(self) -> Iterator[str]:
        for root in self._roots:
            yield from self._below(root)

    def _below(self, root: str) -> Iterator[str]:
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

    def _is_own(self, entry: "os.DirEntry[str]") -> bool:
        return entry.name in self._own_names and os.path.realpath(entry.path) in self._own_files

    def _leads_away(self, link: str) -> bool:
        real = os.path.realpath(link)
        return not os.path.exists(real) or not any(is_inside(real, root) for root in self._real_roots)


def _settle(branch: _Branch, above: list[_Branch]) -> Iterator[str]:
    """Hands what a finished directory amounts to to the one above, and yields what is a row for sure."""
    found = _as_one(branch)
    if branch.is_several:
        if branch.holds_files:
            yield branch.path
    elif found is None:
        if branch.waiting:
            yield from _let_go([*above, branch])
    elif not above:
        yield found.path
    else:
        parent = above[-1]
        parent.waiting.append(found)
        if parent.is_several or (found.uid and parent.uid and found.uid != parent.uid):
            yield from _let_go(above)
        parent.uid = parent.uid or found.uid


def _as_one(branch: _Branch) -> _Found | None:
    if branch.holds_files or sum(1 for found in branch.waiting if found.uid) > 1:
        return _Found(branch.path, branch.uid)
    return branch.waiting[0] if len(branch.waiting) == 1 else None


def _let_go(branches: Iterable[_Branch]) -> Iterator[str]:
    """Where several studies lie in one directory, so they do in all above: nothing waits there any more."""
    for branch in branches:
        yield from (found.path for found in branch.waiting)
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
    from pydicom import dcmread

    try:
        with warnings.catch_warnings(action="ignore"):
            data_set = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
            return str(data_set.get("StudyInstanceUID") or "")
    except Exception:  # noqa: BLE001 - pydicom raises what a broken file makes it stumble on
        return ""


# --- writing ---


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that takes the place of `out` at the end, whole and on the disk, or not at all."""
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


def _write_csv(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    text = TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study_dir"])
    rows = 0
    for study_dir in study_dirs:
        writer.writerow([escape(study_dir)])
        rows += 1
    text.detach()
    return rows


def _write_json_lines(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    rows = 0
    for study_dir in study_dirs:
        file.write(json.dumps({"study_dir": escape(study_dir)}, ensure_ascii=False).encode() + b"\n")
        rows += 1
    return rows


def _write_parquet(file: BinaryIO, study_dirs: Iterator[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    schema = pa.schema([("study_dir", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        while batch := [escape(study_dir) for study_dir in islice(study_dirs, PARQUET_BATCH_ROWS)]:
            writer.write_batch(pa.record_batch([batch], schema=schema))
            rows += len(batch)
    return rows


_WRITERS: Final[Mapping[str, Callable[[BinaryIO, Iterator[str]], int]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".parquet": _write_parquet,
}
