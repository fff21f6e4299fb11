"""What a study's rows add up to, and what a run exits with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.completeness import (
    STORED,
    Completeness,
    DistinctValues,
    StudyCounts,
    StudyResult,
    StudyTally,
    completeness,
    exit_code,
    not_stored,
    why_not_complete,
)
from tasks.core.models import EXIT_ONE, Reason, Status, StudyEntry

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
        study.add(status, "", sop_instance_uid, study_instance_uid)
    return study.result()


class TestDetails:
    """What the platform calls it, beside the reason."""

    def test_are_in_the_words_for_what_keeps_a_study_from_being_complete(self) -> None:
        """Each once, and of those without any the reason alone."""
        study = StudyTally(StudyEntry(1, "/a"))
        for detail in ("NoSuchBucket", "AccessDenied", "AccessDenied", ""):
            study.add(Status.FAILED, Reason.REFUSED, "1.2", "2.1", detail=detail)
        study.add(Status.FAILED, Reason.NETWORK, "1.3", "2.1")
        assert study.result().why == "4 refused (AccessDenied, NoSuchBucket); 1 network"

    def test_of_which_there_are_many_are_the_first_few(self) -> None:
        """A store that makes one up for each file fills neither memory nor the cell."""
        study = StudyTally(StudyEntry(1, "/a"))
        for number in range(1000):
            study.add(Status.FAILED, Reason.REFUSED, "1.2", "2.1", detail=f"E{number}")
        assert study.result().why == "1000 refused (E0, E1, E2, ...)"


COMPLETE, INCOMPLETE, NEITHER, WITH_EXCEPTIONS = Completeness


class TestCompleteness:
    """The truth table of `completeness`, line by line."""

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            (StudyCounts(overlaps=True), NEITHER),
            (StudyCounts(overlaps=True, expected=0), NEITHER),
            (StudyCounts(), INCOMPLETE),
            (StudyCounts(expected=0), INCOMPLETE),
            (StudyCounts(expected=2), INCOMPLETE),
            (StudyCounts(overlaps=True, expected=2), INCOMPLETE),
            (StudyCounts(overlaps=True, names_study=True), INCOMPLETE),
            (StudyCounts(files=2, failed=1), INCOMPLETE),
            (StudyCounts(files=2, failed=1, stored=1), INCOMPLETE),
            (StudyCounts(files=2, failed=1, stored=1, expected=1, overlaps=True), INCOMPLETE),
            (StudyCounts(files=2), NEITHER),
            (StudyCounts(files=2, expected=0), NEITHER),
            (StudyCounts(files=2, overlaps=True), NEITHER),
            (StudyCounts(files=2, expected=1), INCOMPLETE),
            (StudyCounts(files=2, names_study=True), INCOMPLETE),
            (StudyCounts(files=2, stored=1), COMPLETE),
            (StudyCounts(files=2, stored=1, expected=1, names_study=True, overlaps=True), COMPLETE),
            (StudyCounts(files=2, stored=1, foreign=1, names_study=True), INCOMPLETE),
            (StudyCounts(files=2, stored=1, expected=2), INCOMPLETE),
            (StudyCounts(files=2, stored=1, expected=0), INCOMPLETE),
            (StudyCounts(files=2, accepted=1), WITH_EXCEPTIONS),
            (StudyCounts(files=2, accepted=1, stored=1, names_study=True), WITH_EXCEPTIONS),
            (StudyCounts(files=2, accepted=1, stored=1, foreign=1), INCOMPLETE),
            (StudyCounts(files=3, accepted=1, failed=1, stored=1), INCOMPLETE),
            (StudyCounts(files=2, accepted=1, absent=1, stored=1, expected=2), WITH_EXCEPTIONS),
            (StudyCounts(files=2, accepted=1, absent=1, stored=1, expected=1), WITH_EXCEPTIONS),
            (StudyCounts(files=2, accepted=1, absent=0, stored=1, expected=2), INCOMPLETE),
            (StudyCounts(files=2, accepted=1, absent=1, stored=1, expected=3), INCOMPLETE),
            (StudyCounts(files=2, accepted=1, absent=1, stored=1, expected=0), INCOMPLETE),
            (StudyCounts(files=1, accepted=1, absent=None, expected=300), WITH_EXCEPTIONS),
        ],
    )
    def test_follows_the_table(self, counts: StudyCounts, expected: Completeness) -> None:
        """Counts and the manifest's promise decide; nothing else does."""
        assert completeness(counts) is expected


