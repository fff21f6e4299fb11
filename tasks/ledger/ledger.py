"""The ledger: one durable row per file and campaign, and one per key handed out. The database of truth.

    run           who is at work, and until when it is known to live; a shard is a run <run_id>-<number>
    study         the manifest's rows of a run
    file          what is known of a path: the report's columns, as of the last look at it
    listing       the rows of a run's report: which file, which batch, settled in this run or not
    instance      the claim on a SOP Instance UID: first come; with a key once it is stored
    issued_key    every key ever handed out; those that are not their file's key are superseded, and
                  those of no file (file_id 0) were asked for at a run's start and are unused

All writes go through one thread that commits in groups: whoever writes waits until his row is durable, and
shares the commit with all who wait at that moment. Paths are stored escaped (`core/escape.py`).
Everything the report says is derived from these rows; nothing is kept twice.
"""

import dataclasses
import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.duplicates import Claim
from tasks.core.errors import IngestError, InterruptedRunError, StoppedError, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import (
    Header,
    Listed,
    Outcome,
    Reason,
    RunFacts,
    Status,
    StudyEntry,
    Todo,
    Unwalked,
)
from tasks.core.plan import Known, Rules, Standing, standing
from tasks.ledger.database import Writer, connect, execute_many, has_ledger, patiently, prepare, told
from tasks.ledger.report_query import report_select
from tasks.ledger.schema import (
    CLAIMED,
    ISSUED,
    KEPT,
    KEPT_KEY,
    KEYS_OF,
    KNOWN,
    LOOKED_AT,
    SETTLED,
    STORED,
    UNCLAIM,
    UNWALKED,
    file,
    instance,
    issued_key,
    listing,
    run,
    study,
)

_NO_RULES: Final = Rules()
_NO_RUN: Final = (
    "There is no run in this report directory, for there is no ledger of it: name the report directory of a "
    "run, or its --ledger."
)
_PLACE: Final = sa.tuple_(listing.c.study_no, listing.c.file_no)  # of a row in the report
_REPORT_PAGE: Final = 5000
_PAGE: Final = 1000  # rows read or looked up at once
_NO_FILE: Final = 0  # in place of a file_id


class Begins(StrEnum):
    """What a run makes anew, so that it knows nothing of what earlier runs stored."""

    NOTHING = ""
    CAMPAIGN = "campaign"
    LEDGER = "ledger"

    def sentence(self, campaign: str, where: str = "") -> str:
        """What that means; empty for nothing. `where` the ledger is may be said on a terminal alone."""
        if self is Begins.LEDGER:
            place = f" in {where}" if where else ""
            return (
                f"A new ledger begins{place}: what earlier runs stored with another ledger is not known to "
                "it, and is sent again."
            )
        if self is Begins.CAMPAIGN:
            return (
                f"Campaign {campaign} is new in this ledger: what other campaigns stored is not known to it, "
                "and is sent again."
            )
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class ShardStanding:
    """Where a shard of a run stands. `facts` once a process has ended it, in order or stopped early."""

    run_id: str
    is_alive: bool
    facts: RunFacts | None
    progress: Mapping[str, int]  # the counters of its last sign of life


