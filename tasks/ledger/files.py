"""Files: what the scan lists, who owns a SOP Instance UID, which keys were issued, what became of each file.

What takes a connection writes by it, and may be executed again when its commit got lost on the way. `issue`
and `settle` take all requests that share a commit, and answer each.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.core.models import (
    Digests,
    Header,
    Listed,
    Reason,
    Status,
    StoredContent,
    Todo,
    Unwalked,
)
from tasks.core.plan import Enrolled, Finding, Known, Rules, Standing, standing
from tasks.ledger.claims import Claims
from tasks.ledger.database import execute_many, fetch
from tasks.ledger.decided import UPLOAD_SHA256
from tasks.ledger.file_requests import Issuing, Settling
from tasks.ledger.lost_claims import settled_elsewhere
from tasks.ledger.schema import UNSETTLED, decision, file, issued_key, listing, stored_file, study
from tasks.ledger.statements import (
    CTIME,
    DIGESTS,
    FORGET_ASIDE,
    HEADER,
    ISSUED,
    KEPT,
    KEPT_BESIDE,
    KEPT_CONTENT_KEY,
    KEPT_KEY,
    LOOKED_AT,
    NAME_STORED,
    NO_FILE,
    OUTCOME,
    SET_ASIDE,
    SETTLED,
    UNCLAIM,
    UNCLAIM_CONTENT,
    UNOPENED,
    Scope,
    is_lost,
    known_select,
)
from tasks.ledger.trail_events import IssuedKey, TrailEvents

_AT_ONCE: Final = 1000  # rows read or looked up
# Of a row in a batch, for where a page begins and how it is sorted. When that has no batch, or says it to be
# equal to something, SQLite looks at all rows of the run.
_POSITION: Final = sa.tuple_(listing.c.batch_no, listing.c.study_no, listing.c.file_no)

_SET: Final = tuple(f"new_{name}" for name in (*OUTCOME, *HEADER, *DIGESTS))
_outcome_of = attrgetter(*OUTCOME)
_header_of = attrgetter(*HEADER)
_digests_of = attrgetter(*DIGESTS)
_STORED_BY: Final = (Status.UPLOADED, Status.DUPLICATE)
_NAMES_STORED: Final = (Reason.DAMAGED, Reason.ALTERED)
_KEPT: Final = (KEPT, KEPT_KEY, KEPT_CONTENT_KEY, KEPT_BESIDE)
# What settles files, in this order: each for all files of a commit that it concerns.
_IN_ORDER: Final = (
    FORGET_ASIDE,
    SET_ASIDE,
    *_KEPT,
    LOOKED_AT,
    NAME_STORED,
    UNCLAIM,
    UNCLAIM_CONTENT,
    SETTLED,
)
_NO_HEADER: Final = Header("")
_NO_DIGESTS: Final = Digests("")


_is_stored = file.c.status.in_(_STORED_BY)
# What is stored of a path, of which its row may say otherwise since: in the order of StoredContent.
STORED_CONTENT: Final = tuple(
    sa.case((_is_stored, file.c[name]), else_=stored_file.c[name])
    for name in ("status", "sha256", "sop_instance_uid", "size_bytes", "mtime_ns")
)
IS_LOST: Final = sa.case(
    (_is_stored, is_lost(file)), else_=sa.func.coalesce(is_lost(stored_file), sa.false())
)
_UNOPENED: Final = ("at", "by", "new_status", "new_reason", "is_file", "new_detail")


class Files:
    """The files of one run, within its campaign."""

    def __init__(self, engine: sa.Engine, scope: Scope, events: TrailEvents | None, claims: Claims) -> None:
        self._engine = engine
        self._scope = scope
        self._events = events
        self._known_paths = known_select(scope)
        self._claims = claims

    # -- reads -------------------------------------------------------------------------------------------

    def todo(self, batch_no: int, study_nos: Sequence[int] = ()) -> Iterator[Todo]:
        """A batch's files that are not settled yet, in the report's order, page by page; of some studies."""
        query = (
            sa.select(
                listing.c.file_id,
                listing.c.study_no,
                listing.c.file_no,
                file.c.path,
                UPLOAD_SHA256.label("upload"),
                *STORED_CONTENT,
                IS_LOST,
            )
            .join(file, file.c.file_id == listing.c.file_id)
            .outerjoin(stored_file, stored_file.c.file_id == listing.c.file_id)
            .outerjoin(decision, decision.c.file_id == listing.c.file_id)
            .where(listing.c.run_id == self._scope.run_id, listing.c.batch_no <= batch_no, UNSETTLED)
            .order_by(listing.c.batch_no, listing.c.study_no, listing.c.file_no)
            .limit(_AT_ONCE)
        )
        if study_nos:
            query = query.where(listing.c.study_no.in_(study_nos))
        after = (batch_no, 0, 0)
        while True:
            page = fetch(self._engine, query.where(after < _POSITION))
            if not page:
                return
            for row in page:
                stored = stored_content(*row[5:])
                yield Todo(row.file_id, row.study_no, row.file_no, unescape(row.path), stored, row.upload)
            after = (batch_no, page[-1].study_no, page[-1].file_no)

    def unscanned(self) -> Iterator[list[Unwalked]]:
        """A row for each study directory that the run has not walked to its end; so many at once."""
        last = (
            sa.select(sa.func.max(listing.c.file_no))
            .where(listing.c.run_id == study.c.run_id, listing.c.study_no == study.c.study_no)
            .scalar_subquery()
        )
        query = (
            sa.select(study.c.study_no, study.c.study_dir, last.label("last"))
            .where(study.c.run_id == self._scope.run_id, ~study.c.scanned)
            .order_by(study.c.study_no)
            .limit(_AT_ONCE)
        )
        after = 0
        while True:
            found = fetch(self._engine, query.where(study.c.study_no > after))
            if not found:
                return
            yield [
                Unwalked(
                    row.study_no,
                    (row.last or 0) + 1,
                    unescape(row.study_dir),
                    Status.NOT_ATTEMPTED,
                    Reason.NOT_SCANNED,
                )
                for row in found
            ]
            after = found[-1].study_no

    # -- writes ------------------------------------------------------------------------------------------

    def enrol(
        self,
        db: sa.Connection,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules,
    ) -> Enrolled:
        """Adds rows of the scan to the report."""
        known = self._known_or_new(db, [kept_path(row) for row in rows])
        listed, unopened, ctimes, touched, found = [], [], [], 0, Finding()
        for row, its in zip(rows, known, strict=True):
            settled, verdict, is_touched = _before_opening(row, its, rules)
            touched += is_touched
            found.count(row, its, verdict[0] if verdict else None, is_to_do=not settled)
            listed.append(
                {
                    "run_id": self._scope.run_id,
                    "study_no": row.study_no,
                    "file_no": row.file_no,
                    "file_id": its.file_id,
                    "batch_no": batch_no,
                    "settled": settled,
                    "said": "/".join(verdict) if verdict else "",
                }
            )
            if verdict:
                is_file = int(isinstance(row, Unwalked) and row.is_file)
                detail = row.detail if isinstance(row, Unwalked) else ""
                said = (its.file_id, self._scope.run_id, *verdict, is_file, detail)
                unopened.append(dict(zip(_UNOPENED, said, strict=True)))
            elif settled and its.ctime_ns is None and isinstance(row, Listed):
                ctimes.append({"at": its.file_id, "new_ctime_ns": row.ctime_ns})
        if listed:
            execute_many(db, self._scope.insert(listing), listed)
        if ctimes:
            execute_many(db, CTIME, ctimes)
        self._settle_unopened(db, unopened)
        if scanned:
            these = (study.c.run_id == self._scope.run_id, study.c.study_no.in_(scanned))
            db.execute(sa.update(study).where(*these).values(scanned=True))
        return Enrolled(found.to_do, touched, found.found(len(rows)))

    def issue(self, db: sa.Connection, requests: list[Issuing]) -> list[bool]:
        """The first to be given a key owns it; any other, be it the same file later, may not use it."""
        wanted = [(todo.file_id, key, now_ns, uid) for todo, uid, key, now_ns in requests]
        owned = self._issue_keys(db, wanted)
        if self._events:
            self._events.record_issued(db, [IssuedKey(todo, key, uid) for todo, uid, key, _ in requests])
        return [item in owned for item in wanted]

    def issue_unused(self, db: sa.Connection, key: str, now_ns: int) -> bool:
        """A key to which nothing is sent. False when it was issued before."""
        wanted = (NO_FILE, key, now_ns, "")
        is_new = wanted in self._issue_keys(db, [wanted])
        if is_new and self._events:
            self._events.record_unused(key)
        return is_new

    def issue_lost(self, db: sa.Connection, keys: Sequence[tuple[str, int]]) -> None:
        """Adds those of these keys, each with when it came, that are not known. Nothing was sent to them."""
        self._issue_keys(db, [(NO_FILE, key, issued_ns, "") for key, issued_ns in keys])

    def settle(self, db: sa.Connection, requests: Sequence[Settling]) -> list[None]:
        """Keeps outcomes: each statement for all files at once, not file by file."""
        requests = self._claims.store(db, requests, [self._values(each) for each in requests])
        groups: dict[Any, list[dict[str, Any]]] = {statement: [] for statement in _IN_ORDER}
        for request in requests:
            for statement, values in self._settling(request):
                groups[statement].append(values)
        for statement, rows in groups.items():
            if rows:
                execute_many(db, statement, rows)
        if self._events:
            settled = [(each.todo, each.outcome) for each in requests if each.outcome]
            self._events.record_settled(db, settled)
        return [None] * len(requests)

    def _settle_unopened(self, db: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Gives files that the scan settles their status."""
        files = [{"at": row["at"]} for row in rows]
        unreadable = [{"at": row["at"]} for row in rows if row["new_status"] is Status.UNREADABLE]
        steps = ((FORGET_ASIDE, files), (SET_ASIDE, files), (UNOPENED, rows), (NAME_STORED, unreadable))
        for statement, values in steps:
            if values:
                execute_many(db, statement, [*values])

    def settle_as_dead(self, db: sa.Connection, requests: Sequence[Settling]) -> None:
        """Nothing of a run that counts as dead, but what another's doing has settled."""
        if elsewhere := settled_elsewhere(db, self._scope, requests):
            self.settle(db, elsewhere)

    def _known_or_new(self, db: sa.Connection, paths: list[str]) -> list[Known]:
        known = self._known(db, paths)
        if new := sorted({path for path in paths if path not in known}):  # sorted: two runs can't deadlock
            rows = [{"campaign": self._scope.campaign, "path": path} for path in new]
            execute_many(db, self._scope.insert(file), rows)
            known |= self._known(db, new)
        return [known[path] for path in paths]

    def _known(self, db: sa.Connection, paths: list[str]) -> dict[str, Known]:
        return {
            path: Known(*rest)
            for page in _pages(paths)
            for path, *rest in db.execute(self._known_paths, self._scope.named(page))
        }

    def _issue_keys(
        self, db: sa.Connection, wanted: Sequence[tuple[int, str, int, str]]
    ) -> set[tuple[int, str, int, str]]:
        """Adds keys, in the order of ISSUED's columns; returns those of them that nobody had before."""
        names = [column.name for column in ISSUED.selected_columns]
        ours = {"campaign": self._scope.campaign, "run_id": self._scope.run_id}
        by_key = sorted(wanted, key=lambda item: item[1])  # two runs can't deadlock
        rows = [dict(zip(names, item, strict=True), **ours) for item in by_key]
        execute_many(db, self._scope.insert(issued_key), rows)
        of_keys = {
            "in_campaign": self._scope.campaign,
            "in_run": self._scope.run_id,
            "keys": [item[1] for item in wanted],
        }
        return {(row[0], row[1], row[2], row[3]) for row in db.execute(ISSUED, of_keys)}

    def _values(self, request: Settling) -> dict[str, Any]:
        """What the statements are bound to."""
        todo, outcome, _ = request
        if outcome is None:
            return {}
        header, digests = outcome.header or _NO_HEADER, outcome.digests or _NO_DIGESTS
        ours = {"in_campaign": self._scope.campaign, "by": self._scope.run_id, "at": todo.file_id}
        said = (*_outcome_of(outcome), *_header_of(header), *_digests_of(digests))
        return dict(zip(_SET, said, strict=True), uid=header.sop_instance_uid, **ours)

    def _settling(self, request: Settling) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The statements that settle a file, each with what it is bound to."""
        todo, outcome, _ = request
        if outcome:
            values, at = self._values(request), {"at": todo.file_id}
            kept = outcome.status is Status.ALREADY_UPLOADED
            for statement in _KEPT if kept else (LOOKED_AT,):
                yield statement, values
            if outcome.status not in _STORED_BY and not kept:
                yield FORGET_ASIDE, at
                yield SET_ASIDE, at
                if outcome.status is Status.UNREADABLE or outcome.reason in _NAMES_STORED:
                    yield NAME_STORED, at
            row = {"study_no_is": todo.study_no, "file_no_is": todo.file_no}
            yield SETTLED, {"by": self._scope.run_id, **row, "new_said": f"{outcome.status}/{outcome.reason}"}
        yield from self._claims.unclaiming(request)


def stored_content(status: str | None, *content: Any) -> StoredContent | None:
    """What is stored of a path, of the columns STORED_CONTENT and IS_LOST; None when nothing is."""
    if not status:
        return None
    sha256, uid, size_bytes, mtime_ns, is_lost = content
    has_own_object = status == Status.UPLOADED and not is_lost
    return StoredContent(sha256, uid, size_bytes, mtime_ns, has_own_object, bool(is_lost))


def _before_opening(
    row: Listed | Unwalked, known: Known, rules: Rules
) -> tuple[bool, tuple[Status, Reason] | None, bool]:
    """Whether a row of the scan is settled as it comes, what settles it if that is new, whether touched."""
    if isinstance(row, Unwalked):
        return True, (row.status, row.reason), False
    found = standing(known, row, rules)
    match found:
        case Standing.SETTLED:
            return True, None, False
        case Standing.TOO_YOUNG:
            return True, (Status.NOT_ATTEMPTED, Reason.TOO_YOUNG), False
    return False, None, found is Standing.TOUCHED


def kept_path(row: Listed | Unwalked) -> str:
    """What is no file's row ends in a slash: a file of the same path, be it in this run, has its own."""
    return escape(row.path) + ("" if isinstance(row, Listed) or row.is_file else "/")


def _pages(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]
