"""Which files an earlier run has settled, and how batches grow."""

from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.models import Listed, Status
from tasks.core.plan import Known, Rules, Standing, batch_target, cut, standing

SIZE, MTIME, LATER = 1000, 5 * 10**18, 6 * 10**18
CTIME, SECOND = MTIME + 7, 10**9
LISTED = Listed(1, 1, "/archive/a", SIZE, MTIME, CTIME)
STORED = Known(7, Status.UPLOADED, SIZE, MTIME)
OLD, YOUNG = Rules(), Rules(changed_before_ns=MTIME - 1)
REHASH, NO_CTIME = Rules(rehash=True), Rules(trust_ctime=False)


class TestStanding:
    """The truth table of `standing`, line by line."""

    @pytest.mark.parametrize(
        ("known", "rules", "found"),
        [
            (STORED, OLD, Standing.SETTLED),
            (STORED, YOUNG, Standing.SETTLED),
            (Known(7, Status.DUPLICATE, SIZE, MTIME), OLD, Standing.SETTLED),
            (STORED, REHASH, Standing.TO_DO),
            (STORED, Rules(rehash=True, changed_before_ns=MTIME - 1), Standing.TOO_YOUNG),
            (Known(7, Status.UPLOADED, SIZE + 1, MTIME), OLD, Standing.TO_DO),
            (Known(7, Status.UPLOADED, SIZE, MTIME + 1), OLD, Standing.TO_DO),
            (Known(7, Status.UPLOADED, SIZE, MTIME + 1), YOUNG, Standing.TOO_YOUNG),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME), OLD, Standing.SETTLED),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME + 1), OLD, Standing.TOUCHED),
            (Known(7, Status.DUPLICATE, SIZE, MTIME, CTIME + 1), YOUNG, Standing.TOUCHED),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME + 1), NO_CTIME, Standing.SETTLED),
            (Known(7, Status.UPLOADED, SIZE + 1, MTIME, CTIME + 1), OLD, Standing.TO_DO),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME, MTIME + 2 * SECOND), OLD, Standing.SETTLED),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME, MTIME + 2 * SECOND - 1), OLD, Standing.TO_DO),
            (Known(7, Status.UPLOADED, SIZE, MTIME, CTIME, MTIME - SECOND), YOUNG, Standing.TO_DO),
            (Known(7, Status.UPLOADED, SIZE, MTIME, None, MTIME), NO_CTIME, Standing.TO_DO),
            (
                Known(7, "", None, None),
                Rules(changed_before_ns=0, changed_until_ns=MTIME - 1),
                Standing.TO_DO,
            ),
            (
                Known(7, "", None, None),
                Rules(changed_before_ns=0, changed_until_ns=MTIME),
                Standing.TOO_YOUNG,
            ),
            (Known(7, "", None, None), OLD, Standing.TO_DO),
            (Known(7, "", None, None), YOUNG, Standing.TOO_YOUNG),
        ],
    )
    def test_of_a_file(self, known: Known, rules: Rules, found: Standing) -> None:
        """What is stored and unchanged is settled whatever its age; everything else is looked at in time."""
        assert standing(known, LISTED, rules) is found

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.UPLOADED, Status.DUPLICATE}))
    def test_of_what_is_not_stored_is_never_settled(self, status: Status) -> None:
        """Every status but uploaded and duplicate is looked at afresh."""
        assert standing(Known(7, status, SIZE, MTIME), LISTED, OLD) is Standing.TO_DO

    def test_a_file_exactly_of_the_age_asked_for_is_old_enough(self) -> None:
        """Younger files are left alone, this one is not."""
        known = Known(7, "", None, None)
        assert standing(known, LISTED, Rules(changed_before_ns=MTIME)) is Standing.TO_DO


class TestBatchTarget:
    @pytest.mark.parametrize(
        ("files", "most"), [(1, 1), (10_000, 20), (2_000_000, 160), (10_000_000, 400), (50_000_000, 1_300)]
    )
    def test_keeps_the_number_of_batches_small(self, files: int, most: int) -> None:
        """Prefect has a task run for each: hundreds for tens of millions of files."""
        totals = accumulate(map(batch_target, count(1)))
        assert next(number for number, total in enumerate(totals, 1) if total >= files) <= most

    @given(st.integers(1, 10**6))
    def test_grows_and_stays_bounded(self, batch_no: int) -> None:
        """The first is small, so that uploads start soon; none is so large that a retry of it is dear."""
        assert 500 == batch_target(1) <= batch_target(batch_no) <= batch_target(batch_no + 1) <= 50_000


class TestCut:
    def test_balances_whole_studies(self) -> None:
        """Each study in one shard, the manifest's order kept in each."""
        weights = {1: 10, 2: 1, 3: 9, 4: 8, 5: 2, 6: 6}
        shards = cut(weights, 3)
        assert sorted(study_no for shard in shards for study_no in shard) == list(weights)
        assert shards == [sorted(shard) for shard in shards]
        assert [sum(weights[study_no] for study_no in shard) for shard in shards] == [11, 11, 14]

    def test_leaves_out_shards_without_a_study(self) -> None:
        assert cut({1: 5, 2: 5}, 4) == [[1], [2]]
        assert cut({}, 4) == []

    def test_spreads_empty_studies(self) -> None:
        assert cut(dict.fromkeys(range(1, 5), 0), 2) == [[1, 3], [2, 4]]
