"""Files in the ledger: what is to be done, who owns a UID, which keys are used; on SQLite and PostgreSQL."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.core.models import (
    Header,
    Outcome,
    Reason,
    Status,
    Todo,
)
from tasks.core.plan import Rules
from tasks.ledger.ledger import Ledger
from tests.tasks.ledger.sample_rows import enrolled, facts, listed, report, store, uploaded


class TestEnrol:
    def test_new_files_are_to_do_in_the_reports_order(self, run: Callable[..., Ledger]) -> None:
        """A batch gives its files back sorted by study and file."""
        ledger = run("r1")
        rows = [listed(2), listed(1), listed(1, "/archive/two/x", study_no=2)]
        assert [str(todo) for todo in enrolled(ledger, *rows)] == [
            "study 1 file 1",
            "study 1 file 2",
            "study 2 file 1",
        ]

    def test_a_batch_of_many_pages_is_whole(self, run: Callable[..., Ledger]) -> None:
        """Paging loses no file, also when files settle while it goes on."""
        ledger = run("r1")
        ledger.enrol(1, [listed(n) for n in range(1, 2502)], [])
        seen = []
        for todo in ledger.todo(1):
            seen.append(todo.file_no)
            if todo.file_no % 100 == 0:
                ledger.settle(todo, Outcome(Status.NOT_DICOM, Reason.TEXT))
        assert seen == list(range(1, 2502))
        assert len(list(ledger.todo(1))) == 2501 - 25

    def test_what_an_earlier_run_stored_is_settled_unopened(self, run: Callable[..., Ledger]) -> None:
        """Same size and mtime: nothing to do; the report has the storing run's key, times and run."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        second = run("r2")
        assert enrolled(second, listed(1)) == []
        (row,) = report(second)
        assert (row["status"], row["key"], row["run_id"], row["attempts"]) == (
            "already_uploaded",
            "k1",
            "r1",
            1,
        )

    @pytest.mark.parametrize("change", [{"size": 11}, {"mtime": 2}])
    def test_a_file_that_changed_is_to_do(self, run: Callable[..., Ledger], change: dict[str, int]) -> None:
        """Other size or mtime: it is looked at again, and known to have been stored before."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        (todo,) = enrolled(run("r2"), listed(1, **change))
        assert todo.stored

    def test_rehash_looks_at_everything(self, run: Callable[..., Ledger]) -> None:
        """With rehash what is stored is to do, too."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        assert enrolled(run("r2"), listed(1), rules=Rules(rehash=True))

    def test_every_other_status_is_looked_at_afresh(self, run: Callable[..., Ledger]) -> None:
        """Neither failed nor not_dicom nor invalid is settled for a later run."""
        first = run("r1")
        for todo, status in zip(
            enrolled(first, *(listed(n) for n in range(1, 5))),
            (Status.FAILED, Status.NOT_DICOM, Status.INVALID, Status.CONFLICT),
            strict=True,
        ):
            first.settle(todo, Outcome(status, size_bytes=10, mtime_ns=1))
        assert len(enrolled(run("r2"), *(listed(n) for n in range(1, 5)))) == 4

    def test_a_young_file_is_left_alone(self, run: Callable[..., Ledger]) -> None:
        """Changed after the rule's time: a row, not_attempted, and nothing to do."""
        ledger = run("r1")
        assert enrolled(ledger, listed(1, mtime=100), rules=Rules(changed_before_ns=99)) == []
        (row,) = report(ledger)
        assert (row["status"], row["reason"]) == ("not_attempted", "too_young")

    def test_campaigns_do_not_know_each_other(self, run: Callable[..., Ledger]) -> None:
        """A file or UID is known within its campaign."""
        first = run("r1")
        store(first, enrolled(first, listed(1))[0], "1.9", "k1")
        other = run("r2", campaign="other")
        (todo,) = enrolled(other, listed(1))
        assert not todo.stored
        assert other.claim(todo, "1.9").mine