class TestWhy:
    """The table of `why_not_complete`, line by line, then what it says of several things at once."""

    @pytest.mark.parametrize(
        ("counts", "failures", "why"),
        [
            (
                StudyCounts(files=4, failed=4),
                {"truncated": 1, "stopped": 3},
                "3 stopped; 1 truncated",
            ),
            (StudyCounts(files=2, stored=2, expected=100), {}, "98 fewer than expected"),
            (StudyCounts(files=3, stored=3, expected=1), {}, "2 more than expected"),
            (
                StudyCounts(files=1, stored=1, foreign=1, names_study=True),
                {},
                "another Study Instance UID than the manifest says",
            ),
            (StudyCounts(files=2), {}, "no image"),
            (StudyCounts(), {}, "no file"),
            (StudyCounts(overlaps=True), {}, ""),
            (StudyCounts(files=1, stored=1), {}, ""),
            (StudyCounts(expected=12), {}, "12 fewer than expected; no file"),
            (StudyCounts(overlaps=True, names_study=True), {}, "no file"),
            (StudyCounts(files=2, expected=3), {}, "3 fewer than expected; no image"),
            (StudyCounts(files=2, failed=1), {"conflict": 1}, "1 conflict"),
            (StudyCounts(files=2, accepted=1), {}, "1 accepted"),
            (
                StudyCounts(files=9, accepted=2, absent=2, stored=7, expected=8),
                {},
                "2 accepted; 1 fewer than expected",
            ),
            (
                StudyCounts(files=3, failed=1, stored=1, foreign=1, expected=99, names_study=True),
                {"truncated": 1},
                "1 truncated; 98 fewer than expected; another Study Instance UID than the manifest says",
            ),
        ],
    )
    def test_says_what_is_wrong(self, counts: StudyCounts, failures: dict[str, int], why: str) -> None:
        """Closed words and counts; what there is most of comes first."""
        assert why_not_complete(counts, failures) == why

    def test_counts_reasons_and_statuses_where_there_is_none(self) -> None:
        """A row has its reason, or its status, never both."""
        study = StudyTally(StudyEntry(1, "/archive/a"))
        for status, reason in [
            (Status.INVALID, Reason.TRUNCATED),
            (Status.CONFLICT, Reason.NONE),
            (Status.CONFLICT, Reason.NONE),
            (Status.UPLOADED, Reason.REPLACED),
            (Status.NOT_DICOM, Reason.TEXT),
        ]:
            study.add(status, reason, "1.2", "2.1")
        assert study.result().why == "2 conflict; 1 truncated"


class TestSeen:
    """The Study Instance UIDs, the modalities and the bytes of a study's files."""

    def test_are_of_every_row_that_has_them(self) -> None:
        """Also of one that was not stored; each once, sorted."""
        study = StudyTally(StudyEntry(1, "/archive/a"))
        study.add(Status.UPLOADED, "", "1.1", "2.2", "SR", 100)
        study.add(Status.INVALID, Reason.TRUNCATED, "1.2", "2.10", "CT", 20)
        study.add(Status.DUPLICATE, "", "1.3", "2.2", "CT", 3)
        study.add(Status.NOT_DICOM, Reason.TEXT, "", "", "", None)
        result = study.result()
        assert (result.seen_study_instance_uids, result.modalities) == ("2.10;2.2", "CT;SR")
        assert (result.bytes, result.files) == (123, 4)

    @pytest.mark.parametrize(
        ("uids", "last"), [(20, "2.00019"), (21, "and 1 more"), (100_000, "and more than 9980 more")]
    )
    def test_of_very_many_the_first_are_named(self, uids: int, last: str) -> None:
        """No cell without end."""
        study = StudyTally(StudyEntry(1, "/archive/a"))
        for number in range(uids):
            study.add(Status.NOT_ATTEMPTED, Reason.STOPPED, "", f"2.{number:05}")
        cells = study.result().seen_study_instance_uids.split(";")
        assert (cells[0], cells[19], cells[-1]) == ("2.00000", "2.00019", last)
        assert len(cells) <= 21

    def test_of_very_many_the_first_are_held(self) -> None:
        values = DistinctValues()
        for number in range(100_000):
            values.add(f"2.{number:05}")
        assert len(values) == 10_000


