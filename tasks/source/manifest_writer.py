"""A manifest written for an archive that has none, as CSV, JSON Lines or Parquet."""

import csv
import json
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final, TypeAlias

from tasks.core.errors import UsageError
from tasks.core.manifest import path_cell
from tasks.source.archives import Archives
from tasks.source.expected_instances import Counts, Expected, expectations
from tasks.source.manifest_reader import PARQUET_BATCH_ROWS, cause, for_suffix
from tasks.source.study_directories import StudyDir, StudyDirFinder

FOUND_COLUMNS: Final = ("study_dir",)
SCANNED_COLUMNS: Final = (*FOUND_COLUMNS, "study_instance_uid", "expected_instances", "expected_bytes")
_NUMBERS: Final = frozenset({"expected_instances", "expected_bytes"})

Watch: TypeAlias = Callable[[Counts], AbstractContextManager[object]]
Cells: TypeAlias = tuple[str | int, ...]  # of a row, in the order of its columns


def write_manifest(
    roots: Sequence[Path], out: Path, watch: Watch = nullcontext, report_dir: Path | None = None
) -> Counts:
    """Writes one row per study directory found under the roots, in path order, and counts them.

    `watch` may display the counts meanwhile. Only this manifest itself is left out of it, and `report_dir`.
    """

    def rows(finder: StudyDirFinder, counts: Counts, _spool: Path) -> Generator[Cells, None, None]:
        for study_dir in _counted(finder, counts):
            yield (path_cell(study_dir.path),)

    return _write(roots, out, FOUND_COLUMNS, rows, watch, report_dir)


def scan_manifest(
    roots: Sequence[Path],
    out: Path,
    watch: Watch = nullcontext,
    report_dir: Path | None = None,
    accepted: Collection[str] = (),
    archives: Archives | None = None,
) -> Counts:
    """The same rows, each with what a run will store of its directory (`tasks/source/expected_instances.py`).

    All directories are found before the first is scanned, so that it is known how many are left. Meanwhile
    they are in a file beside the manifest. `accepted`: reasons for which the run will send what it would
    hold back. `archives`: where the run will read what is in them.
    """

    def rows(finder: StudyDirFinder, counts: Counts, spool: Path) -> Generator[Cells, None, None]:
        with _spool(_counted(finder, counts), spool) as study_dirs:
            counts.finding = False
            found = expectations(
                study_dirs, finder.real_roots, finder.is_own, counts, accepted=accepted, archives=archives
            )
            for study_dir, expected in found:
                yield row_cells(study_dir, expected)

    return _write(roots, out, SCANNED_COLUMNS, rows, watch, report_dir)


def _write(
    roots: Sequence[Path],
    out: Path,
    columns: Sequence[str],
    rows: "Callable[[StudyDirFinder, Counts, Path], Generator[Cells, None, None]]",
    watch: Watch,
    report_dir: Path | None,
) -> Counts:
    write = for_suffix(WRITERS, out)
    for position, root in enumerate(roots, 1):
        if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises where it may not look
            raise UsageError(f"ROOT {position} is not a directory. Nothing was written.")
    counts = Counts()
    try:
        with replacing(out) as file, watch(counts):
            spool = Path(file.name).with_suffix(".found")
            own_files = frozenset(map(os.path.realpath, (out, file.name, spool)))
            finder = StudyDirFinder(roots, own_files, report_dir)
            with closing(rows(finder, counts, spool)) as cells:  # also when the writer is interrupted
                write(file, columns, cells)
    except OSError as error:
        raise UsageError(f"The manifest can't be written: {cause(error)}.") from None
    return counts


def _counted(study_dirs: Iterable[StudyDir], counts: Counts) -> Iterator[StudyDir]:
    for study_dir in study_dirs:
        counts.study_dirs += 1
        yield study_dir


def row_cells(study_dir: StudyDir, expected: Expected) -> Cells:
    """A row of SCANNED_COLUMNS."""
    return path_cell(study_dir.path), expected.study_instance_uid, expected.instances, expected.size_bytes


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


# --- writing ---


@contextmanager
def replacing(out: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that replaces `out` at the end, whole and on the disk, or not at all."""
    temporary = out.with_name(f".{out.name}.{token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", opener=_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
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


WRITERS: Final[Mapping[str, Callable[[BinaryIO, Sequence[str], Iterator[Cells]], None]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".parquet": _write_parquet,
}
