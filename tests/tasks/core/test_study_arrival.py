"""When a study has arrived: the truth table of `is_complete`, line by line."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.study_arrival import Arrival, is_complete

QUIET_AFTER_S = 600.0
NOW, LONG_AGO = 0.0, 600.0


@pytest.mark.parametrize(
    ("study", "complete"),
    [
        # nothing came since the last completion
        (Arrival(registered=5, announced=5, quiet_s=LONG_AGO), False),
        (Arrival(registered=5, announced=5, expected=5), False),
        (Arrival(registered=0, quiet_s=LONG_AGO), False),
        # the manifest says how many
        (Arrival(registered=5, expected=5, quiet_s=NOW), True),
        (Arrival(registered=6, announced=5, expected=5, quiet_s=NOW), True),
        (Arrival(registered=4, expected=5, quiet_s=LONG_AGO), False),
        (Arrival(registered=4, expected=5, stored=4, stored_registered=4, quiet_s=LONG_AGO), False),
        # the upload's ledger does
        (Arrival(registered=5, stored=5, stored_registered=5, quiet_s=NOW), True),
        (Arrival(registered=5, stored=6, stored_registered=5, quiet_s=LONG_AGO), False),
        (Arrival(registered=6, stored=6, stored_registered=5, quiet_s=LONG_AGO), False),
        (Arrival(registered=5, stored=5, stored_registered=5, is_upload_at_work=True, quiet_s=NOW), False),
        (
            Arrival(registered=5, stored=5, stored_registered=5, is_upload_at_work=True, quiet_s=LONG_AGO),
            True,
        ),
        # nobody does
        (Arrival(registered=5, quiet_s=NOW), False),
        (Arrival(registered=5, quiet_s=LONG_AGO), True),
    ],
)
def test_is_as_the_table_says(study: Arrival, complete: bool) -> None:
    """With ten minutes of quiet."""
    assert is_complete(study, QUIET_AFTER_S) is complete


@given(
    st.builds(
        Arrival,
        registered=st.integers(0, 9),
        announced=st.integers(0, 9),
        expected=st.none() | st.integers(0, 9),
        stored=st.integers(0, 9),
        stored_registered=st.integers(0, 9),
        is_upload_at_work=st.booleans(),
        quiet_s=st.floats(0, 2000),
    )
)
def test_a_completion_that_was_announced_is_not_announced_again(study: Arrival) -> None:
    """Whatever else is known of the study: once per completion."""
    assert not is_complete(replace(study, announced=study.registered), QUIET_AFTER_S)