class TestNotStored:
    """What was not stored, in words."""

    @pytest.mark.parametrize(
        ("by_status", "words"),
        [
            ({"uploaded": 1988, "failed": 90, "invalid": 2}, "92 of 2,080 files are not stored"),
            ({"uploaded": 2079, "conflict": 1}, "1 of 2,080 files is not stored"),
            ({"missing": 1}, "1 of 1 file is not stored"),
            ({"uploaded": 3, "duplicate": 1, "not_dicom": 2, "failed": 0}, ""),
            ({}, ""),
        ],
    )
    def test_counts_rows_whose_status_says_exit_one(self, by_status: dict[str, int], words: str) -> None:
        assert not_stored(by_status) == words


class TestStudy:
    """What the rows of one study add up to."""

    ENTRY = StudyEntry(
        1,
        "/archive/a",
        "2.1",
        expected_instances=2,
        priority=3,
        label="A",
        extra=(("x", "y"),),
        expected_bytes=2048,
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
            bytes=0,
            stored=1,
            failed=0,
            expected=2,
            expected_bytes=2048,
            complete=INCOMPLETE,
            why="1 fewer than expected",
            seen_study_instance_uids="2.1",
            modalities="",
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
        assert tally(self.ENTRY, lines).is_complete is complete

    def test_without_a_promise_one_instance_is_enough(self) -> None:
        """Files that are no images don't make a study incomplete."""
        lines = [(Status.UPLOADED, "1.2", "2.1"), (Status.NOT_DICOM, "", "")]
        assert tally(StudyEntry(1, "/archive/a"), lines).is_complete

    def test_only_files_that_are_no_images_is_neither(self) -> None:
        """A DICOMDIR and a README: said so, and no reason for exit 1."""
        result = tally(StudyEntry(1, "/archive/a"), [(Status.NOT_DICOM, "", "")] * 2)
        assert (result.complete, result.why, result.is_incomplete) == (NEITHER, "no image", False)

    @pytest.mark.parametrize("promise", [{"expected_instances": 2}, {"study_instance_uid": "2.1"}])
    def test_only_files_that_are_no_images_where_some_are_promised_is_incomplete(
        self, promise: dict[str, object]
    ) -> None:
        """The manifest knows better."""
        entry = StudyEntry(1, "/archive/a", **promise)  # type: ignore[arg-type]
        assert tally(entry, [(Status.NOT_DICOM, "", "")]).is_incomplete

    @pytest.mark.parametrize("status", sorted(EXIT_ONE))
    def test_a_row_that_says_exit_one_makes_it_incomplete(self, status: Status) -> None:
        """Whatever else is stored."""
        result = tally(StudyEntry(1, "/archive/a"), [(Status.UPLOADED, "1.2", "2.1"), (status, "1.3", "2.1")])
        assert (result.complete, result.failed) == (INCOMPLETE, 1)

    def test_covered_by_an_earlier_entry_is_no_reason_for_exit_one(self) -> None:
        """Its files have their rows under the earlier entry, and are judged there."""
        result = tally(StudyEntry(2, "/archive/a/b"), [], overlaps=1)
        assert (result.complete, result.why, result.is_incomplete) == (NEITHER, "", False)

    @pytest.mark.parametrize("promise", [{"expected_instances": 2}, {"study_instance_uid": "2.1"}])
    def test_covered_but_promised_is_incomplete(self, promise: dict[str, object]) -> None:
        """What the manifest promises of it was not checked, so nobody may rely on it."""
        entry = StudyEntry(2, "/archive/a/b", **promise)  # type: ignore[arg-type]
        assert tally(entry, [], overlaps=1).is_incomplete

    def test_no_rows_and_no_overlap_is_incomplete(self) -> None:
        """An empty directory is not a study."""
        assert tally(StudyEntry(2, "/archive/a"), []).is_incomplete

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
        assert tally(entry, lines).is_complete is rule


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
