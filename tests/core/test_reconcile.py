"""What a claim means for a file, what a study's rows add up to, and what a run exits with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.models import EXIT_ONE, OnConflict, Status, StudyEntry
from tasks.core.reconcile import STORED, Claim, StudyResult, StudyTally, Verdict, exit_code, judge

SAME, OTHER, NOTHING = "aa", "bb", ""
REPORT, UPLOAD = OnConflict.REPORT, OnConflict.UPLOAD

uids = st.sampled_from(["1.2", "1.10", "1.20", "1.3.4"])
rows = st.lists(st.tuples(st.sampled_from(Status), uids, st.sampled_from(["2.1", "2.2"])), max_size=12)
entries = st.builds(
    StudyEntry,
    study_no=st.integers(1, 9),
    study_dir=st.just("/archive/a"),
    study_instance_uid=st.sampled_from(["", "2.1"]),
    expected_instances=st.none() | st.integers(0, 4),
)


def tally(
    entry: StudyEntry, lines: list[tuple[Status, str, str]], overlaps: int | None = None
) -> StudyResult:
    study = StudyTally(entry, overlaps)
    for status, sop_instance_uid, study_instance_uid in lines:
        study.add(status, sop_instance_uid, study_instance_uid)
    return study.result()


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
            (False, OTHER, UPLOAD, Verdict.SEND_TWIN),
        ],
    )
    def test_verdict(self, mine: bool, stored: str, on_conflict: OnConflict, verdict: Verdict) -> None:
        """Whose claim it is, what is stored under it and the operator's choice decide; nothing else does."""
        assert judge(Claim(mine, stored), SAME, on_conflict) is verdict


