"""The ledger of a bucket's objects: listings that go on, claims that are shared, what is registered."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError
from tasks.core.models import RunFacts, StudyEntry
from tasks.core.object_outcomes import (
    After,
    Expected,
    InstanceClaim,
    ObjectOutcome,
    ObjectStatus,
    ObjectTodo,
)
from tasks.ledger.database import connect
from tasks.ledger.ledger import Ledger
from tasks.ledger.registered_instances import ClaimingInstance, SendingObjects, SettlingObject
from tasks.ledger.registration_ledger import Endpoints, RegistrationLedger
from tasks.ledger.schema import registered_instance
from tasks.remote.bucket import BucketObject
from tests.tasks.ledger.sample_rows import Where, enrolled, listed, store

PLACE = Endpoints("bucket", "", "127.0.0.1:80/dicom-web")
Begin = Callable[..., RegistrationLedger]


@pytest.fixture
def begin(where: Where, tmp_path: Path) -> Iterator[Begin]:
    """Opens runs on one database, and closes them."""
    opened: list[RegistrationLedger] = []

    def begin(
        run_id: str,
        place: Endpoints = PLACE,
        campaign: str = "default",
        dead_after_s: float = 45,
        clock: Callable[[], float] = time.monotonic,
    ) -> RegistrationLedger:
        ledger = RegistrationLedger(where, campaign, run_id, place, dead_after_s, clock=clock)
        opened.append(ledger)
        ledger.begin(time.time_ns(), tmp_path / "report")
        return ledger

    yield begin
    for ledger in opened:
        ledger.close()


def page(*keys: str, etag: str = "e") -> list[BucketObject]:
    return [BucketObject(key, 10, etag, number) for number, key in enumerate(keys)]


def listing(ledger: RegistrationLedger, *keys: str, after: After = After.LEAVE, etag: str = "e") -> int:
    """A whole listing of one page; how many objects are to be looked at."""
    state = ledger.begin_listing()
    to_do = ledger.enrol(page(*keys, etag=etag), state.serial, after).to_do
    ledger.end_listing()
    return to_do


def reply(post: Callable[[Callable[[Any], None]], None]) -> Any:
    answers: SimpleQueue[Any] = SimpleQueue()
    post(answers.put)
    answer = answers.get()
    if isinstance(answer, Exception):
        raise answer
    return answer


def settle(
    ledger: RegistrationLedger,
    todo: ObjectTodo,
    status: ObjectStatus = ObjectStatus.REGISTERED,
    claimed: str = "",
    **more: Any,
) -> None:
    outcome = ObjectOutcome(status=status, etag=todo.etag, size_bytes=todo.size_bytes, **more)
    reply(lambda answer: ledger.post(SettlingObject(todo, outcome, claimed), answer))


def claim(ledger: RegistrationLedger, todo: ObjectTodo, uid: str) -> InstanceClaim:
    answer: InstanceClaim = reply(lambda post: ledger.post(ClaimingInstance(todo, uid), post))
    return answer


def rows(ledger: RegistrationLedger) -> dict[str, Any]:
    return {row.key: row for row in ledger.rows()}


def test_a_run_is_not_at_its_end_while_another_is_about_to_claim_the_rest(begin: Begin) -> None:
    """What the other's commit does not show yet has no outcome all the same."""
    first, second = begin("r1"), begin("r2")
    listing(first, "a", "b")
    assert second.count_others() == 2
    (todo,) = first.claim(1, 1)
    assert (first.count_others(), second.count_others()) == (1, 2)
    settle(first, todo)
    assert second.count_others() == 1


