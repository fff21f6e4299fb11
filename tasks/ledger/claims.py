"""Claims: which file sends the bytes of a SOP Instance UID, and which other bytes are sent beside them.

What takes a connection writes by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from tasks.core.duplicates import Claim
from tasks.ledger.database import execute_many
from tasks.ledger.file_requests import Claiming, Settling
from tasks.ledger.liveness import OtherRuns
from tasks.ledger.lost_claims import is_stored, without_claim
from tasks.ledger.schema import instance, other_content
from tasks.ledger.statements import (
    FORGET_CONTENT,
    STORED,
    STORED_CONTENT,
    UNCLAIM,
    UNCLAIM_CONTENT,
    Scope,
)

_Asked: TypeAlias = tuple[str, str]  # SOP Instance UID; and SHA-256, of bytes beside those that are stored

_HELD: Final = {  # composed once: that takes longer than the database
    table: sa.select(
        *(table.c[name] for name in ("sop_instance_uid", "file_id", "run_id", "sha256", "key", "lost_key"))
    ).where(
        table.c.campaign == sa.bindparam("in_campaign"),
        table.c.sop_instance_uid.in_(sa.bindparam("uids", expanding=True)),
    )
    for table in (instance, other_content)
}


class Claims:
    """The claims of one run, within its campaign."""

    def __init__(self, scope: Scope, others: OtherRuns) -> None:
        self._scope = scope
        self._others = others

    def claim(self, db: sa.Connection, requests: Sequence[Claiming]) -> list[Claim]:
        """The first claim wins; that of a dead run passes to who asks."""
        held = {
            **self._held(db, instance, [each for each in requests if not each.sha256]),
            **self._held(db, other_content, [each for each in requests if each.sha256]),
        }
        return [self._claim_one(db, each, held.get(_asked(each))) for each in requests]

    def store(
        self, db: sa.Connection, requests: Sequence[Settling], values: Sequence[dict[str, Any]]
    ) -> Sequence[Settling]:
        """Keeps what is stored under its claim, by each request's `values` for the statements.

        Returns the requests: a file whose claim another has now with the outcome which that gives it.
        """
        stored = [number for number, each in enumerate(requests) if is_stored(each.outcome)]
        if not stored or execute_many(db, STORED, [values[number] for number in stored]) == len(stored):
            return requests
        settled = list(requests)
        for number in stored:
            if execute_many(db, STORED, [values[number]]):
                continue
            if execute_many(db, STORED_CONTENT, [values[number]]):
                execute_many(db, FORGET_CONTENT, [values[number]])
            else:
                settled[number] = without_claim(db, self._scope, requests[number])
        return settled

    def unclaiming(self, request: Settling) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The statements that free what was claimed for a file and is not stored, with their values."""
        todo, outcome, claimed = request
        for uid in claimed:
            if not (
                is_stored(outcome) and outcome and outcome.header and uid == outcome.header.sop_instance_uid
            ):
                ours = {"in_campaign": self._scope.campaign, "by": self._scope.run_id, "at": todo.file_id}
                yield UNCLAIM, ours | {"uid": uid}
                yield UNCLAIM_CONTENT, ours | {"uid": uid}

    def _held(
        self, db: sa.Connection, table: sa.Table, requests: Sequence[Claiming]
    ) -> "Mapping[_Asked, sa.Row[Any]]":
        """Who has claimed, or stored, what is asked for, after those that are sent are claimed."""
        if not requests:
            return {}
        rows = [self._claim_values(each) for each in sorted(requests, key=_asked) if each.is_to_be_sent]
        if rows:  # sorted: two runs can't deadlock
            execute_many(db, self._scope.insert(table), rows)
        uids = {each.sop_instance_uid for each in requests}
        found = db.execute(_HELD[table], {"in_campaign": self._scope.campaign, "uids": [*uids]})
        of_content = table is other_content
        return {(row.sop_instance_uid, row.sha256 if of_content else ""): row for row in found}

    def _claim_values(self, request: Claiming) -> dict[str, Any]:
        values = {
            "campaign": self._scope.campaign,
            "sop_instance_uid": request.sop_instance_uid,
            "file_id": request.todo.file_id,
            "run_id": self._scope.run_id,
        }
        return values | {"sha256": request.sha256} if request.sha256 else values

    def _claim_one(self, db: sa.Connection, request: Claiming, held: "sa.Row[Any] | None") -> Claim:
        if held is None:  # nobody sends it, nor is this file to be sent
            return Claim(mine=False, stored_sha256="")
        file_id = request.todo.file_id
        if held.key:
            is_mine, is_lost = held.file_id == file_id, held.key == held.lost_key
            if is_mine and is_lost and request.sha256:
                self._take_up_lost(db, request)
            return Claim(is_mine, held.sha256, is_lost)
        if held.run_id == self._scope.run_id:
            return Claim(mine=held.file_id == file_id, stored_sha256="")
        if not request.is_to_be_sent or not self._others.is_dead(db, held.run_id):
            return Claim(mine=False, stored_sha256="")
        return Claim(mine=self._take_over(db, request, held.run_id), stored_sha256="")

    def _take_up_lost(self, db: sa.Connection, request: Claiming) -> None:
        """This run is to store again what an earlier one has, beside the instance of another file."""
        its = [other_content.c.campaign == self._scope.campaign]
        its += [other_content.c.sop_instance_uid == request.sop_instance_uid]
        its += [other_content.c.sha256 == request.sha256]
        db.execute(sa.update(other_content).where(*its).values(run_id=self._scope.run_id))

    def _take_over(self, db: sa.Connection, request: Claiming, run_id: str) -> bool:
        """Whether the claim of this run was still there."""
        table = other_content if request.sha256 else instance
        its = [table.c.campaign == self._scope.campaign, table.c.run_id == run_id, table.c.key == ""]
        its.append(table.c.sop_instance_uid == request.sop_instance_uid)
        if request.sha256:
            its.append(table.c.sha256 == request.sha256)
        ours = {"file_id": request.todo.file_id, "run_id": self._scope.run_id}
        return db.execute(sa.update(table).where(*its).values(ours)).rowcount == 1


def _asked(request: Claiming) -> _Asked:
    return request.sop_instance_uid, request.sha256