class TestStudy:
    """What the rows of one study add up to."""

    ENTRY = StudyEntry(
        1, "/archive/a", "2.1", expected_instances=2, priority=3, label="A", extra=(("x", "y"),)
    )

    def test_carries_what_the_manifest_said(self) -> None:
        """The entry's own columns come back with the counts."""
        result = tally(self.ENTRY, [(Status.UPLOADED, "1.2", "2.1")], overlaps=None)
        assert result == StudyResult(
            study_no=1,
            study_dir="/archive/a",
            label="A",
            study_instance_uid="2.1",
            priority=3,
            files=1,
            stored=1,
            failed=0,
            expected=2,
            complete=False,
            overlaps=None,
            extra=(("x", "y"),),
        )

    @pytest.mark.parametrize(
        ("lines", "complete"),
        [
            ([(Status.UPLOADED, "1.2", "2.1"), (Status.ALREADY_UPLOADED, "1.10", "2.1")], True),
            ([(Status.UPLOADED, "1.2", "2.1"), (Status.DUPLICATE, "1.10", "2.1")], True),
            ([(Status.UPLOADED, "1.2", "2.1"), (Status.UPLOADED, "1.2", "2.1")], False),
            ([(Status.UPLOADED, "1.2", "2.1"), (Status.UPLOADED, "1.10", "2.9")], False),
            ([(Status.UPLOADED, f"1.{n}", "2.1") for n in range(3)], False),
            ([(Status.UPLOADED, "1.2", "2.1"), (Status.NOT_DICOM, "", "")], False),
            ([], False),
        ],
        ids=[
            "two",
            "a twin elsewhere",
            "one twice",
            "another study",
            "one too many",
            "one too few",
            "nothing",
        ],
    )
    def test_complete_when_the_promise_holds(
        self, lines: list[tuple[Status, str, str]], complete: bool
    ) -> None:
        """With two instances promised, two distinct ones of that study are complete, and nothing else is."""
        assert tally(self.ENTRY, lines).complete is complete

    def test_without_a_promise_one_instance_is_enough(self) -> None:
        """Files that are no images don't make a study incomplete."""
        lines = [(Status.UPLOADED, "1.2", "2.1"), (Status.NOT_DICOM, "", "")]
        assert tally(StudyEntry(1, "/archive/a"), lines).complete

    def test_only_files_that_are_no_images_is_incomplete(self) -> None:
        """A study without an instance is for a person to look at."""
        assert tally(StudyEntry(1, "/archive/a"), [(Status.NOT_DICOM, "", "")]).incomplete

    @pytest.mark.parametrize("status", sorted(EXIT_ONE))
    def test_a_row_that_says_exit_one_makes_it_incomplete(self, status: Status) -> None:
        """Whatever else is stored."""
        result = tally(StudyEntry(1, "/archive/a"), [(Status.UPLOADED, "1.2", "2.1"), (status, "1.3", "2.1")])
        assert (result.complete, result.failed) == (False, 1)

    def test_covered_by_an_earlier_entry_is_no_reason_for_exit_one(self) -> None:
        """Its files have their rows under the earlier entry, and are judged there."""
        result = tally(StudyEntry(2, "/archive/a/b"), [], overlaps=1)
        assert (result.covered, result.complete, result.incomplete) == (True, False, False)

    @pytest.mark.parametrize("promise", [{"expected_instances": 2}, {"study_instance_uid": "2.1"}])
    def test_covered_but_promised_is_incomplete(self, promise: dict[str, object]) -> None:
        """What the manifest promises of it was not checked, so nobody may rely on it."""
        entry = StudyEntry(2, "/archive/a/b", **promise)  # type: ignore[arg-type]
        assert tally(entry, [], overlaps=1).incomplete

    def test_no_rows_and_no_overlap_is_incomplete(self) -> None:
        """An empty directory is not a study."""
        assert tally(StudyEntry(2, "/archive/a"), []).incomplete

    @given(entries, rows)
    def test_counts_are_the_rows(self, entry: StudyEntry, lines: list[tuple[Status, str, str]]) -> None:
        """Files, failures and distinct stored UIDs are those of the rows."""
        result = tally(entry, lines)
        assert result.files == len(lines)
        assert result.failed == sum(status in EXIT_ONE for status, _, _ in lines)
        assert result.stored == len({uid for status, uid, _ in lines if status in STORED})

    @given(entries, rows, st.randoms())
    def test_order_does_not_matter(
        self, entry: StudyEntry, lines: list[tuple[Status, str, str]], random: object
    ) -> None:
        """The same rows in another order give the same result."""
        shuffled = list(lines)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert tally(entry, shuffled) == tally(entry, lines)

    @given(entries, rows)
    def test_complete_is_the_design_s_rule(
        self, entry: StudyEntry, lines: list[tuple[Status, str, str]]
    ) -> None:
        """No exit 1, an instance at least, all of the promised study, as many as expected."""
        stored = [(uid, study) for status, uid, study in lines if status in STORED]
        distinct = len({uid for uid, _ in stored})
        rule = (
            not any(status in EXIT_ONE for status, _, _ in lines)
            and distinct > 0
            and (not entry.study_instance_uid or {study for _, study in stored} == {entry.study_instance_uid})
            and (entry.expected_instances is None or distinct == entry.expected_instances)
        )
        assert tally(entry, lines).complete is rule


class TestExitCode:
    """0 every file is where it should be; 1 a row or a study says otherwise."""

    @pytest.mark.parametrize("status", list(Status))
    def test_follows_the_status_table(self, status: Status) -> None:
        """One row decides."""
        assert exit_code({status: 1}, 0) == (status in EXIT_ONE)

    def test_an_incomplete_study_is_enough(self) -> None:
        """Also when every row is fine."""
        assert exit_code({Status.UPLOADED: 3}, 1) == 1

    def test_a_count_of_zero_is_no_row(self) -> None:
        """A status that is listed but did not occur does not count."""
        assert exit_code({"uploaded": 3, "failed": 0}, 0) == 0

    def test_statuses_may_be_plain_text(self) -> None:
        """Counts that were read from summary.json give the same code."""
        assert exit_code({"failed": 1}, 0) == 1