class TestListing:
    def test_one_that_was_cut_off_goes_on_from_its_cursor(self, begin: Begin) -> None:
        """By another run, whose objects of it are those of the first one, too."""
        first = begin("r1")
        state = first.begin_listing()
        first.enrol(page("a", "b"), state.serial, After.LEAVE)
        assert begin("r2").begin_listing() == ("b", state.serial)

    def test_a_whole_one_is_followed_by_a_new_one(self, begin: Begin) -> None:
        listing(begin("r1"), "a", "b")
        state = begin("r2").begin_listing()
        assert state.after_key == ""
        assert state.serial == 2

    def test_each_prefix_has_its_own(self, begin: Begin) -> None:
        first = begin("r1")
        first.enrol(page("a"), first.begin_listing().serial, After.LEAVE)
        assert begin("r2", Endpoints("bucket", "in/", PLACE.registry)).begin_listing().after_key == ""

    def test_what_is_registered_is_known_by_key_and_etag(self, begin: Begin) -> None:
        ledger = begin("r1")
        assert listing(ledger, "a", "b", "c") == 3
        one, two, _ = ledger.claim(1, 10)
        settle(ledger, one)
        settle(ledger, two, ObjectStatus.FAILED)
        later = begin("r2")
        assert listing(later, "a", "b") == 1, "what failed is looked at afresh"
        assert listing(begin("r3"), "a", etag="another") == 1, "another object under its key"

    def test_is_looked_at_once_by_each_run(self, begin: Begin) -> None:
        ledger = begin("r1")
        assert listing(ledger, "a") == 1
        (one,) = ledger.claim(1, 10)
        settle(ledger, one, ObjectStatus.QUARANTINED)
        state = ledger.begin_listing()
        assert ledger.enrol(page("a"), state.serial, After.LEAVE).to_do == 0

    def test_an_object_with_any_key_is_kept(self, begin: Begin) -> None:
        keys = ["a b+c%d", 'quote"<&>', "ü/é", "new\nline", "\\back", "x" * 1024, "\U0001f600"]
        ledger = begin("r1")
        listing(ledger, *keys)
        assert set(rows(ledger)) == set(keys)


class TestClaims:
    def test_two_runs_share_the_work(self, begin: Begin) -> None:
        first, second = begin("r1"), begin("r2")
        listing(first, *"abcd")
        claimed = [each.key for each in first.claim(1, 3)], [each.key for each in second.claim(1, 3)]
        assert claimed == (["a", "b", "c"], ["d"])
        assert first.claim(2, 3) == []
        assert first.free_claims_of_dead() == 1, "the second one's"

    def test_what_a_run_leaves_is_free_at_its_end(self, begin: Begin) -> None:
        first, second = begin("r1"), begin("r2")
        listing(first, "a", "b")
        one, two = first.claim(1, 2)
        assert claim(first, two, "1.2").mine
        settle(first, one)
        first.end(RunFacts("r1", "default", 1, 2, peak_parallel=0))
        assert [each.key for each in second.claim(1, 2)] == ["b"]
        assert claim(second, two, "1.2").mine

    def test_what_a_dead_run_has_claimed_is_free(self, begin: Begin, where: Where) -> None:
        now = [0.0]
        first, second = begin("r1"), begin("r2", clock=lambda: now[0])
        listing(first, "a")
        (one,) = first.claim(1, 1)
        assert claim(first, one, "1.2").mine
        assert second.free_claims_of_dead() == 1
        first.close()
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            db.exec_driver_sql("UPDATE run SET heartbeat_s = 1 WHERE run_id = 'r1'")
        engine.dispose()
        second.free_claims_of_dead()
        now[0] += 20  # seen twice, a heartbeat apart
        assert second.free_claims_of_dead() == 0
        (again,) = second.claim(1, 1)
        assert claim(second, again, "1.2").mine

    def test_a_run_that_counts_as_dead_settles_nothing(self, begin: Begin, where: Where) -> None:
        first = begin("r1")
        listing(first, "a")
        (one,) = first.claim(1, 1)
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            db.exec_driver_sql("UPDATE run SET heartbeat_s = 0 WHERE run_id = 'r1'")
        engine.dispose()
        with pytest.raises(StoppedError, match="silent"):
            settle(first, one)
        assert rows(first)["a"].status == ""

    def test_what_is_left_of_a_batch_is_known(self, begin: Begin) -> None:
        ledger = begin("r1")
        listing(ledger, "a", "b", "c")
        one, *_ = ledger.claim(1, 2)
        settle(ledger, one)
        assert [each.key for each in ledger.left(1)] == ["b"]

    def test_only_what_is_under_the_prefix_is_claimed(self, begin: Begin) -> None:
        listing(begin("r1"), "in/a", "other")
        second = begin("r2", Endpoints("bucket", "in/", PLACE.registry))
        assert [each.key for each in second.claim(1, 9)] == ["in/a"]

    def test_an_attempt_is_known_before_it_begins(self, begin: Begin) -> None:
        ledger = begin("r1")
        listing(ledger, "a", "b")
        todos = ledger.claim(1, 2)
        reply(lambda answer: ledger.post(SendingObjects(todos), answer))
        assert [each.attempts for each in ledger.left(1)] == [1, 1]


