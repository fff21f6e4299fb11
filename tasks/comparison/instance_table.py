"""Every instance of a report and what each side says of it, in a temporary database on disk.

A report of millions takes little memory so. Paths and keys are as the report has them: escaped.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, Self

from tasks.comparison.table_rows import Asked, Lacking, Location, Picked
from tasks.comparison.table_schema import INDICES, INSERT, TABLES
from tasks.core.escape import escape
from tasks.core.object_outcomes import DONE
from tasks.core.signs import InBucket, InRegistry, Retrieved, SentObject, Sides, may_go

# What is read of the report, in the order of `INSERT`.
CELLS: Final = (
    "study_no",
    "file_no",
    "path",
    "status",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "key",
    "size_bytes",
    "sha256",
    "md5",
    "etag",
    "crc64nvme",
    "reason",
    "detail",
)
_SIDES: Final = "is_stored, bucket, registry, retrieved, is_conflict, difference"
_LOCATION: Final = "id, found_key, current_key, size_bytes, md5, etag, crc64nvme"
_CACHE_KIB: Final = 32768
_COMMITTED_ROWS: Final = 100_000


class InstanceTable:
    """The work of one verification. For one thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(TABLES)
        self._study: tuple[int, bool] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # -- the report and what else is known of it ---------------------------------------------------------

    def add_report(self, rows: Iterable[Sequence[Any]]) -> int:
        """Adds the report's rows, each with `CELLS`, sorted by study_no; how many there are."""
        count = 0
        self._db.execute("BEGIN")
        for count, row in enumerate(rows, 1):
            self._add_row(row)
            if count % _COMMITTED_ROWS == 0:
                self._db.execute("COMMIT")
                self._db.execute("BEGIN")
        self._end_study(None)
        self._db.execute("COMMIT")
        self._db.executescript(INDICES)
        return count

    def _add_row(self, row: Sequence[Any]) -> None:
        study_no, file_no, _, status, uid, _, _, key, *_, reason, detail = row
        goes = may_go(status, reason, detail)
        if self._study is None or self._study[0] != study_no:
            self._end_study((study_no, goes))
        elif not goes:
            self._study = (study_no, False)
        if not uid:
            return
        new = self._db.execute(INSERT, (*row[:-2], key, key, bool(key))).rowcount
        if not new and key:
            self._add_other(study_no, file_no, row, status)

    def _end_study(self, following: tuple[int, bool] | None) -> None:
        if self._study is not None:
            self._db.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", self._study)
        self._study = following

    def _add_other(self, study_no: int, file_no: int, row: Sequence[Any], status: str) -> None:
        """Another file of the same object; the object is the file's that stored it."""
        found = "SELECT id, study_no, status FROM instance WHERE uid = ? AND key = ?"
        row_id, first_study_no, first_status = self._db.execute(found, (row[4], row[7])).fetchone()
        member = "INSERT OR IGNORE INTO member VALUES (?, ?)"
        self._db.executemany(member, [(study_no, row_id), (first_study_no, row_id)])
        if first_status == "duplicate" != status:
            values = (study_no, file_no, row[2], status, *row[9:13], row_id)
            self._db.execute(
                "UPDATE instance SET study_no = ?, file_no = ?, path = ?, status = ?, sha256 = ?, md5 = ?, "
                "etag = ?, crc64nvme = ? WHERE id = ?",
                values,
            )

    def add_registration(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Adds what ingest says of keys: key (escaped), status, where it was moved. The last wins."""
        update = (
            "UPDATE instance SET is_conflict = coalesce(?, is_conflict), found_key = coalesce(nullif(?, ''), "
            "found_key) WHERE current_key = ? AND is_stored"
        )
        said = {"conflict": True} | dict.fromkeys(DONE, False)
        values = ((said.get(status), moved_to, key) for key, status, moved_to in rows)
        self._many(update, values)

    def add_newer_keys(self, keys: Iterable[tuple[str, str]]) -> None:
        """Adds where the ledger says that an instance is by now, in place of the report's key; escaped."""
        values = ((newer, newer, key) for key, newer in keys)
        self._many(
            "UPDATE instance SET current_key = ?, found_key = ? WHERE key = ? AND current_key = key "
            "AND is_stored",
            values,
        )

    def stored(self) -> Iterator[tuple[str, str, str]]:
        """SOP Instance UID, key by now (escaped) and SHA-256 of what the report calls stored."""
        return self._sent("is_stored")

    def registered(self) -> Iterator[tuple[str, str, str]]:
        """The same of what the registry has, unless its copy is the file's."""
        there = str(InRegistry.THERE), str(Retrieved.SAME)
        return self._sent("is_stored AND registry = ? AND retrieved != ?", *there)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """The same of what ingest found in conflict."""
        return self._sent("is_stored AND is_conflict")

    def ambiguous(self) -> Iterator[tuple[str, str, str]]:
        """The same of those of one UID and study with other bytes, of which a registry has one at most.

        Without what is known to be the file's copy.
        """
        several = (
            "SELECT study_uid, uid FROM instance WHERE is_stored AND sha256 != '' GROUP BY study_uid, uid "
            "HAVING count(DISTINCT sha256) > 1"
        )
        there = str(InRegistry.THERE), str(Retrieved.SAME)
        where = f"is_stored AND registry = ? AND retrieved != ? AND (study_uid, uid) IN ({several})"
        return self._sent(where, *there)

    def _sent(self, where: str, *values: str) -> Iterator[tuple[str, str, str]]:
        query = f"SELECT uid, current_key, sha256 FROM instance WHERE {where} ORDER BY id"  # noqa: S608
        with closing(self._db.cursor()) as cursor:
            yield from cursor.execute(query, values)

    # -- the bucket --------------------------------------------------------------------------------------

    def count_stored(self) -> int:
        """How many instances the report calls stored."""
        return int(self._db.execute("SELECT count(*) FROM instance WHERE is_stored").fetchone()[0])

    def at_keys(self, keys: Iterable[str]) -> Iterator[Location]:
        """The instances that are looked for under these keys (not escaped)."""
        query = f"SELECT {_LOCATION} FROM instance WHERE found_key = ? AND is_stored"  # noqa: S608
        for key in keys:
            yield from map(_location, self._db.execute(query, (escape(key),)))

    def not_in_bucket(self) -> Iterator[list[Location]]:
        """The stored instances of which the bucket has said nothing yet, so many at once."""
        query = (
            f"SELECT {_LOCATION} FROM instance WHERE is_stored AND bucket = '' AND id > ? "  # noqa: S608
            "ORDER BY id LIMIT 1000"
        )
        after = 0
        while page := [*map(_location, self._db.execute(query, (after,)))]:
            yield page
            after = page[-1].id

    def set_bucket(self, said: Iterable[tuple[int, InBucket]]) -> None:
        """Keeps what the bucket says."""
        self._many("UPDATE instance SET bucket = ? WHERE id = ?", ((str(each), at) for at, each in said))

    def set_found(self, found: Iterable[tuple[int, str]]) -> None:
        """Keeps under which key (escaped) an object was found in the end."""
        self._many("UPDATE instance SET found_key = ? WHERE id = ?", ((key, at) for at, key in found))

    def end_bucket(self) -> int:
        """Nothing more is asked: of what it has not said anything, nothing is known. Of how many that is."""
        unknown = str(InBucket.UNKNOWN)
        self._db.execute("UPDATE instance SET bucket = ? WHERE is_stored AND bucket = ''", (unknown,))
        query = "SELECT count(*) FROM instance WHERE is_stored AND bucket = ?"
        return int(self._db.execute(query, (unknown,)).fetchone()[0])

    # -- the registry ------------------------------------------------------------------------------------

    def study_uids(self) -> Iterator[str]:
        """Each study that the report names; empty for what names none."""
        with closing(self._db.cursor()) as cursor:
            after: str | None = None
            while True:
                query = "SELECT min(study_uid) FROM instance WHERE study_uid > ? OR ? IS NULL"
                (after,) = cursor.execute(query, (after, after)).fetchone()
                if after is None:
                    return
                yield after

    def count_studies(self) -> int:
        """How many these are."""
        return int(self._db.execute("SELECT count(DISTINCT study_uid) FROM instance").fetchone()[0])

    def add_listed(self, study_uid: str, uids: Iterable[str]) -> None:
        """Keeps what the registry lists of a study: instances of the report, and those that are none."""
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM listed")
        self._db.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((uid,) for uid in uids))
        self._db.execute(
            "UPDATE instance SET registry = ? WHERE study_uid = ? AND uid IN (SELECT uid FROM listed)",
            (str(InRegistry.THERE), study_uid),
        )
        self._db.execute(
            "INSERT OR IGNORE INTO extra SELECT ?, uid FROM listed WHERE NOT EXISTS "
            "(SELECT 1 FROM instance WHERE instance.uid = listed.uid)",
            (study_uid,),
        )
        self._db.execute("COMMIT")

    def not_registered(self, study_uid: str) -> Iterator[list[Asked]]:
        """A study's stored instances of which the registry has said nothing yet, so many at once."""
        query = (
            "SELECT id, study_uid, uid FROM instance WHERE is_stored AND study_uid = ? AND registry = '' "
            "AND id > ? ORDER BY id LIMIT 1000"
        )
        after = 0
        while page := [*map(Asked._make, self._db.execute(query, (study_uid, after)))]:
            yield page
            after = page[-1].id

    def set_registry(self, said: Iterable[tuple[int, InRegistry]]) -> None:
        """Keeps what the registry says."""
        self._many("UPDATE instance SET registry = ? WHERE id = ?", ((str(each), at) for at, each in said))

    def set_ambiguous(self, keys: Iterable[str]) -> None:
        """Keeps of which (by now, escaped) it is not known whether the registry's copy is this or another."""
        update = "UPDATE instance SET registry = ? WHERE current_key = ? AND is_stored"
        self._many(update, ((str(InRegistry.ONE_OF_SEVERAL), key) for key in keys))

    def end_registry(self) -> int:
        """As `end_bucket`."""
        unknown = str(InRegistry.UNKNOWN)
        self._db.execute("UPDATE instance SET registry = ? WHERE is_stored AND registry = ''", (unknown,))
        query = "SELECT count(*) FROM instance WHERE is_stored AND registry = ?"
        return int(self._db.execute(query, (unknown,)).fetchone()[0])

    # -- what is retrieved -------------------------------------------------------------------------------

    def count_registered(self) -> int:
        """How many stored instances the registry has."""
        query = "SELECT count(*) FROM instance WHERE is_stored AND registry = ?"
        return int(self._db.execute(query, (str(InRegistry.THERE),)).fetchone()[0])

    def picked(self, count: int, seed: int) -> Iterator[Picked]:
        """So many of those that the registry has, by lot: of one archive the same for the same seed."""
        self._db.create_function("lot", 2, _lot, deterministic=True)
        self._db.execute("CREATE TEMP TABLE picked AS SELECT id FROM instance LIMIT 0")
        self._db.execute(
            "INSERT INTO picked SELECT id FROM instance WHERE is_stored AND registry = ? "
            "ORDER BY lot(?, uid), id LIMIT ?",
            (str(InRegistry.THERE), seed, count),
        )
        query = (
            "SELECT id, study_uid, series_uid, uid, path, sha256, size_bytes FROM instance JOIN picked "
            "USING (id) ORDER BY picked.rowid"
        )
        with closing(self._db.cursor()) as cursor:
            yield from map(Picked._make, cursor.execute(query))

    def set_retrieved(self, at: int, retrieved: Retrieved, difference: str = "") -> None:
        """Keeps what the registry's copy of an instance is."""
        values = (str(retrieved), difference, at)
        self._db.execute("UPDATE instance SET retrieved = ?, difference = ? WHERE id = ?", values)

    # -- what it adds up to ------------------------------------------------------------------------------

    def counts(self) -> Iterator[tuple[Sides, int]]:
        """How many instances there are of each kind."""
        query = f"SELECT {_SIDES}, count(*) FROM instance GROUP BY {_SIDES}"  # noqa: S608
        for *sides, count in self._db.execute(query):
            yield _sides(*sides), count

    def count_extra(self) -> int:
        """How many the registry alone has, in the report's studies."""
        return int(self._db.execute("SELECT count(*) FROM extra").fetchone()[0])

    def counts_by_study(self) -> Iterator[tuple[int, Sides, int]]:
        """The same of each study_no, in their order, of stored instances."""
        query = (
            f"SELECT study_no, {_SIDES}, count(DISTINCT uid) FROM ("  # noqa: S608
            f"SELECT study_no, uid, {_SIDES} FROM instance WHERE is_stored AND id NOT IN "
            "(SELECT id FROM member) "
            f"UNION ALL SELECT member.study_no, uid, {_SIDES} FROM member JOIN instance USING (id)"
            f") GROUP BY study_no, {_SIDES} ORDER BY study_no"
        )
        with closing(self._db.cursor()) as cursor:
            for study_no, *sides, count in cursor.execute(query):
                yield study_no, _sides(*sides), count

    def rows_may_go(self, study_no: int) -> bool:
        """Whether every row of a study lets its directory go; False for one without a row."""
        found = self._db.execute("SELECT may_go FROM study WHERE study_no = ?", (study_no,)).fetchone()
        return bool(found and found[0])

    def rows(self) -> Iterator[tuple[Sides, tuple[Any, ...]]]:
        """Every instance, by study and file: what each side says, and its cells.

        These are key, found_key, path, the UIDs, study_no, file_no, status.
        """
        query = (
            f"SELECT {_SIDES}, key, found_key, path, uid, study_uid, series_uid, study_no, file_no, "  # noqa: S608
            "status FROM instance ORDER BY study_no, file_no"
        )
        with closing(self._db.cursor()) as cursor:
            for row in cursor.execute(query):
                yield _sides(*row[:6]), row[6:]

    def extra(self) -> Iterator[tuple[str, str]]:
        """Study and SOP Instance UID of what the registry alone has."""
        with closing(self._db.cursor()) as cursor:
            yield from cursor.execute("SELECT study_uid, uid FROM extra ORDER BY study_uid, uid")

    def lacking(self) -> Iterator[Lacking]:
        """What the bucket lacks."""
        query = "SELECT uid, current_key, sha256 FROM instance WHERE is_stored AND bucket = ? ORDER BY id"
        with closing(self._db.cursor()) as cursor:
            yield from map(Lacking._make, cursor.execute(query, (str(InBucket.MISSING),)))

    def count_lacking(self) -> int:
        """How many these are."""
        query = "SELECT count(*) FROM instance WHERE is_stored AND bucket = ?"
        return int(self._db.execute(query, (str(InBucket.MISSING),)).fetchone()[0])

    def count_not_retrieved(self) -> int:
        """Of how many the registry's copy could not be had."""
        query = "SELECT count(*) FROM instance WHERE retrieved = ?"
        return int(self._db.execute(query, (str(Retrieved.UNKNOWN),)).fetchone()[0])

    def unregistered(self) -> Iterator[str]:
        """The SOP Instance UIDs of what the registry lacks."""
        query = "SELECT DISTINCT uid FROM instance WHERE is_stored AND registry = ? ORDER BY uid"
        with closing(self._db.cursor()) as cursor:
            for (uid,) in cursor.execute(query, (str(InRegistry.MISSING),)):
                yield uid

    def lacking_studies(self) -> set[int]:
        """The study_nos that have files of such instances."""
        query = (
            "SELECT DISTINCT study_no FROM instance WHERE is_stored AND bucket = :missing UNION "
            "SELECT DISTINCT member.study_no FROM member JOIN instance USING (id) WHERE bucket = :missing"
        )
        return {study_no for (study_no,) in self._db.execute(query, {"missing": str(InBucket.MISSING)})}

    def keys_to_register(self) -> Iterator[str]:
        """The keys (escaped) of what the registry lacks, and a bucket that was asked has."""
        query = (
            "SELECT DISTINCT found_key FROM instance WHERE is_stored AND registry = ? "
            "AND bucket NOT IN (?, ?) ORDER BY found_key"
        )
        lacks = (str(InRegistry.MISSING), str(InBucket.MISSING), str(InBucket.DIFFERS))
        with closing(self._db.cursor()) as cursor:
            for (key,) in cursor.execute(query, lacks):
                yield key

    def _many(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(statement, values)
        self._db.execute("COMMIT")


def _location(row: tuple[Any, ...]) -> Location:
    row_id, key, current_key, size_bytes, md5, etag, crc64nvme = row
    return Location(row_id, key, current_key, SentObject(size_bytes, md5, etag, crc64nvme))


def _sides(
    is_stored: int, bucket: str, registry: str, retrieved: str, is_conflict: int, difference: str
) -> Sides:
    said = InBucket(bucket), InRegistry(registry), Retrieved(retrieved)
    return Sides(bool(is_stored), *said, bool(is_conflict), difference)


def _lot(seed: int, uid: str) -> bytes:
    return hashlib.sha256(f"{seed} {uid}".encode()).digest()
