"""What the report says is derived from the ledger's rows, the same on SQLite and PostgreSQL."""

from collections.abc import Callable

from tasks.core.escape import escape
from tasks.core.models import (
    Header,
    Outcome,
    Reason,
    Status,
    Unwalked,
)
from tasks.core.plan import Rules
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import ENTRIES, enrolled, listed, report, store, twin, uploaded


class TestAPath:
    """What can't be walked, and a file of the same name, are two things."""

    def test_that_was_a_link_for_a_while_is_still_the_file_it_was(self, run: Callable[..., Ledger]) -> None:
        first, second, third = run("r1"), run("r2"), run("r3")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        path = listed(1).path
        second.enrol(1, [Unwalked(1, 1, path, Status.UNREADABLE, Reason.BROKEN_LINK)], [])
        (row,) = report(second)
        assert (row["path"], row["status"], row["reason"]) == (path, "unreadable", "broken_link")
        assert enrolled(third, listed(1)) == [], "it is stored, and unchanged"
        (row,) = report(third)
        assert (row["path"], row["status"], row["key"]) == (path, "already_uploaded", "k1")
        assert [row["status"] for row in report(first)] == ["uploaded"], "written again"

    def test_may_be_both_in_one_report(self, run: Callable[..., Ledger]) -> None:
        """A study_dir that is a file, beside one that holds it."""
        ledger = run("r1")
        missing = Unwalked(2, 1, listed(1).path, Status.MISSING, Reason.NOT_A_DIRECTORY)
        (todo,) = enrolled(ledger, listed(1), missing)
        store(ledger, todo, "1.9", "k1")
        rows = [(row["path"], row["status"]) for row in report(ledger)]
        assert rows == [(listed(1).path, "uploaded"), (listed(1).path, "missing")]


