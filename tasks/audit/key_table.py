"""Every key of the trails that an audit reads, in a temporary database on disk: many need little memory."""

import sqlite3
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from tasks.core.audit_chain import Event

_TABLES: Final = """
CREATE TABLE key (
    key TEXT PRIMARY KEY, state TEXT, sha256 TEXT, run_id TEXT, study_no, file_no, reported INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE unseen (key TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
CREATE TABLE pending (study_no, file_no, key TEXT, sha256 TEXT);
"""
_ADD: Final = """
INSERT INTO key (key, state, sha256, run_id, study_no, file_no) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET state = excluded.state, sha256 = max(sha256, excluded.sha256)
"""
# Another directory's trail says what was stored; what became of that since is said by the audited one.
_ADD_OTHER: Final = """
INSERT INTO key (key, state, sha256, run_id, study_no, file_no) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET sha256 = max(sha256, excluded.sha256)
"""
_UNREPORTED: Final = """
SELECT state, study_no, file_no FROM key WHERE run_id = ? AND NOT reported ORDER BY study_no, file_no
"""
_UNKNOWN: Final = """
SELECT study_no, file_no FROM pending LEFT JOIN unseen USING (key)
WHERE unseen.sha256 IS NOT pending.sha256 ORDER BY study_no, file_no
"""
_STATES: Final = (Event.KEY_ISSUED, Event.KEY_UNUSED, Event.STORED, Event.SUPERSEDED)


class KnownKey(NamedTuple):
    """What became of a key, and the SHA-256 of what was stored under it; empty when nothing was."""

    state: str
    sha256: str


class KeyTable:
    """Every key: what became of it, and of what bytes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.executescript(_TABLES)

    def add(self, facts: dict[str, Any], run_id: str, *, is_other: bool = False) -> None:
        """Adds what one line of a run says; `is_other`: of another directory's trail."""
        state = facts.get("event")
        if state not in _STATES:
            return
        names = ("key", "sha256", "study_no", "file_no")
        key, sha256, study_no, file_no = (_plain(facts.get(name, "")) for name in names)
        row = (str(key), str(state), str(sha256), _plain(run_id), study_no, file_no)
        self._database.execute(_ADD_OTHER if is_other else _ADD, row)

    def get(self, key: str) -> KnownKey | None:
        """None when no trail has it."""
        query = "SELECT state, sha256 FROM key WHERE key = ?"
        row = self._database.execute(query, (_plain(key),)).fetchone()
        return KnownKey(*row) if row else None

    def mark_reported(self, *keys: str) -> None:
        """Notes that the report names these keys."""
        self._database.executemany(
            "UPDATE key SET reported = 1 WHERE key = ?", [(_plain(key),) for key in keys if key]
        )

    def unreported(self, run_id: str) -> Iterator[tuple[str, int | str, int | str]]:
        """State, study and file of each key that a run was given and that the report does not name."""
        yield from self._database.execute(_UNREPORTED, (_plain(run_id),))

    def count_unreported(self, run_ids: Collection[str]) -> int:
        """How many such keys these runs have."""
        query = "SELECT count(*) FROM key WHERE run_id = ? AND NOT reported"
        return sum(self._database.execute(query, (_plain(run_id),)).fetchone()[0] for run_id in run_ids)

    def add_unseen(self, key: str, sha256: str) -> None:
        """A key that the report names, of a run whose trail could not be seen."""
        self._database.execute("INSERT OR IGNORE INTO unseen VALUES (?, ?)", (_plain(key), _plain(sha256)))

    def add_pending(self, row: dict[str, str]) -> None:
        """A duplicate whose key no trail has until now."""
        values = [_plain(row[name]) for name in ("study_no", "file_no", "key", "sha256")]
        self._database.execute("INSERT INTO pending VALUES (?, ?, ?, ?)", values)

    def unknown_duplicates(self) -> Iterator[tuple[str, str]]:
        """Study and file of each duplicate whose key, with its bytes, neither a trail nor another row has."""
        yield from self._database.execute(_UNKNOWN)


def _plain(value: Any) -> str | int:
    """What a database takes, whatever somebody wrote into a trail or a report."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, int) and abs(value) < 1 << 63 else ""
