"""Is the report true? It is held against what was planted and, byte for byte, against the bucket."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from awscrt.checksums import crc64nvme

from deployments.sandbox.samples import Expected, Pair, Planted
from tasks.core.escape import escape
from tasks.core.models import Reason, Status
from tasks.core.words import counted

Row = Mapping[str, str]


def compare(
    planted: Planted, report_rows: Iterable[Row], object_path: Callable[[str], Path], stored_keys: set[str]
) -> list[str]:
    """One sentence for each thing that does not agree; none when the report is true.

    `report_rows` are those of report.csv with the path unescaped, `object_path` gives the file that an object
    is kept in, `stored_keys` are all keys of the bucket. The sentences name files: they are for the operator.
    """
    rows = list(report_rows)
    return [
        *_paths(planted, rows),
        *_outcomes(planted, rows),
        *_objects(rows, object_path, stored_keys),
        *_unnamed(rows, stored_keys),
    ]


def _paths(planted: Planted, rows: list[Row]) -> Iterator[str]:
    """Each planted path has exactly one row, and nothing else has one."""
    counts = dict.fromkeys([*planted.expected, *(path for pair in planted.pairs for path in pair.paths)], 0)
    for row in rows:
        if row["path"] in counts:
            counts[row["path"]] += 1
        else:
            yield f"{_name(row)} has a row, and was not planted."
    for path, count in counts.items():
        if count != 1:
            yield f"{escape(path)} was planted, and has {counted(count, 'row')}."


def _outcomes(planted: Planted, rows: list[Row]) -> Iterator[str]:
    """Status, reason and SOP Instance UID are what was planted."""
    by_path = {row["path"]: row for row in rows}
    for path, expected in planted.expected.items():
        if path in by_path:
            yield from _outcome(by_path[path], expected)
            if by_path[path]["same_uid_path"]:
                yield f"{_name(by_path[path])} names another file, and shares its SOP Instance UID with none."
    for pair in planted.pairs:
        if by_path.keys() >= set(pair.paths):
            first, second = (by_path[path] for path in pair.paths)
            yield from _pair(first, second, pair)


def _outcome(row: Row, expected: Expected) -> Iterator[str]:
    if (row["status"], row["reason"]) != (expected.status, expected.reason):
        yield f"{_name(row)} is {_found(row)}, and should be {_text(expected.status, expected.reason)}."
    # The header of a broken file need not have been read.
    unknown = not row["sop_instance_uid"] and expected.status is Status.INVALID
    if row["sop_instance_uid"] != expected.sop_instance_uid and not unknown:
        yield f"{_name(row)} has another SOP Instance UID than its row says."


def _pair(first: Row, second: Row, pair: Pair) -> Iterator[str]:
    """One of them is stored, no matter which, and the other names it; a duplicate's copy has the same key."""
    winner, loser = (first, second) if first["status"] == Status.UPLOADED else (second, first)
    yield from _outcome(winner, Expected(Status.UPLOADED, Reason.NONE, pair.sop_instance_uid))
    yield from _outcome(loser, Expected(pair.loser, Reason.NONE, pair.sop_instance_uid))
    if loser["same_uid_path"] != winner["path"]:
        yield f"{_name(loser)} does not name the file that has its SOP Instance UID."
    if pair.loser is Status.DUPLICATE and loser["key"] != winner["key"]:
        yield f"{_name(loser)} names another key than the file that it is a duplicate of."


def _objects(rows: list[Row], object_path: Callable[[str], Path], stored_keys: set[str]) -> Iterator[str]:
    """Each uploaded file has an object of its own, and that object is the file."""
    paths_by_key = defaultdict(list)
    for row in rows:
        if row["status"] == Status.UPLOADED:
            paths_by_key[row["key"]].append(row["path"])
            yield from _object(row, object_path, stored_keys)
        elif row["status"] != Status.DUPLICATE and row["key"]:
            yield f"{_name(row)} has a key, and is {_found(row)}."
    for paths in paths_by_key.values():
        if len(paths) > 1:
            yield f"{' and '.join(map(escape, paths))} are uploaded under one key."


def _object(row: Row, object_path: Callable[[str], Path], stored_keys: set[str]) -> Iterator[str]:
    if row["key"] not in stored_keys:
        yield f"{_name(row)} is uploaded, and its key is not in the bucket."
        return
    try:
        sent = Path(row["path"]).read_bytes()
        stored = object_path(row["key"]).read_bytes()
    except OSError as error:
        yield f"{_name(row)} is uploaded, and it or its object can't be read: {error.strerror}."
        return
    if sent != stored:
        yield f"{_name(row)} is not what its object holds."
    yield from _digests(row, sent)


def _digests(row: Row, sent: bytes) -> Iterator[str]:
    true = {
        "size_bytes": str(len(sent)),
        "sha256": hashlib.sha256(sent).hexdigest(),
        "md5": hashlib.md5(sent, usedforsecurity=False).hexdigest(),
        "crc64nvme": base64.b64encode(crc64nvme(sent).to_bytes(8, "big")).decode(),
    }
    for column, value in true.items():
        if row[column] != value:
            yield f"{_name(row)} has another {column} than its row says."


def _unnamed(rows: list[Row], stored_keys: set[str]) -> Iterator[str]:
    """Each object in the bucket is accounted for."""
    named = {key for row in rows for key in (row["key"], *row["superseded_keys"].split(";"))}
    for key in sorted(stored_keys - named):
        yield f"The object {escape(key)} is in the bucket, and no row names it."


def _name(row: Row) -> str:
    return escape(row["path"])


def _found(row: Row) -> str:
    return _text(row["status"], row["reason"])


def _text(status: str, reason: str) -> str:
    return f"{status} ({reason})" if reason else str(status)