class TestClaims:
    def test_the_first_claim_wins_and_the_others_wait(self, run: Callable[..., Ledger]) -> None:
        """Two files of one run with one UID: the second learns that it is not its own, nor stored yet."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        assert ledger.claim(first, "1.9").mine
        assert ledger.claim(first, "1.9").mine
        claim = ledger.claim(second, "1.9")
        assert (claim.mine, claim.stored_sha256) == (False, "")

    def test_a_stored_claim_tells_the_digest(self, run: Callable[..., Ledger]) -> None:
        """Once it is stored, a twin can compare its bytes."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        store(ledger, first, "1.9", "k1")
        assert ledger.claim(second, "1.9").stored_sha256 == "ab" * 32
        assert ledger.claim(first, "1.9").mine

    def test_a_failed_file_gives_its_claim_to_the_next(self, run: Callable[..., Ledger]) -> None:
        """Those that wait take over when the first fails for good."""
        ledger = run("r1")
        first, second = enrolled(ledger, listed(1), listed(2))
        assert ledger.claim(first, "1.9").mine
        ledger.settle(first, Outcome(Status.FAILED, Reason.NETWORK, header=Header("1.9")), ["1.9"])
        assert ledger.claim(second, "1.9").mine

    def test_a_failed_file_takes_no_other_files_claim_with_it(self, run: Callable[..., Ledger]) -> None:
        """Files that settle in one commit, some failed, some stored: what is stored stays claimed."""
        ledger = run("r1")
        todos = enrolled(ledger, *(listed(n) for n in range(1, 61)))
        for todo in todos:
            assert ledger.claim(todo, f"1.{todo.file_no}").mine

        def settle(todo: Todo) -> None:
            uid = f"1.{todo.file_no}"
            failed = Outcome(Status.FAILED, Reason.NETWORK, header=Header(uid))
            ledger.settle(todo, failed if todo.file_no % 2 else uploaded(uid, f"k{todo.file_no}"), [uid])

        with ThreadPoolExecutor(60) as pool:
            list(pool.map(settle, todos))
        for todo in todos:
            twin_of_it = Todo(10_000, 1, 1, "/elsewhere")
            assert bool(ledger.claim(twin_of_it, f"1.{todo.file_no}").stored_sha256) == (
                todo.file_no % 2 == 0
            )

    def test_many_threads_have_one_winner(self, run: Callable[..., Ledger]) -> None:
        """Claims that share a commit have one winner, too."""
        ledger = run("r1")
        todos = enrolled(ledger, *(listed(n) for n in range(1, 31)))
        won: list[Todo] = []
        threads = [
            threading.Thread(target=lambda t=todo: won.append(t) if ledger.claim(t, "1.9").mine else None)
            for todo in todos
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1

    def test_a_living_runs_claim_is_waited_for(self, run: Callable[..., Ledger]) -> None:
        """Another run at work holds its claims, also for the very same file."""
        first, second = run("r1"), run("r2")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        (again,) = enrolled(second, listed(1))
        assert not second.claim(again, "1.9").mine

    def test_an_ended_runs_claims_are_free_at_once(self, run: Callable[..., Ledger]) -> None:
        """What a run had claimed and not stored is free when it ends."""
        first, second = run("r1"), run("r2")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        first.end(facts("r1"))
        (again,) = enrolled(second, listed(1))
        assert second.claim(again, "1.9").mine

    def test_a_dead_runs_claims_are_free_after_a_while(self, run: Callable[..., Ledger]) -> None:
        """No sign of life for `dead_after_s`: its claims are taken over, and it does not get them back."""
        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        first.close()
        second = run("r2", dead_after_s=2)
        (again,) = enrolled(second, listed(1))
        until = time.monotonic() + 20
        while not second.claim(again, "1.9").mine:
            assert time.monotonic() < until
            time.sleep(0.2)

    def test_a_living_run_gives_signs_of_life_while_idle(self, run: Callable[..., Ledger]) -> None:
        """A run that has nothing to write is not taken for dead."""
        first = run("r1", dead_after_s=4)
        (todo,) = enrolled(first, listed(1))
        assert first.claim(todo, "1.9").mine
        time.sleep(6)
        second = run("r2", dead_after_s=4)
        (again,) = enrolled(second, listed(1))
        assert not second.claim(again, "1.9").mine


class TestKeys:
    def test_a_key_handed_out_twice_is_refused(self, run: Callable[..., Ledger]) -> None:
        """By any file of the campaign, in any run, also by the file that had it."""
        first = run("r1")
        one, two = enrolled(first, listed(1), listed(2))
        assert first.issue(one, "1.9", "k1", 1)
        assert not first.issue(two, "1.9", "k1", 2)
        assert not first.issue(one, "1.9", "k1", 3)
        second = run("r2")
        (again, _) = enrolled(second, listed(1), listed(2))
        assert not second.issue(again, "1.9", "k1", 1)

    def test_every_key_ever_handed_out_is_in_the_report(self, run: Callable[..., Ledger]) -> None:
        """The stored one as key, the others as superseded, in the order they came; also across runs."""
        first = run("r1")
        (todo,) = enrolled(first, listed(1))
        assert first.issue(todo, "1.9", "k1", 1)
        second = run("r2")
        (again,) = enrolled(second, listed(1))
        assert second.issue(again, "1.9", "k2", 2)
        store(second, again, "1.9", "k3")
        (row,) = report(second)
        assert (row["key"], row["superseded_keys"]) == ("k3", "k1;k2")

    def test_a_failed_files_keys_are_all_superseded(self, run: Callable[..., Ledger]) -> None:
        """No key counts as stored when the file failed."""
        ledger = run("r1")
        (todo,) = enrolled(ledger, listed(1))
        assert ledger.issue(todo, "1.9", "k1", 1)
        ledger.settle(todo, Outcome(Status.FAILED, Reason.SERVER, header=Header("1.9")))
        (row,) = report(ledger)
        assert (row["status"], row["key"], row["superseded_keys"]) == ("failed", "", "k1")
