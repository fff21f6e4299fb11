"""The declaration of the report's columns, and what derives from it."""

import pytest

from tasks.core.report_columns import COLUMNS, REPORT_COLUMNS, Escaped, Kind, ReportRow, blank
from tests.report_columns_table import column_table


def test_are_those_that_other_people_s_scripts_rely_on() -> None:
    """DESIGN.md section 6: these names, in this order."""
    assert ", ".join(REPORT_COLUMNS) == (
        "study_no, file_no, study_dir, path, status, reason, key, sop_instance_uid, study_instance_uid, "
        "series_instance_uid, sop_class_uid, transfer_syntax_uid, size_bytes, sha256, md5, etag, attempts, "
        "superseded_keys, http_status, started_at, finished_at, duration_s, run_id, crc64nvme, "
        "detail, same_uid_path"
    )


def test_a_row_has_them_all_in_the_same_order() -> None:
    """And behind them what is of studies.csv alone."""
    assert ReportRow._fields[: len(REPORT_COLUMNS)] == REPORT_COLUMNS


def test_whatever_comes_from_outside_is_escaped() -> None:
    """Paths, and what API and store make up; the rest is ours, or digits and dots."""
    escaped = {name for name, column in COLUMNS.items() if column.escaped is not Escaped.NOBODY}
    assert escaped == {"study_dir", "path", "same_uid_path", "key", "etag", "superseded_keys"}
    assert all(COLUMNS[name].kind is Kind.TEXT for name in escaped)


@pytest.mark.parametrize(
    ("name", "value"), [("key", ""), ("attempts", 0), ("size_bytes", None), ("started_at", None)]
)
def test_blank_is_what_the_type_has_for_it(name: str, value: object) -> None:
    """Text is empty, a count is 0, anything else is not known."""
    assert blank(name) == value


def test_the_table_has_a_row_for_each_and_a_sentence_in_it() -> None:
    """None twice, for a reader learns nothing from that."""
    rows = column_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(REPORT_COLUMNS)
    sentences = [column.sentence for column in COLUMNS.values()]
    assert all(sentences)
    assert len(set(sentences)) == len(sentences)
    assert not any("|" in sentence for sentence in sentences)
