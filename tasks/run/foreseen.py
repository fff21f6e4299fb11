"""What a run would say of a file, without sending it: by the rules that the run itself goes by.

Which bytes a SOP Instance UID has by then is kept in a private table on disk, which goes when it is closed:
so memory is flat whatever the number of files. A file is hashed only when its UID has another one.
"""

import hashlib
import os
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tasks.core.duplicates import Claim, Verdict, judge, judge_beside
from tasks.core.member_paths import is_member, split_member
from tasks.core.models import (
    ACCEPTABLE,
    Header,
    Listed,
    OnConflict,
    Reason,
    Rejected,
    Status,
    StoredContent,
)
from tasks.core.store_urls import is_store_url
from tasks.core.stored_content import is_altered, is_cut_copy, judge_rejected
from tasks.ledger.known_files import Holder
from tasks.source.archive_file import ArchiveFault
from tasks.source.archives import Archives
from tasks.source.header_reader import Examined, read_header
from tasks.source.member_content import examine_member, opened_source, read_source
from tasks.source.neighbours import Neighbours
from tasks.source.scan import Ownership
from tasks.source.store_content import examine_stored

_CHUNK: Final = 1 << 20
_HELD_BYTES: Final = 8 << 20  # of a member that is hashed; a larger one is inflated to a file without a name
_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE holder (uid TEXT PRIMARY KEY, sha256 TEXT, path BLOB) WITHOUT ROWID;
CREATE TABLE other (uid TEXT, sha256 TEXT, path BLOB, PRIMARY KEY (uid, sha256)) WITHOUT ROWID;
"""
_EMPTY_IMAGE: Final = Rejected(Status.INVALID, Reason.TRUNCATED, size_bytes=0, detail=Reason.EMPTY)
_ASKED_AGAIN: Final = frozenset({Status.UNREADABLE, Status.TOO_LARGE})
_SENT: Final = frozenset({Verdict.SEND, Verdict.REPLACE, Verdict.SEND_ANYWAY})


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the report of a run will say of a file."""

    status: Status
    reason: Reason = Reason.NONE
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    modality: str = ""
    transfer_syntax_uid: str = ""
    size_bytes: int = 0

    @classmethod
    def of(
        cls, status: Status, size_bytes: int, header: Header | None, reason: Reason = Reason.NONE
    ) -> "Foreseen":
        """With what its header says, if there is one."""
        if header is None:
            return cls(status, reason, size_bytes=size_bytes)
        names = (header.sop_instance_uid, header.study_instance_uid, header.modality)
        return cls(status, reason, *names, header.transfer_syntax_uid, size_bytes)


def examine(path: str, archives: Archives | None = None) -> Examined:
    """A file's header, or why it is not sent, with the reason that a run gives; and its size.

    `archives`: those of a run that reads them. Of a large member only the beginning is read.
    """
    if archives and is_member(path):
        return examine_member(archives, path)
    found, size_bytes = examine_stored(path) if is_store_url(path) else read_header(path)
    is_archive = archives is not None and isinstance(found, Rejected) and found.reason is Reason.ARCHIVE
    if isinstance(found, Header) or not (is_archive or found.status in _ASKED_AGAIN):
        return found, size_bytes
    content = read_source(path, lambda _: False, archives)  # there the header's reader knows one reason alone
    if isinstance(content, Rejected):
        return content, size_bytes
    content.close()
    return content.header, content.size_bytes


@dataclass(slots=True)
class Held:
    """Whose bytes are stored under the SOP Instance UIDs of some files, by the ledger."""

    holders: Mapping[str, Holder] = field(default_factory=dict)
    others: Mapping[tuple[str, str], Holder] = field(default_factory=dict)