class TestInstances:
    def test_the_first_object_that_holds_it_claims_a_uid(self, begin: Begin) -> None:
        ledger = begin("r1")
        listing(ledger, "a", "b")
        one, two = ledger.claim(1, 2)
        assert claim(ledger, one, "1.2").mine
        assert claim(ledger, one, "1.2").mine, "asked again"
        assert claim(ledger, two, "1.2") == InstanceClaim(mine=False)
        settle(ledger, one, claimed="1.2", sha256="ab")
        assert claim(ledger, two, "1.2") == InstanceClaim(mine=False, registered_sha256="ab")

    def test_what_is_not_registered_frees_its_uid(self, begin: Begin) -> None:
        ledger = begin("r1")
        listing(ledger, "a", "b")
        one, two = ledger.claim(1, 2)
        assert claim(ledger, one, "1.2").mine
        settle(ledger, one, ObjectStatus.REJECTED, claimed="1.2")
        assert claim(ledger, two, "1.2").mine

    def test_each_registry_has_its_own(self, begin: Begin) -> None:
        first = begin("r1")
        listing(first, "a", "b")
        one, two = first.claim(1, 2)
        assert claim(first, one, "1.2").mine
        assert claim(begin("r2", Endpoints("bucket", "", "other:80/")), two, "1.2").mine

    def test_a_registered_one_says_where_it_is_and_of_which_study(self, begin: Begin, where: Where) -> None:
        ledger = begin("r1")
        listing(ledger, "a")
        (one,) = ledger.claim(1, 1)
        claim(ledger, one, "1.2")
        its = {"study_instance_uid": "1.3", "series_instance_uid": "1.4", "sha256": "ab", "finished_ns": 7}
        settle(ledger, one, claimed="1.2", **its)
        engine = connect(where)
        with engine.connect() as db:
            (row,) = db.execute(sa.select(registered_instance))
        engine.dispose()
        assert (row.campaign, row.registry, row.sop_instance_uid) == ("default", PLACE.registry, "1.2")
        assert (row.study_instance_uid, row.series_instance_uid) == ("1.3", "1.4")
        assert (row.key, row.sha256, row.registered_ns, row.run_id) == ("a", "ab", 7, "r1")

    def test_a_named_object_is_looked_at_again_though_it_is_registered(self, begin: Begin) -> None:
        ledger = begin("r1")
        listing(ledger, "a", "b")
        one, two = ledger.claim(1, 2)
        claim(ledger, one, "1.2")
        settle(ledger, one, claimed="1.2", sop_instance_uid="1.2")
        settle(ledger, two)
        later = begin("r2")
        assert later.enrol_named(page("a"), After.LEAVE).to_do == 0, "by an event that came twice"
        assert later.enrol_named(page("a"), After.LEAVE, is_afresh=True).to_do == 1
        (again,) = later.claim(1, 9, seen=later.serial())
        assert again.key == "a"
        assert claim(later, again, "1.2").mine


def test_what_the_upload_knows_of_a_key_is_known_here(begin: Begin, where: Where, tmp_path: Path) -> None:
    """Its study gives the order; UID and hash are what the object has to have."""
    upload = Ledger(where, "default", "u1")
    upload.begin(1, tmp_path / "report", [StudyEntry(1, "/archive/one")], {})
    one, two = enrolled(upload, listed(1), listed(2))
    store(upload, one, "1.9", "zz", "cd" * 32)
    assert upload.claim(two, "1.8").mine
    assert upload.issue(two, "1.8", "superseded", 1)
    upload.close()
    ledger = begin("r1")
    listing(ledger, "aa", "superseded", "zz")
    found = {each.key: (each.study_instance_uid, each.expected) for each in ledger.claim(1, 9)}
    assert found == {
        "aa": ("", Expected()),
        "superseded": ("", Expected("1.8", "")),
        "zz": ("1.2", Expected("1.9", "cd" * 32)),
    }
