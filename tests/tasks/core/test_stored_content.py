"""What a file is said to be that is not any more what is stored of its path."""

import pytest

from tasks.core.models import Header, Reason, Rejected, Status, StoredContent
from tasks.core.stored_content import judge_rejected

STORED = StoredContent("ab", "1.9", 10, 5)
OTHER_TIME = StoredContent("ab", "1.9", 10, 6)


def rejected(status: Status, reason: Reason, detail: str = "") -> Rejected:
    return Rejected(status, reason, Header("1.9"), size_bytes=10, mtime_ns=5, detail=detail)


class TestJudgeRejected:
    """The truth table of `judge_rejected`, line by line."""

    @pytest.mark.parametrize(
        ("stored", "status", "reason", "said", "why", "detail"),
        [
            (None, Status.NOT_DICOM, Reason.EMPTY, Status.NOT_DICOM, Reason.EMPTY, ""),
            (None, Status.INVALID, Reason.NO_UID, Status.INVALID, Reason.NO_UID, ""),
            (STORED, Status.UNREADABLE, Reason.IO_ERROR, Status.UNREADABLE, Reason.IO_ERROR, ""),
            (STORED, Status.TOO_LARGE, Reason.NONE, Status.TOO_LARGE, Reason.NONE, ""),
            (STORED, Status.CHANGED, Reason.NONE, Status.CHANGED, Reason.NONE, ""),
            (STORED, Status.INVALID, Reason.NO_UID, Status.CHANGED, Reason.ALTERED, ""),
            (OTHER_TIME, Status.INVALID, Reason.NO_UID, Status.CHANGED, Reason.DAMAGED, "no_uid"),
            (STORED, Status.INVALID, Reason.TRUNCATED, Status.CHANGED, Reason.DAMAGED, "truncated"),
            (STORED, Status.NOT_DICOM, Reason.TEXT, Status.CHANGED, Reason.DAMAGED, "text"),
        ],
    )
    def test_said(
        self,
        stored: StoredContent | None,
        status: Status,
        reason: Reason,
        said: Status,
        why: Reason,
        detail: str,
    ) -> None:
        """By what is stored, and what the file is now."""
        found = judge_rejected(rejected(status, reason), stored)
        assert (found.status, found.reason, found.detail) == (said, why, detail)

    def test_what_the_file_is_now_is_said_as_closely_as_it_is_known(self) -> None:
        """Zeros are more than truncated."""
        found = judge_rejected(rejected(Status.INVALID, Reason.TRUNCATED, "zeros"), STORED)
        assert (found.reason, found.detail) == (Reason.DAMAGED, "zeros")
