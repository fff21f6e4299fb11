"""Files: what the scan lists, who owns a SOP Instance UID, which keys were issued, what became of each file.

What takes a connection writes by it, and may be executed again when its commit got lost on the way. `claim`,
`issue` and `settle` take all requests that share a commit, and answer each.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from tasks.core.duplicates import Claim
from tasks.core.escape import escape, unescape
from tasks.core.models import Digests, Header, Listed, Reason, Status, Todo, Unwalked
from tasks.core.plan import Known, Rules, Standing, standing
from tasks.ledger.database import execute_many, reading
from tasks.ledger.file_requests import Claiming, Issuing, Settling
from tasks.ledger.schema import file, instance, issued_key, listing, study
from tasks.ledger.statements import (
    DIGESTS,
    HEADER,
    ISSUED,
    KEPT,
    KEPT_KEY,
    KNOWN,
    LOOKED_AT,
    NO_FILE,
    OUTCOME,
    SETTLED,
    STORED,
    UNCLAIM,
    UNOPENED,
    Scope,
    claimed_select,
)
from tasks.ledger.trail_events import IssuedKey, TrailEvents

_AT_ONCE: Final = 1000  # rows read or looked up
_POSITION: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)  # of a row in the report

_SET: Final = tuple(f"new_{name}" for name in (*OUTCOME, *HEADER, *DIGESTS))
_outcome_of = attrgetter(*OUTCOME)
_header_of = attrgetter(*HEADER)
_digests_of = attrgetter(*DIGESTS)
_NO_HEADER: Final = Header("")
_NO_DIGESTS: Final = Digests("", "")


class Files:
    """The files of one run, within its campaign."""

    def __init__(self, engine: sa.Engine, scope: Scope, events: TrailEvents | None) -> None:
        self._engine = engine
        self._scope = scope
        self._events = events
        self._claimed = claimed_select(scope)

    # -- reads -------------------------------------------------------------------------------------------

    def todo(self, batch_no: int) -> Iterator[Todo]:
        """A batch's files that are not settled yet, in the report's order, page by page."""
        query = (
            sa.select(
                listing.c.file_id,
                listing.c.study_no,
                listing.c.file_no,
                file.c.path,
                sa.case((file.c.key != "", file.c.sha256), else_="").label("stored_sha256"),
            )
            .join(file, file.c.file_id == listing.c.file_id)
            .where(listing.c.run_id == self._scope.run_id, listing.c.batch_no == batch_no, ~listing.c.settled)
            .order_by(listing.c.study_no, listing.c.file_no)
            .limit(_AT_ONCE)
        )
        after = (0, 0)
        while True:
            with reading(self._engine) as db:
                page = db.execute(query.where(after < _POSITION)).all()
            if not page:
                return
            for row in page:
                yield Todo(row.file_id, row.study_no, row.file_no, unescape(row.path), row.stored_sha256)
            after = (page[-1].study_no, page[-1].file_no)

    def unscanned(self) -> Iterator[list[Unwalked]]:
        """A row for each study directory that the run has not walked to its end; so many at once."""
        query = (
            sa.select(study.c.study_no, study.c.study_dir, sa.func.max(listing.c.file_no).label("last"))
            .outerjoin(
                listing, (listing.c.run_id == study.c.run_id) & (listing.c.study_no == study.c.study_no)
            )
            .where(study.c.run_id == self._scope.run_id, ~study.c.scanned)
            .group_by(study.c.study_no, study.c.study_dir)
            .order_by(study.c.study_no)
        )
        with reading(self._engine) as db:
            found = db.execute(query).all()
        rows = [
            Unwalked(
                row.study_no,
                (row.last or 0) + 1,
                unescape(row.study_dir),
                Status.NOT_ATTEMPTED,
                Reason.NOT_SCANNED,
            )
            for row in found
        ]
        for page in _pages(rows):
            yield list(page)

    # -- writes ------------------------------------------------------------------------------------------

    def enrol(
        self,
        db: sa.Connection,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules,
    ) -> int:
        """Adds rows of the scan to the report; returns how many of them are to be done."""
        known = self._known_or_new(db, [_kept_path(row) for row in rows])
        listed, unopened = [], []
        for row, its in zip(rows, known, strict=True):
            settled, verdict = _before_opening(row, its, rules)
            listed.append(
                {
                    "run_id": self._scope.run_id,
                    "study_no": row.study_no,
                    "file_no": row.file_no,
                    "file_id": its.file_id,
                    "batch_no": batch_no,
                    "settled": settled,
                }
            )
            if verdict:
                status, reason = verdict
                unopened.append(
                    {"at": its.file_id, "by": self._scope.run_id, "new_status": status, "new_reason": reason}
                )
        if listed:
            execute_many(db, self._scope.insert(listing), listed)
        if unopened:
            execute_many(db, UNOPENED, unopened)
        if scanned:
            these = (study.c.run_id == self._scope.run_id, study.c.study_no.in_(scanned))
            db.execute(sa.update(study).where(*these).values(scanned=True))
        return sum(not row["settled"] for row in listed)

    def claim(self, db: sa.Connection, requests: list[Claiming]) -> list[Claim]:
        """The first claim wins; that of a dead run passes to who asks."""
        ours = {"campaign": self._scope.campaign, "run_id": self._scope.run_id}
        values = [
            {"sop_instance_uid": uid, "file_id": todo.file_id, **ours}
            for todo, uid in sorted(requests, key=attrgetter("sop_instance_uid"))
        ]
        execute_many(db, self._scope.insert(instance), values)
        uids = list({uid for _, uid in requests})
        found = db.execute(self._claimed, {"in_campaign": self._scope.campaign, "uids": uids})
        held = {row.sop_instance_uid: row for row in found}
        return [self._claim_one(db, todo.file_id, held[uid]) for todo, uid in requests]

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

    def settle(self, db: sa.Connection, requests: list[Settling]) -> list[None]:
        """Keeps outcomes: each statement for all files at once, not file by file."""
        groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for request in requests:
            for statement, values in self._settling(request):
                groups[statement].append(values)
        for statement, rows in groups.items():
            execute_many(db, statement, rows)
        if self._events:
            self._events.record_settled(db, [(todo, outcome) for todo, outcome, _ in requests])
        return [None] * len(requests)

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
            for path, *rest in db.execute(KNOWN, {"in_campaign": self._scope.campaign, "paths": page})
        }

    def _claim_one(self, db: sa.Connection, file_id: int, held: "sa.Row[Any]") -> Claim:
        if held.key:
            return Claim(mine=held.file_id == file_id, stored_sha256=held.sha256)
        if held.run_id == self._scope.run_id:
            return Claim(mine=held.file_id == file_id, stored_sha256="")
        if held.alive:
            return Claim(mine=False, stored_sha256="")
        moved = db.execute(
            sa.update(instance)
            .where(
                instance.c.campaign == self._scope.campaign,
                instance.c.sop_instance_uid == held.sop_instance_uid,
                instance.c.run_id == held.run_id,
                instance.c.key == "",
            )
            .values(file_id=file_id, run_id=self._scope.run_id)
        )
        return Claim(mine=moved.rowcount == 1, stored_sha256="")

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

    def _settling(self, request: Settling) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The statements that settle a file, each with what it is bound to."""
        todo, outcome, claimed = request
        header, digests = outcome.header or _NO_HEADER, outcome.digests or _NO_DIGESTS
        ours = {"in_campaign": self._scope.campaign, "by": self._scope.run_id, "at": todo.file_id}
        said = (*_outcome_of(outcome), *_header_of(header), *_digests_of(digests))
        values = dict(zip(_SET, said, strict=True), uid=header.sop_instance_uid, **ours)
        if outcome.status is Status.ALREADY_UPLOADED:
            yield KEPT, values
            yield KEPT_KEY, values
        else:
            yield LOOKED_AT, values
        is_stored = outcome.status is Status.UPLOADED and outcome.digests is not None
        if is_stored:
            yield STORED, values
        for uid in claimed:
            if not (is_stored and uid == header.sop_instance_uid):  # nothing is stored under it
                yield UNCLAIM, ours | {"uid": uid}
        yield SETTLED, {"by": self._scope.run_id, "study_no_is": todo.study_no, "file_no_is": todo.file_no}


def _before_opening(
    row: Listed | Unwalked, known: Known, rules: Rules
) -> tuple[bool, tuple[Status, Reason] | None]:
    """Whether a row of the scan is settled as it comes, and the status that settles it when it is new."""
    if isinstance(row, Unwalked):
        return True, (row.status, row.reason)
    match standing(known, row, rules):
        case Standing.SETTLED:
            return True, None
        case Standing.TOO_YOUNG:
            return True, (Status.NOT_ATTEMPTED, Reason.TOO_YOUNG)
    return False, None


def _kept_path(row: Listed | Unwalked) -> str:
    """What is no file's row ends in a slash: a file of the same path, be it in this run, has its own."""
    return escape(row.path) + ("/" if isinstance(row, Unwalked) else "")


def _pages(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]