class TestReport:
    def test_what_was_not_settled_was_not_attempted(self, run: Callable[..., Ledger]) -> None:
        """A listed file without an outcome has a row, and so has a study that was not walked to its end."""
        ledger = run("r1")
        ledger.enrol(1, [listed(1)], [])
        ledger.enrol_unscanned()
        rows = report(ledger)
        assert [(r["study_no"], r["file_no"], r["status"], r["reason"]) for r in rows] == [
            (1, 1, "not_attempted", "stopped"),
            (1, 2, "not_attempted", "not_scanned"),
            (2, 1, "not_attempted", "not_scanned"),
        ]
        assert rows[1]["path"] == "/archive/one"

    def test_a_walked_study_has_no_such_row(self, run: Callable[..., Ledger]) -> None:
        """`scanned` closes a study."""
        ledger = run("r1")
        ledger.enrol(1, [listed(1)], [1, 2])
        ledger.enrol_unscanned()
        assert len(report(ledger)) == 1

    def test_a_duplicate_has_the_key_of_its_twin(self, run: Callable[..., Ledger]) -> None:
        """While the twin is in the same report."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        ledger.settle(second, twin("1.9"))
        rows = report(ledger)
        assert (rows[1]["status"], rows[1]["key"]) == ("duplicate", "k1")

    def test_a_twin_outside_this_report_makes_it_already_uploaded(self, run: Callable[..., Ledger]) -> None:
        """With the storing run's key, attempts and run_id."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        (other,) = enrolled(second, listed(1, "/elsewhere/copy.dcm"))
        second.settle(other, twin("1.9"))
        (row,) = report(second)
        assert (row["status"], row["key"], row["run_id"], row["attempts"]) == (
            "already_uploaded",
            "k1",
            "r1",
            1,
        )

    def test_a_duplicate_whose_twin_was_replaced_is_a_conflict(self, run: Callable[..., Ledger]) -> None:
        """The UID has other bytes by now: the row must not claim the new object as its proof."""
        first = run("r1")
        one, two = enrolled(first, listed(1), listed(2))
        store(first, one, "1.9", "k1")
        first.settle(two, twin("1.9"))
        second = run("r2")
        (changed,) = enrolled(second, listed(1, mtime=2), listed(2))
        store(second, changed, "1.9", "k2", sha256="ef" * 32)
        rows = report(second)
        assert [(r["status"], r["key"]) for r in rows] == [("uploaded", "k2"), ("conflict", "")]

    def test_what_shares_a_uid_names_the_file_that_has_it(self, run: Callable[..., Ledger]) -> None:
        """A duplicate, and a conflict; no other row, also one that was neither come to nor settled now."""
        first = run("r1")
        one, two, three, four = enrolled(first, listed(1, "/archive/one/=1\n"), *map(listed, (2, 3, 4)))
        store(first, one, "1.9", "k1")
        first.settle(two, twin("1.9"))
        first.settle(three, twin("1.9", Status.CONFLICT, sha256="ef" * 32))
        first.settle(four, Outcome(Status.NOT_DICOM, Reason.TEXT))
        owner = escape("/archive/one/=1\n")
        assert [(r["status"], r["same_uid_path"]) for r in report(first)] == [
            ("uploaded", ""),
            ("duplicate", owner),
            ("conflict", owner),
            ("not_dicom", ""),
        ]
        second = run("r2")
        enrolled(second, listed(3))
        assert [(r["status"], r["same_uid_path"]) for r in report(second)] == [("not_attempted", "")]

    def test_what_shares_a_uid_names_a_file_of_another_report_too(self, run: Callable[..., Ledger]) -> None:
        """Its path as the ledger knows it."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        same, other = enrolled(second, listed(1, "/elsewhere/copy.dcm"), listed(2, "/elsewhere/other.dcm"))
        second.settle(same, twin("1.9"))
        second.settle(other, twin("1.9", Status.CONFLICT, sha256="ef" * 32))
        assert [(r["status"], r["same_uid_path"]) for r in report(second)] == [
            ("already_uploaded", "/archive/one/1.dcm"),
            ("conflict", "/archive/one/1.dcm"),
        ]

    def test_what_was_sent_beside_another_of_its_uid_names_none(self, run: Callable[..., Ledger]) -> None:
        """It was asked for, and each has its key."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        assert ledger.claim(second, "1.9", sha256="ef" * 32).mine
        assert ledger.issue(second, "1.9", "k2", 1)
        ledger.settle(second, uploaded("1.9", "k2", sha256="ef" * 32))
        assert [(r["key"], r["same_uid_path"]) for r in report(ledger)] == [("k1", ""), ("k2", "")]

    def test_modality_is_that_of_the_last_look(self, run: Callable[..., Ledger]) -> None:
        """Kept where a later run does not open the file."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        assert enrolled(second, listed(1)) == []
        assert [r["modality"] for r in (*report(first), *report(second))] == ["CT", "CT"]

    def test_detail_is_that_of_the_failure_and_gone_with_it(self, run: Callable[..., Ledger]) -> None:
        """Whatever becomes of the file next: not tried, too young, found to be stored, or stored."""
        failed = Outcome(Status.FAILED, Reason.REFUSED, header=Header("1.9"), detail="AccessDenied")

        def told(ledger: Ledger) -> list[tuple[str, str]]:
            return [(row["status"], row["detail"]) for row in report(ledger)]

        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        first.settle(todo, failed)
        assert told(first) == [("failed", "AccessDenied")]
        second = run("r2")
        (again,) = enrolled(second, listed(1))
        assert told(second) == [("not_attempted", "")]
        store(second, again, "1.9", "k1")
        assert told(second) == [("uploaded", "")]
        third = run("r3")
        (again,) = enrolled(third, listed(1, mtime=2))
        third.settle(again, failed)
        fourth = run("r4")
        assert enrolled(fourth, listed(1, mtime=100), rules=Rules(changed_before_ns=99)) == []
        assert told(fourth) == [("not_attempted", "")]
        fifth = run("r5")
        (again,) = enrolled(fifth, listed(1, mtime=3))
        fifth.settle(again, failed)
        sixth = run("r6")
        (again,) = enrolled(sixth, listed(1, mtime=4))
        kept = uploaded("1.9", "")
        sixth.settle(again, Outcome(Status.ALREADY_UPLOADED, header=kept.header, digests=kept.digests))
        assert told(sixth) == [("already_uploaded", "")]

    def test_what_a_run_did_is_blank_until_it_did_it(self, run: Callable[..., Ledger]) -> None:
        """A file that an earlier run tried and this one has not."""
        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        tried = Outcome(
            Status.FAILED, Reason.SERVER, attempts=3, http_status=503, started_ns=10**9, finished_ns=2 * 10**9
        )
        first.settle(todo, tried)
        columns = ("attempts", "http_status", "started_at", "finished_at", "run_id")
        (row,) = report(first)
        assert all(row[name] for name in columns)
        second = run("r2")
        enrolled(second, listed(1))
        (row,) = report(second)
        assert {name: row[name] for name in columns if row[name]} == {}

    def test_kept_bytes_keep_their_key(self, run: Callable[..., Ledger]) -> None:
        """A file looked at again and found the same is the earlier run's, whatever happened between."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        (todo,) = enrolled(second, listed(1, mtime=2))
        second.settle(todo, Outcome(Status.FAILED, Reason.SERVER, header=Header("1.9")))
        third = run("r3")
        (todo,) = enrolled(third, listed(1, mtime=3))
        assert third.claim(todo, "1.9").stored_sha256 == "ab" * 32
        kept = uploaded("1.9", "")
        third.settle(todo, Outcome(Status.ALREADY_UPLOADED, header=kept.header, digests=kept.digests))
        (row,) = report(third)
        assert (row["status"], row["key"], row["run_id"]) == ("already_uploaded", "k1", "r1")

    def test_names_of_any_bytes_survive(self, run: Callable[..., Ledger]) -> None:
        """Not UTF-8, newlines, NUL's neighbours: the path comes back as the operating system has it."""
        name = "/archive/one/\udcff\n=1\\x41é"
        (todo,) = enrolled(run("r1"), listed(1, name))
        assert todo.path == name

    def test_the_manifest_comes_back(self, run: Callable[..., Ledger]) -> None:
        """The report can be written from the ledger alone."""
        ledger = run("r1")
        assert list(ledger.studies()) == ENTRIES
        assert ledger.overlaps() == {2: 1}
