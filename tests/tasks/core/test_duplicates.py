"""What a claim on a SOP Instance UID means for a file."""

import pytest

from tasks.core.duplicates import Claim, Verdict, judge, judge_beside
from tasks.core.models import OnConflict

SAME, OTHER, NOTHING = "aa", "bb", ""
REPORT, UPLOAD = OnConflict.REPORT, OnConflict.UPLOAD


class TestJudge:
    """The truth table of `judge`, line by line."""

    @pytest.mark.parametrize(
        ("mine", "stored", "on_conflict", "verdict"),
        [
            (True, NOTHING, REPORT, Verdict.SEND),
            (True, NOTHING, UPLOAD, Verdict.SEND),
            (True, SAME, REPORT, Verdict.KEEP),
            (True, SAME, UPLOAD, Verdict.KEEP),
            (True, OTHER, REPORT, Verdict.REPLACE),
            (True, OTHER, UPLOAD, Verdict.REPLACE),
            (False, NOTHING, REPORT, Verdict.WAIT),
            (False, NOTHING, UPLOAD, Verdict.WAIT),
            (False, SAME, REPORT, Verdict.DUPLICATE),
            (False, SAME, UPLOAD, Verdict.DUPLICATE),
            (False, OTHER, REPORT, Verdict.CONFLICT),
            (False, OTHER, UPLOAD, Verdict.SEND_ANYWAY),
        ],
    )
    def test_verdict(self, mine: bool, stored: str, on_conflict: OnConflict, verdict: Verdict) -> None:
        """Whose claim it is, what is stored under it and the operator's choice decide; nothing else does."""
        assert judge(Claim(mine, stored), SAME, on_conflict) is verdict

    @pytest.mark.parametrize(
        ("mine", "stored", "verdict"),
        [(True, SAME, Verdict.SEND), (True, OTHER, Verdict.REPLACE), (False, SAME, Verdict.DUPLICATE)],
    )
    def test_what_the_store_has_lost_is_sent_again_by_its_own_path(
        self, mine: bool, stored: str, verdict: Verdict
    ) -> None:
        assert judge(Claim(mine, stored, is_lost=True), SAME, REPORT) is verdict

    @pytest.mark.parametrize("mine", [True, False])
    def test_verdict_on_a_file_that_is_altered(self, mine: bool) -> None:
        """Not sent unless that is asked for; bytes that are stored are stored all the same."""
        verdicts = {
            (stored, on_conflict): judge(Claim(mine, stored), SAME, on_conflict, is_altered=True)
            for stored in (OTHER, SAME)
            for on_conflict in (REPORT, UPLOAD)
        }
        assert verdicts == {
            (OTHER, REPORT): Verdict.ALTERED,
            (OTHER, UPLOAD): Verdict.REPLACE if mine else Verdict.SEND_ANYWAY,
            (SAME, REPORT): Verdict.KEEP if mine else Verdict.DUPLICATE,
            (SAME, UPLOAD): Verdict.KEEP if mine else Verdict.DUPLICATE,
        }


class TestJudgeBeside:
    """Its truth table, line by line."""

    @pytest.mark.parametrize(
        ("mine", "stored", "before", "verdict"),
        [
            (True, SAME, Verdict.SEND_ANYWAY, Verdict.KEEP),
            (True, SAME, Verdict.CONFLICT, Verdict.KEEP),
            (False, SAME, Verdict.SEND_ANYWAY, Verdict.DUPLICATE),
            (False, SAME, Verdict.CONFLICT, Verdict.DUPLICATE),
            (True, NOTHING, Verdict.SEND_ANYWAY, Verdict.SEND_ANYWAY),
            (False, NOTHING, Verdict.SEND_ANYWAY, Verdict.WAIT),
            (False, NOTHING, Verdict.CONFLICT, Verdict.CONFLICT),
        ],
    )
    def test_verdict(self, mine: bool, stored: str, before: Verdict, verdict: Verdict) -> None:
        """These bytes are sent once, and are no conflict once they are stored."""
        assert judge_beside(Claim(mine, stored), before) is verdict

    @pytest.mark.parametrize("before", [Verdict.SEND_ANYWAY, Verdict.CONFLICT])
    def test_what_the_store_has_lost_is_sent_again_beside(self, before: Verdict) -> None:
        assert judge_beside(Claim(mine=True, stored_sha256=SAME, is_lost=True), before) is Verdict.SEND_ANYWAY