class Ledger:
    """One campaign's part of the database, as one run sees it. Thread-safe."""

    def __init__(
        self,
        url: str | Path,
        campaign: str,
        run_id: str,
        dead_after_s: float = 45.0,
        trail: Trail | None = None,
        counters: Callable[[], dict[str, int]] = dict,
    ) -> None:
        """Opens or creates the database: a file path for SQLite, else a SQLAlchemy URL.

        What another run has claimed is free again when that run gave no sign of life for `dead_after_s`.
        What becomes of a key is on the `trail` before it is committed here. Each sign of life of this run has
        its `counters` with it.
        """
        self.campaign = campaign
        self.run_id = run_id
        self._dead_after_s = dead_after_s
        self._counters = counters
        self._at_work_since_ns: int | None = None  # whoever only looks at a run gives no sign of life for it
        self._engine = connect(url)
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._engine.dialect.name]
        tables = (run, study, file, listing, instance, issued_key)
        self._inserts = {table.name: insert(table).on_conflict_do_nothing() for table in tables}
        self._claimed = CLAIMED.add_columns(self._is_alive.label("alive"))
        try:
            prepare(self._engine)
        except IngestError:
            self._engine.dispose()
            raise
        self._trail = trail
        self._writer = Writer(
            self._engine.execution_options(writes=True),
            self._beat,
            dead_after_s / 4,
            before_commit=trail.flush if trail else lambda: None,
        )

    # -- a run's life ------------------------------------------------------------------------------------

    def begin(
        self, started_ns: int, report_dir: Path, entries: Sequence[StudyEntry], overlaps: Mapping[int, int]
    ) -> None:
        """The run and its manifest are known from here on; `overlaps`: study_no to earlier study_no."""
        self._write(Ledger._begin, (started_ns, report_dir, entries, overlaps))
        self._at_work_since_ns = started_ns

    def divide(self, shards: Sequence[Sequence[StudyEntry]], overlaps: Mapping[int, int]) -> None:
        """The shards that this run is cut into are known from here on: each a run, for `take_up`."""
        self._write(Ledger._divide, (shards, overlaps))

    def take_up(self, started_ns: int, report_dir: Path) -> bool:
        """Begins a run that is known already, from its start. False while another process is at work on it.

        What an earlier process stored in it counts as this one's, and what that one claimed is free again.
        """
        taken = bool(self._write(Ledger._take_up, (started_ns, report_dir)))
        if taken:
            self._at_work_since_ns = started_ns
        return taken

    def end(self, facts: RunFacts) -> None:
        """The run is over: what it still claims is free again."""
        self._write(Ledger._end, facts)
        self._at_work_since_ns = None

    @classmethod
    def of_last_run(cls, url: str | Path, campaign: str, report_dir: Path) -> Self:
        """The ledger as the newest run into this report directory sees it. UsageError when none is over.

        A database that is not there, or holds no ledger, is not made.
        """
        if not has_ledger(url):
            raise UsageError(_NO_RUN)
        ledger = cls(url, campaign, run_id="")
        query = (
            sa.select(run.c.run_id, ledger._is_alive.label("alive"))
            .where(run.c.campaign == campaign, run.c.report_dir == escape(str(report_dir.absolute())))
            .order_by(run.c.started_ns.desc())
            .limit(1)
        )
        with told(), ledger._engine.connect() as db:
            newest = db.execute(query).one_or_none()
        if newest is None or newest.alive:
            ledger.close()
            raise UsageError(
                "The ledger knows no run into this report directory: name its --ledger and --campaign."
                if newest is None
                else "A run into this report directory is at work, or was killed less than a minute ago."
            )
        ledger.run_id = newest.run_id
        return ledger

    def shards(self) -> list[ShardStanding]:
        """The shards that this run was cut into, in their order; none of a run that is whole."""
        query = (
            sa.select(run.c.run_id, run.c.end, run.c.progress, self._is_alive.label("alive"))
            .where(
                run.c.campaign == self.campaign, run.c.run_id.startswith(f"{self.run_id}-", autoescape=True)
            )
            .order_by(run.c.run_id)
        )
        with told(), self._engine.connect() as db:
            return [
                ShardStanding(
                    row.run_id, bool(row.alive), RunFacts(**row.end) if row.end else None, row.progress or {}
                )
                for row in db.execute(query)
            ]

    def close(self) -> None:
        """Commits what waits, and lets the database go."""
        self._writer.close()
        self._engine.dispose()

    # -- plan --------------------------------------------------------------------------------------------

    def enrol(
        self,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules = _NO_RULES,
    ) -> int:
        """Takes rows of the scan into the report; returns how many of them are to be done.

        What is stored and unchanged is settled here, without being opened. `scanned` names the studies whose
        last row this is.
        """
        return int(self._write(Ledger._enrol, (batch_no, rows, scanned, rules)))

    def todo(self, batch_no: int) -> Iterator[Todo]:
        """A batch's files that are not settled yet, in the report's order, page by page."""
        after = (0, 0)
        while page := self._todo_page(batch_no, after):
            yield from page
            after = (page[-1].study_no, page[-1].file_no)

    def enrol_unscanned(self) -> None:
        """One row for each study directory that this run has not walked to its end."""
        with told(), self._engine.connect() as db:
            open_studies = db.execute(
                sa.select(study.c.study_no, study.c.study_dir, sa.func.max(listing.c.file_no))
                .outerjoin(
                    listing,
                    (listing.c.run_id == study.c.run_id) & (listing.c.study_no == study.c.study_no),
                )
                .where(study.c.run_id == self.run_id, ~study.c.scanned)
                .group_by(study.c.study_no, study.c.study_dir)
                .order_by(study.c.study_no)
            ).all()
        for page in _pages(open_studies):
            rows = [
                Unwalked(study_no, (last or 0) + 1, unescape(path), Status.NOT_ATTEMPTED, Reason.NOT_SCANNED)
                for study_no, path, last in page
            ]
            self.enrol(-1, rows, [row.study_no for row in rows])

    # -- upload ------------------------------------------------------------------------------------------

    def claim(self, todo: Todo, sop_instance_uid: str) -> Claim:
        """Claims a SOP Instance UID for a file, or tells whose it is. The first claim wins."""
        claim: Claim = self._write(Ledger._claim, (todo, sop_instance_uid))
        return claim

    def issue(self, todo: Todo, sop_instance_uid: str, key: str, now_ns: int) -> bool:
        """Makes the intent to send durable. False when the key was handed out before: it must not be used."""
        return bool(self._write(Ledger._issue, (todo, sop_instance_uid, key, now_ns)))

    def issue_unused(self, key: str, now_ns: int) -> bool:
        """Makes a key durable to which nothing is sent. False when it was handed out before."""
        return bool(self._write(Ledger._issue_unused, (key, now_ns)))

    def settle(self, todo: Todo, outcome: Outcome, claimed: Collection[str] = ()) -> None:
        """Makes an outcome durable; only then does the file count as done.

        `claimed` are the SOP Instance UIDs that were claimed for it: those under which it did not store
        anything are free again.
        """
        self._write(Ledger._settle, (todo, outcome, claimed))

    def answer(self, asks: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Many of the three above in one commit, for another process: an answer or an exception for each."""
        handlers: dict[str, Any] = {"claim": self._claim, "issue": self._issue, "settle": self._settle}
        return self._writer.submit_all([(handlers[method], arguments) for method, arguments in asks])

    # -- report ------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the run came to its end, neither interrupted nor killed."""
        with told(), self._engine.connect() as db:
            end = db.scalar(sa.select(run.c.end).where(run.c.run_id == self.run_id))
        return end is not None and end["stopped_exit_code"] != InterruptedRunError.exit_code

    def facts(self) -> RunFacts:
        """What the run told at its end; when it was killed, what can be known of it."""
        last_ns = sa.select(sa.func.max(file.c.finished_ns)).where(file.c.run_id == self.run_id)
        with told(), self._engine.connect() as db:
            row = db.execute(sa.select(run).where(run.c.run_id == self.run_id)).one()
            if row.end is not None:
                return RunFacts(**row.end)
            finished_ns = db.scalar(last_ns) or row.started_ns
        return RunFacts(
            self.run_id,
            self.campaign,
            row.started_ns,
            finished_ns,
            peak_parallel=0,
            problems=["The run was killed: this is what its ledger had. Run the same command to go on."],
            stopped_exit_code=StoppedError.exit_code,
        )

    def studies(self) -> Iterator[StudyEntry]:
        """The run's manifest rows in the manifest's order."""
        query = sa.select(study).where(study.c.run_id == self.run_id).order_by(study.c.study_no)
        with told(), self._engine.connect().execution_options(yield_per=_PAGE) as db:
            for row in db.execute(query):
                yield StudyEntry(
                    row.study_no,
                    unescape(row.study_dir),
                    row.study_instance_uid,
                    row.expected_instances,
                    row.priority,
                    row.label,
                    tuple((name, text) for name, text in row.extra),
                    row.expected_bytes,
                )

    def unused_keys(self) -> list[str]:
        """Those that this run, and each of its shards, was given at its start; oldest first."""
        run_ids = [self.run_id, *(shard.run_id for shard in self.shards())]
        query = (
            sa.select(issued_key.c.key)
            .where(issued_key.c.file_id == _NO_FILE, issued_key.c.run_id.in_(run_ids))
            .where(issued_key.c.campaign == self.campaign)
            .order_by(issued_key.c.issued_ns)
        )
        with told(), self._engine.connect() as db:
            return list(db.scalars(query))

    def overlaps(self) -> dict[int, int]:
        """study_no to the earlier study_no that it shares files with."""
        query = sa.select(study.c.study_no, study.c.overlaps)
        with told(), self._engine.connect() as db:
            found = db.execute(query.where(study.c.run_id == self.run_id, study.c.overlaps.is_not(None)))
            return {row.study_no: row.overlaps for row in found}

    def report_rows(self) -> Iterator[tuple[Any, ...]]:
        """The run's report: tuples in the order of ROW_COLUMNS, sorted by study_no and file_no.

        `started_at` and `finished_at` are Unix nanoseconds and `duration_s` is None: the report writes them.
        """
        run_ids = [shard.run_id for shard in self.shards()] or [self.run_id]
        yield from heapq.merge(*(self._rows_of(run_id, run_ids) for run_id in run_ids), key=itemgetter(0, 1))

    def _rows_of(self, run_id: str, run_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        query = report_select(run_id, run_ids).limit(max(100, _REPORT_PAGE // len(run_ids)))
        after = (0, 0)
        while True:
            with told(), self._engine.connect() as db:
                page = db.execute(query.where(after < _PLACE)).tuples().all()
            if not page:
                return
            yield from page
            after = page[-1][:2]

    # -- how a write is done: each takes all items that wait for one commit, and answers each ------------

    # A group may be executed again when its commit got lost on the way: each of these may be repeated.

    def _begin(
        self, db: sa.Connection, items: list[tuple[int, Path, Sequence[StudyEntry], Mapping[int, int]]]
    ) -> list[None]:
        for started_ns, report_dir, entries, overlaps in items:
            values = {
                "run_id": self.run_id,
                "campaign": self.campaign,
                "started_ns": started_ns,
                "report_dir": escape(str(report_dir.absolute())),
            }
            db.execute(self._new(run).values(**values, heartbeat_s=self._now_s))
            self._add_studies(db, self.run_id, entries, overlaps)
        return [None] * len(items)

    def _divide(
        self, db: sa.Connection, items: list[tuple[Sequence[Sequence[StudyEntry]], Mapping[int, int]]]
    ) -> list[None]:
        for shards, overlaps in items:
            for number, entries in enumerate(shards, 1):
                run_id = shard_run_id(self.run_id, number)
                values = {"run_id": run_id, "campaign": self.campaign, "started_ns": 0, "report_dir": ""}
                db.execute(self._new(run).values(**values, heartbeat_s=0))
                self._add_studies(db, run_id, entries, overlaps)
        return [None] * len(items)

    def _add_studies(
        self, db: sa.Connection, run_id: str, entries: Sequence[StudyEntry], overlaps: Mapping[int, int]
    ) -> None:
        for page in _pages(entries):
            db.execute(
                self._new(study),
                [_study_values(run_id, entry, overlaps.get(entry.study_no)) for entry in page],
            )

    def _take_up(self, db: sa.Connection, items: list[tuple[int, Path]]) -> list[bool]:
        return [self._take_up_one(db, *item) for item in items]

    def _take_up_one(self, db: sa.Connection, started_ns: int, report_dir: Path) -> bool:
        taken = db.execute(
            sa.update(run)
            .where(run.c.run_id == self.run_id, ~self._is_alive | (run.c.started_ns == started_ns))
            .values(
                started_ns=started_ns,
                report_dir=escape(str(report_dir.absolute())),
                heartbeat_s=self._now_s,
                end=sa.null(),
                progress=sa.null(),
            )
        )
        if not taken.rowcount:
            return False
        self._free_claims(db)
        db.execute(sa.delete(listing).where(listing.c.run_id == self.run_id))
        db.execute(sa.update(study).where(study.c.run_id == self.run_id).values(scanned=False))
        return True

    def _free_claims(self, db: sa.Connection) -> None:
        db.execute(sa.delete(instance).where(instance.c.run_id == self.run_id, instance.c.key == ""))

    def _end(self, db: sa.Connection, items: list[RunFacts]) -> list[None]:
        self._free_claims(db)
        self._if_still_ours(db, heartbeat_s=0, end=dataclasses.asdict(items[-1]))
        return [None] * len(items)

    def _enrol(
        self,
        db: sa.Connection,
        items: list[tuple[int, Sequence[Listed | Unwalked], Sequence[int], Rules]],
    ) -> list[int]:
        return [self._enrol_rows(db, *item) for item in items]

    def _enrol_rows(
        self,
        db: sa.Connection,
        batch_no: int,
        rows: Sequence[Listed | Unwalked],
        scanned: Sequence[int],
        rules: Rules,
    ) -> int:
        known = self._known_or_new(db, [escape(row.path) for row in rows])
        listed, looked_at = [], []
        for row, its in zip(rows, known, strict=True):
            settled, verdict = _before_opening(row, its, rules)
            listed.append(
                {
                    "run_id": self.run_id,
                    "study_no": row.study_no,
                    "file_no": row.file_no,
                    "file_id": its.file_id,
                    "batch_no": batch_no,
                    "settled": settled,
                }
            )
            if verdict:
                now, why = verdict
                looked_at.append({"at": its.file_id, "now": now, "why": why, "by": self.run_id})
        if listed:
            execute_many(db, self._new(listing), listed)
        if looked_at:
            execute_many(db, UNWALKED, looked_at)
        if scanned:
            of_these = study.c.study_no.in_(scanned)
            db.execute(sa.update(study).where(study.c.run_id == self.run_id, of_these).values(scanned=True))
        return sum(not row["settled"] for row in listed)

    def _known_or_new(self, db: sa.Connection, paths: list[str]) -> list[Known]:
        known = self._known(db, paths)
        if new := sorted({path for path in paths if path not in known}):  # sorted: two runs can't deadlock
            execute_many(db, self._new(file), [{"campaign": self.campaign, "path": path} for path in new])
            known |= self._known(db, new)
        return [known[path] for path in paths]

    def _claim(self, db: sa.Connection, items: list[tuple[Todo, str]]) -> list[Claim]:
        ours = {"campaign": self.campaign, "run_id": self.run_id}
        values = [
            {"sop_instance_uid": uid, "file_id": todo.file_id, **ours}
            for todo, uid in sorted(items, key=lambda item: item[1])
        ]
        execute_many(db, self._new(instance), values)
        uids = list({uid for _, uid in items})
        found = db.execute(self._claimed, {"in_campaign": self.campaign, "uids": uids})
        held = {row.sop_instance_uid: row for row in found}
        return [self._claim_one(db, todo.file_id, held[uid]) for todo, uid in items]

    def _claim_one(self, db: sa.Connection, file_id: int, held: Any) -> Claim:
        if held.key:
            return Claim(mine=held.file_id == file_id, stored_sha256=held.sha256)
        if held.run_id == self.run_id:
            return Claim(mine=held.file_id == file_id, stored_sha256="")
        if held.alive:
            return Claim(mine=False, stored_sha256="")
        taken_over = db.execute(
            sa.update(instance)
            .where(
                instance.c.campaign == self.campaign,
                instance.c.sop_instance_uid == held.sop_instance_uid,
                instance.c.run_id == held.run_id,
                instance.c.key == "",
            )
            .values(file_id=file_id, run_id=self.run_id)
        )
        return Claim(mine=taken_over.rowcount == 1, stored_sha256="")

    def _issue(self, db: sa.Connection, items: list[tuple[Todo, str, str, int]]) -> list[bool]:
        """The first to be given a key owns it; any other, be it the same file later, may not use it."""
        names = [column.name for column in ISSUED.selected_columns]
        ours = {"campaign": self.campaign, "run_id": self.run_id}
        wanted = [(todo.file_id, key, now_ns, uid) for todo, uid, key, now_ns in items]
        by_key = sorted(wanted, key=lambda item: item[1])
        execute_many(
            db, self._new(issued_key), [dict(zip(names, item, strict=True), **ours) for item in by_key]
        )
        of_keys = {"in_campaign": self.campaign, "in_run": self.run_id, "keys": [item[1] for item in wanted]}
        owned = set(map(tuple, db.execute(ISSUED, of_keys)))
        if self._trail:
            self._tell_superseded(db, {todo.file_id: (todo, key) for todo, _, key, _ in items})
            for todo, uid, key, _ in items:
                self._tell(Event.KEY_ISSUED, todo, key=key, sop_instance_uid=uid)
        return [item in owned for item in wanted]

    def _issue_unused(self, db: sa.Connection, items: list[tuple[str, int]]) -> list[bool]:
        return [self._issue_unused_one(db, *item) for item in items]

    def _issue_unused_one(self, db: sa.Connection, key: str, now_ns: int) -> bool:
        ours = {"campaign": self.campaign, "run_id": self.run_id}
        row = {"file_id": _NO_FILE, "key": key, "issued_ns": now_ns, "sop_instance_uid": ""}
        execute_many(db, self._new(issued_key), [row | ours])
        found = db.execute(ISSUED, {"in_campaign": self.campaign, "in_run": self.run_id, "keys": [key]})
        is_new = [tuple(each) for each in found] == [(_NO_FILE, key, now_ns, "")]
        if is_new and self._trail:
            self._trail.record(Event.KEY_UNUSED, key=key)
        return is_new

    def _settle(self, db: sa.Connection, items: list[tuple[Todo, Outcome, Collection[str]]]) -> list[None]:
        groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for todo, outcome, claimed in items:
            for statement, values in self._settling(todo, outcome, claimed):
                groups[statement].append(values)
        for statement, rows in groups.items():
            execute_many(db, statement, rows)
        if self._trail:
            self._tell_outcomes(db, items)
        return [None] * len(items)

    def _tell_outcomes(self, db: sa.Connection, items: list[tuple[Todo, Outcome, Collection[str]]]) -> None:
        given_up = {}
        for todo, outcome, _ in items:
            if outcome.status is Status.UPLOADED and outcome.header and outcome.digests:
                uid, sha256 = outcome.header.sop_instance_uid, outcome.digests.sha256
                self._tell(Event.STORED, todo, key=outcome.key, sop_instance_uid=uid, sha256=sha256)
            elif outcome.attempts or outcome.status is Status.FAILED:
                given_up[todo.file_id] = (todo, "")
                told = {
                    "status": outcome.status,
                    "reason": outcome.reason,
                    "http_status": outcome.http_status,
                }
                self._tell(Event.REFUSED, todo, **told)
        self._tell_superseded(db, given_up)

    def _tell_superseded(self, db: sa.Connection, files: Mapping[int, tuple[Todo, str]]) -> None:
        """Every key of these files but the one that is named with each."""
        if not files:
            return
        for file_id, key in db.execute(KEYS_OF, {"in_campaign": self.campaign, "files": list(files)}):
            todo, current = files[file_id]
            if key != current:
                self._tell(Event.SUPERSEDED, todo, key=key)

    def _tell(self, event: Event, todo: Todo, **facts: Any) -> None:
        assert self._trail
        self._trail.record(event, study_no=todo.study_no, file_no=todo.file_no, **facts)

    def _settling(
        self, todo: Todo, outcome: Outcome, claimed: Collection[str]
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The statements that settle one file, each with its values."""
        uid = outcome.header.sop_instance_uid if outcome.header else ""
        ours = {"in_campaign": self.campaign, "at": todo.file_id, "by": self.run_id}
        if outcome.status is Status.ALREADY_UPLOADED:
            yield KEPT, _known_values(todo, outcome)
            yield KEPT_KEY, {"at": todo.file_id, "uid": uid}
        else:
            yield LOOKED_AT, _known_values(todo, outcome) | _outcome_values(outcome) | {"by": self.run_id}
        is_stored = outcome.status is Status.UPLOADED and outcome.digests is not None
        if is_stored and outcome.digests:
            stored = {"uid": uid, "sha": outcome.digests.sha256}
            yield STORED, ours | stored | _stored_values(outcome)
        for each in claimed:
            if not (is_stored and each == uid):  # statements of a group may run before another file's
                yield UNCLAIM, ours | {"uid": each}
        yield SETTLED, {"in_run": self.run_id, "study_no_is": todo.study_no, "file_no_is": todo.file_no}

    def _beat(self, db: sa.Connection) -> None:
        if self._at_work_since_ns is not None:
            self._if_still_ours(db, run.c.heartbeat_s > 0, heartbeat_s=self._now_s)

    def _if_still_ours(self, db: sa.Connection, *where: Any, **values: Any) -> None:
        """Updates the run's row, unless another process took it up: then nothing more may be written for it.

        A process that was silent for too long (a machine that slept, a network that was cut) finds this out
        in its first commit, for a sign of life is due with it.
        """
        ours = (run.c.run_id == self.run_id, run.c.started_ns == self._at_work_since_ns)
        done = db.execute(sa.update(run).where(*ours, *where).values(**values, progress=self._counters()))
        if not done.rowcount:
            raise StoppedError("Stopped: this process was silent for so long that another took its run up.")

    def _new(self, table: sa.Table) -> Any:
        """Inserts rows, and leaves alone those that are there."""
        return self._inserts[table.name]

    # -- queries -----------------------------------------------------------------------------------------

    @property
    def _is_alive(self) -> Any:
        return run.c.heartbeat_s > self._now_s - math.ceil(self._dead_after_s)

    @property
    def _now_s(self) -> Any:
        """The database's clock: one for all machines."""
        sqlite_clock = sa.func.strftime("%s", "now")
        now = sqlite_clock if self._engine.dialect.name == "sqlite" else sa.extract("epoch", sa.func.now())
        return sa.cast(now, sa.BigInteger)

    def _known(self, db: sa.Connection, paths: list[str]) -> dict[str, Known]:
        return {
            path: Known(*rest)
            for page in _pages(paths)
            for path, *rest in db.execute(KNOWN, {"in_campaign": self.campaign, "paths": page})
        }

    def _todo_page(self, batch_no: int, after: tuple[int, int]) -> list[Todo]:
        query = (
            sa.select(
                listing.c.file_id,
                listing.c.study_no,
                listing.c.file_no,
                file.c.path,
                sa.case((file.c.key != "", file.c.sha256), else_="").label("stored_sha256"),
            )
            .join(file, file.c.file_id == listing.c.file_id)
            .where(
                listing.c.run_id == self.run_id,
                listing.c.batch_no == batch_no,
                ~listing.c.settled,
                after < _PLACE,
            )
            .order_by(listing.c.study_no, listing.c.file_no)
            .limit(_PAGE)
        )
        with told(), self._engine.connect() as db:
            return [
                Todo(row.file_id, row.study_no, row.file_no, unescape(row.path), row.stored_sha256)
                for row in db.execute(query)
            ]

    def _write(self, handler: Any, item: Any) -> Any:
        return self._writer.submit(handler.__get__(self), item)


def begins(url: str | Path, campaign: str) -> Begins:
    """What a run of this campaign would make anew. It makes nothing itself."""
    if not has_ledger(url):
        return Begins.LEDGER
    engine = connect(url)
    try:
        return patiently(lambda: _begins(engine, campaign))
    finally:
        engine.dispose()


def _begins(engine: sa.Engine, campaign: str) -> Begins:
    with engine.connect() as db:
        is_known = db.scalar(sa.select(sa.exists().where(run.c.campaign == campaign)))
        return Begins.NOTHING if is_known else Begins.CAMPAIGN


def shard_run_id(run_id: str, shard_no: int) -> str:
    """The run_id of a run's shard."""
    return f"{run_id}-{shard_no:04}"


def _study_values(run_id: str, entry: StudyEntry, overlaps: int | None) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "study_no": entry.study_no,
        "study_dir": escape(entry.study_dir),
        "study_instance_uid": entry.study_instance_uid,
        "expected_instances": entry.expected_instances,
        "expected_bytes": entry.expected_bytes,
        "priority": entry.priority,
        "label": entry.label,
        "extra": [list(pair) for pair in entry.extra],
        "overlaps": overlaps,
        "scanned": False,
    }


def _known_values(todo: Todo, outcome: Outcome) -> dict[str, Any]:
    header = outcome.header or Header("")
    digests = outcome.digests
    return {
        "at": todo.file_id,
        "size": outcome.size_bytes,
        "mtime": outcome.mtime_ns,
        "sop": header.sop_instance_uid,
        "study_uid": header.study_instance_uid,
        "series": header.series_instance_uid,
        "sop_class": header.sop_class_uid,
        "syntax": header.transfer_syntax_uid,
        "modality_is": header.modality,
        "sha": digests.sha256 if digests else "",
        "md5_is": digests.md5 if digests else "",
    }


def _outcome_values(outcome: Outcome) -> dict[str, Any]:
    return {"now": outcome.status, "why": outcome.reason} | _stored_values(outcome)


def _stored_values(outcome: Outcome) -> dict[str, Any]:
    return {
        "stored_as": outcome.key,
        "etag_is": outcome.etag,
        "tries": outcome.attempts,
        "http": outcome.http_status,
        "began": outcome.started_ns,
        "ended": outcome.finished_ns,
    }


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


def _pages(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _PAGE):
        yield rows[start : start + _PAGE]
