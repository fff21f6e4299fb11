"""What somebody sets for the runs at work: whose it is, and for how long."""

from collections.abc import Callable
from contextlib import closing

import pytest

from tasks.ledger.ledger import Ledger
from tasks.ledger.set_bandwidths import SetBandwidths, SetTo
from tests.tasks.ledger.sample_rows import Where, facts

Begin = Callable[..., Ledger]


@pytest.fixture
def set_to(where: Where) -> Callable[..., int]:
    """Sets a bandwidth as another process does: how many runs it is for."""

    def set_bandwidth(text: str, campaign: str = "default", user_id: str = "") -> int:
        with closing(SetBandwidths(where, campaign)) as kept:
            return kept.set(text, user_id)

    return set_bandwidth


def seen(where: Where, run_id: str, campaign: str = "default") -> SetTo | None:
    with closing(SetBandwidths(where, campaign, run_id)) as kept:
        return kept.for_run()


class TestWhatIsSet:
    def test_is_for_runs_that_are_at_work(self, where: Where, run: Begin, set_to: Callable[..., int]) -> None:
        run("one")
        run("two")
        assert seen(where, "one") is None
        assert set_to("1M", user_id="ada") == 2
        assert seen(where, "one") == seen(where, "two") == ("1M", "ada")

    def test_is_not_for_a_run_that_begins_later(
        self, where: Where, run: Begin, set_to: Callable[..., int]
    ) -> None:
        run("one")
        set_to("1M")
        run("later")
        assert seen(where, "later") is None
        assert seen(where, "one") == ("1M", "")
        set_to("2M")
        assert seen(where, "later") == seen(where, "one") == ("2M", "")

    def test_is_not_for_another_campaign(self, where: Where, run: Begin, set_to: Callable[..., int]) -> None:
        run("one")
        run("other", "another")
        assert set_to("1M") == 1
        assert seen(where, "other", "another") is None

    def test_is_taken_back(self, where: Where, run: Begin, set_to: Callable[..., int]) -> None:
        run("one")
        set_to("1M")
        set_to("")
        assert seen(where, "one") is None

    def test_is_for_nobody_when_no_run_is_at_work(
        self, where: Where, run: Begin, set_to: Callable[..., int]
    ) -> None:
        run("one").end(facts("one"))
        assert set_to("1M") == 0
        assert seen(where, "one") is None


class TestAMigration:
    def test_has_it_for_each_of_its_shards(
        self, where: Where, run: Begin, set_to: Callable[..., int]
    ) -> None:
        """Also one that begins later: it is part of what is at work. The migration itself sends nothing."""
        run("m")
        run("m-0001")
        assert set_to("1M") == 1
        run("m-0002")
        assert seen(where, "m-0001") == seen(where, "m-0002") == ("1M", "")

    def test_that_is_none_has_such_a_name_by_chance(
        self, where: Where, run: Begin, set_to: Callable[..., int]
    ) -> None:
        run("chance-0001")
        set_to("1M")
        assert seen(where, "chance-0001") == ("1M", "")
