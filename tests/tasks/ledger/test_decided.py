"""What a person decided holds as long as row and file are what they were, on SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tasks.core.decisions import Decision
from tasks.core.models import Outcome, Reason, Status, Todo
from tasks.ledger.decided import Decided, Decisions
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import Where, enrolled, listed, report, store, twin

CUT = Outcome(Status.INVALID, Reason.TRUNCATED, size_bytes=10, mtime_ns=1, ctime_ns=1, detail="it ends")


@pytest.fixture
def decisions(where: Where, run: Callable[..., Ledger]) -> Iterator[Decisions]:
    run("r0")  # makes the ledger
    with closing(Decisions(where)) as decisions:
        yield decisions


def decide(decisions: Decisions, row: dict[str, object], decision: Decision) -> None:
    said = row["file_id"], row["status"], row["reason"]
    decisions.decide([Decided(*said, decision, "anna", "it is right")], 1)  # type: ignore[arg-type]


def conflict(ledger: Ledger) -> Todo:
    """Of the second file with the first, whose bytes are others."""
    first, second = enrolled(ledger, listed(1), listed(2))
    store(ledger, first, "1.9", "k1")
    ledger.settle(second, twin("1.9", Status.CONFLICT, "cd" * 32))
    return second


def of(ledger: Ledger, file_no: int = 2) -> tuple[str, str]:
    row = next(row for row in report(ledger) if row["file_no"] == file_no)
    return row["decision"], row["detail"]


class TestConflict:
    def test_is_accepted_until_its_bytes_are_others(
        self, decisions: Decisions, run: Callable[..., Ledger]
    ) -> None:
        ledger = run("r1")
        todo = conflict(ledger)
        decide(decisions, report(ledger)[1], Decision.KEEP)
        assert of(ledger) == ("keep", "accepted (keep) by anna: it is right")
        ledger.settle(todo, twin("1.9", Status.CONFLICT, "cd" * 32))
        assert of(ledger)[0] == "keep"
        ledger.settle(todo, twin("1.9", Status.CONFLICT, "ef" * 32))
        assert of(ledger) == ("", "")

    def test_is_sent_as_long_as_the_same_bytes_are_stored(
        self, decisions: Decisions, run: Callable[..., Ledger]
    ) -> None:
        """The decision was made by a look at both."""
        ledger = run("r1")
        conflict(ledger)
        decide(decisions, report(ledger)[1], Decision.UPLOAD)
        again = run("r2")
        first, second = enrolled(again, listed(1, size=11), listed(2))
        assert (first.upload_sha256, second.upload_sha256) == ("", "cd" * 32)
        store(again, first, "1.9", "k2", "ab" * 31 + "cd")
        assert [todo.upload_sha256 for todo in again.todo(1)] == [""]

    def test_is_one_again_once_the_decision_is_withdrawn(
        self, decisions: Decisions, run: Callable[..., Ledger]
    ) -> None:
        ledger = run("r1")
        conflict(ledger)
        for decision, held in ((Decision.IGNORE, "ignore"), (Decision.WITHDRAW, "")):
            decide(decisions, report(ledger)[1], decision)
            assert of(ledger)[0] == held


class TestOther:
    @pytest.mark.parametrize(
        "now",
        [
            replace(CUT, size_bytes=11),
            replace(CUT, mtime_ns=2),
            replace(CUT, ctime_ns=2),
            replace(CUT, reason=Reason.MALFORMED),
            replace(CUT, status=Status.UNREADABLE, reason=Reason.IO_ERROR),
        ],
    )
    def test_row_is_accepted_until_row_or_file_is_another(
        self, decisions: Decisions, run: Callable[..., Ledger], now: Outcome
    ) -> None:
        ledger = run("r1")
        (todo,) = enrolled(ledger, listed(1))
        ledger.settle(todo, CUT)
        decide(decisions, report(ledger)[0], Decision.IGNORE)
        ledger.settle(todo, CUT)
        assert of(ledger, 1) == ("ignore", "accepted (ignore) by anna: it is right [it ends]")
        ledger.settle(todo, now)
        assert of(ledger, 1)[0] == ""