class Foresight:
    """Judges the files of one run, in its plan's order. Close it."""

    def __init__(self, accepted: Collection[str], on_conflict: OnConflict, ownership: Ownership) -> None:
        self._accepted = accepted
        self._on_conflict = on_conflict
        self._ownership = ownership
        self._archives = ownership.archives or Archives()
        self._neighbours = Neighbours()
        self._table = sqlite3.connect("", isolation_level=None)  # a file without a name
        self._table.executescript(_TABLES)
        self._sha256: tuple[str, str] = "", ""  # of the file that was hashed last

    def close(self) -> None:
        """Forgets everything."""
        self._table.close()

    def settled(self, uid: str, sha256: str, is_duplicate: bool, held: Held) -> Status:
        """Of a file that is stored, and is not opened."""
        if not is_duplicate:
            return Status.ALREADY_UPLOADED
        holder = held.others.get((uid, sha256)) or held.holders.get(uid)
        own = self._own_holder(uid)
        if own and own.sha256 not in ("", sha256) and (uid, sha256) not in held.others:
            return Status.CONFLICT  # its instance has other bytes by now
        return self._as_duplicate(uid, holder)

    def judged(
        self, listed: Listed, stored: StoredContent | None, found: Header | Rejected, held: Held
    ) -> Foreseen:
        """Of a file that is opened."""
        if isinstance(found, Header):
            return self._claimed(listed, stored, found, held, Reason.NONE)
        rejected = replace(found, size_bytes=listed.size_bytes, mtime_ns=listed.mtime_ns)
        if rejected.header and rejected.is_sent(ACCEPTABLE if stored else self._accepted):
            is_kept = stored is not None and self._digest(listed.path) == stored.sha256
            is_sent = rejected.is_sent(self._accepted) and not is_cut_copy(rejected, stored)
            if is_kept or is_sent:
                return self._claimed(listed, stored, rejected.header, held, rejected.reason)
        rejected = judge_rejected(rejected, stored)
        if rejected.reason is Reason.EMPTY and self._neighbours.have_image_like(listed.path):
            rejected = _EMPTY_IMAGE
        return Foreseen.of(rejected.status, listed.size_bytes, rejected.header, rejected.reason)

    def has_stored(self, uid: str, sha256: str, *, as_conflict: bool) -> bool:
        """Whether the run stores these bytes, or this UID, from some file."""
        own = self._own_holder(uid) if uid else None
        if own is None:
            return False
        return not as_conflict or self._digest_of(uid, own) == sha256

    def _claimed(
        self, listed: Listed, stored: StoredContent | None, header: Header, held: Held, reason: Reason
    ) -> Foreseen:
        uid = header.sop_instance_uid
        holder = self._own_holder(uid) or held.holders.get(uid)
        verdict, beside = self._verdict(listed, stored, uid, holder, held)
        status = _STATUSES.get(verdict, Status.UPLOADED)
        if verdict is Verdict.DUPLICATE and not self._own_holder(uid):
            status = self._as_duplicate(uid, beside or holder)
        if verdict is Verdict.ALTERED:
            reason = Reason.ALTERED
        elif verdict not in _SENT:
            reason = Reason.NONE
        return Foreseen.of(status, listed.size_bytes, header, reason)

    def _verdict(
        self, listed: Listed, stored: StoredContent | None, uid: str, holder: Holder | None, held: Held
    ) -> tuple[Verdict, Holder | None]:
        """Besides, who has these bytes where they are stored beside others."""
        if holder is None:
            self._store(uid, "", listed.path)
            return Verdict.SEND, None
        sha256 = self._digest(listed.path)
        if stored and stored.has_own_object and stored.sha256 == sha256:
            return Verdict.KEEP, None
        claim = Claim(holder.path == listed.path, self._digest_of(uid, holder), holder.is_lost)
        altered = is_altered(stored, uid, listed.size_bytes, listed.mtime_ns, sha256)
        verdict = judge(claim, sha256, self._on_conflict, is_altered=altered)
        if verdict in (Verdict.SEND, Verdict.REPLACE):
            self._store(uid, sha256, listed.path)
        if verdict not in (Verdict.CONFLICT, Verdict.SEND_ANYWAY):
            return verdict, None
        beside = self._other_holder(uid, sha256) or held.others.get((uid, sha256))
        if beside:
            claim = Claim(beside.path == listed.path, sha256, beside.is_lost)
        else:
            claim = Claim(verdict is Verdict.SEND_ANYWAY, "")
        verdict = judge_beside(claim, verdict)
        if verdict is Verdict.SEND_ANYWAY:
            self._execute("INSERT OR REPLACE INTO other VALUES (?, ?, ?)", uid, sha256, listed.path)
        return verdict, beside

    def _as_duplicate(self, uid: str, holder: Holder | None) -> Status:
        """Of what an earlier run stored: duplicate, if its file is in this run's report and has that UID."""
        if holder is None:
            return Status.ALREADY_UPLOADED
        real = os.path.realpath(os.fsencode(split_member(holder.path)[0]))
        if not (self._ownership.covers(os.path.dirname(real)) and os.path.isfile(real)):  # noqa: PTH113, PTH120
            return Status.ALREADY_UPLOADED
        found, _ = examine(holder.path, self._archives)
        if isinstance(found, Rejected) and not found.is_sent(self._accepted):
            has_uid = holder.stored_uid in ("", uid)  # which its row will name
        else:
            header = found if isinstance(found, Header) else found.header
            has_uid = header is not None and header.sop_instance_uid == uid
        return Status.DUPLICATE if has_uid else Status.ALREADY_UPLOADED

    def _own_holder(self, uid: str) -> Holder | None:
        row = self._table.execute("SELECT path, sha256 FROM holder WHERE uid = ?", (uid,)).fetchone()
        return Holder(os.fsdecode(row[0]), row[1]) if row else None

    def _other_holder(self, uid: str, sha256: str) -> Holder | None:
        query = "SELECT path FROM other WHERE uid = ? AND sha256 = ?"
        row = self._table.execute(query, (uid, sha256)).fetchone()
        return Holder(os.fsdecode(row[0]), sha256) if row else None

    def _store(self, uid: str, sha256: str, path: str) -> None:
        """From here on these are the UID's bytes; without a digest, whatever the file has."""
        self._execute("INSERT OR REPLACE INTO holder VALUES (?, ?, ?)", uid, sha256, path)

    def _execute(self, statement: str, uid: str, sha256: str, path: str) -> None:
        self._table.execute(statement, (uid, sha256, os.fsencode(path)))

    def _digest_of(self, uid: str, holder: Holder) -> str:
        """Of the UID's bytes: of a file that this run sends once it is wanted, and once."""
        if holder.sha256:
            return holder.sha256
        digest = self._sha256_of(holder.path)
        self._store(uid, digest, holder.path)
        return digest

    def _digest(self, path: str) -> str:
        """SHA-256 of a file's bytes; of one that can't be read, a text that is no other file's."""
        if self._sha256[0] != path:
            self._sha256 = path, self._sha256_of(path)
        return self._sha256[1]

    def _sha256_of(self, path: str) -> str:
        digest = hashlib.sha256()
        try:
            with opened_source(self._archives, path, _HELD_BYTES) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except (OSError, ArchiveFault):
            return f"unreadable {hash(path)}"
        return digest.hexdigest()


_STATUSES: Final = {
    Verdict.KEEP: Status.ALREADY_UPLOADED,
    Verdict.DUPLICATE: Status.DUPLICATE,
    Verdict.CONFLICT: Status.CONFLICT,
    Verdict.ALTERED: Status.CHANGED,
}
