"""The tables of a report: what is in them, and what it costs to write them."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from pyarrow import parquet

from tasks.core.errors import InternalError
from tasks.core.models import StudyEntry, Summary
from tasks.core.report_columns import REPORT_COLUMNS
from tasks.report.directory import write_report
from tasks.report.reader import read_not_complete, read_report, read_summary, read_table
from tasks.report.studies_csv import STUDY_COLUMNS
from tests.tasks.report.sample_report import STARTED_NS, STUDY, UNSENT, contents, facts, lines_of, row, write


class TestRows:
    """report.csv and report.parquet."""

    def test_columns_are_the_contract_s_in_both(self, tmp_path: Path) -> None:
        """In this order, in CSV and in Parquet."""
        write(tmp_path, [row()])
        assert tuple((tmp_path / "report.csv").read_text().splitlines()[0].split(",")) == REPORT_COLUMNS
        assert tuple(parquet.read_schema(tmp_path / "report.parquet").names) == REPORT_COLUMNS

    def test_times_are_iso_8601_utc_and_the_duration_follows(self, tmp_path: Path) -> None:
        """Nanoseconds in the ledger, microseconds in the report."""
        write(tmp_path, [row()])
        (line,) = read_report(tmp_path)
        assert line["started_at"] == "2023-11-14T22:13:20.123456Z"
        assert line["finished_at"] == "2023-11-14T22:13:20.373456Z"
        assert line["duration_s"] == "0.25"

    def test_empty_means_not_known(self, tmp_path: Path) -> None:
        """Numbers and times that nobody has are empty cells, and null or empty text in Parquet."""
        write(tmp_path, [row(UNSENT, status="not_attempted", reason="stopped")])
        unknown = ("size_bytes", "http_status", "duration_s", "started_at", "finished_at", "key", "run_id")
        (line,) = read_report(tmp_path)
        (typed,) = parquet.read_table(tmp_path / "report.parquet").to_pylist()
        assert [line[name] for name in unknown] == [""] * 7
        assert [typed[name] for name in unknown] == [None, None, None, "", "", "", ""]

    @pytest.mark.parametrize(
        "name",
        [b'IM 1,2;"3"', b"=1+1", b"new\nline\r\n", b"caf\xe9", "Ä\u202e\u2028".encode(), b"a\\x41\\", b"-7"],
        ids=["quotes", "formula", "newlines", "latin-1", "bidi", "backslash", "minus"],
    )
    def test_any_path_comes_back_as_the_operating_system_has_it(self, tmp_path: Path, name: bytes) -> None:
        """Through the CSV, row by row and as a table."""
        path = name.decode("utf-8", "surrogateescape")
        write(tmp_path, [row(path=path, same_uid_path=path)])
        assert [(line["path"], line["same_uid_path"]) for line in read_report(tmp_path)] == [(path, path)]
        assert list(read_table(tmp_path)["path"]) == list(read_table(tmp_path)["same_uid_path"]) == [path]

    def test_text_from_the_far_side_is_escaped_and_comes_back(self, tmp_path: Path) -> None:
        """A key or ETag can't be a formula for a spreadsheet nor a line of its own."""
        outside = {"key": "=cmd()", "etag": '"a\nb"', "superseded_keys": "@a\x00;b"}
        write(tmp_path, [row(**outside)])
        (written,) = lines_of(tmp_path / "report.csv")
        assert written["key"] == "\\x3dcmd()"
        assert not any("\n" in cell or "\x00" in cell for cell in written.values())
        (line,) = read_report(tmp_path)
        assert {name: line[name] for name in outside} == outside

    def test_uids_and_digests_stay_text(self, tmp_path: Path) -> None:
        """1.10 is not 1.1, and a digest of digits with an e in it is no number."""
        write(tmp_path, [row(), row(file_no=2, study_instance_uid="1.20", series_instance_uid="NA")])
        table = read_table(tmp_path)
        assert list(table["study_instance_uid"]) == ["1.2", "1.20"]
        assert list(table["series_instance_uid"]) == ["1.10", "NA"]
        assert list(table["md5"]) == ["1e10" * 8] * 2
        assert set(map(type, table.to_numpy().ravel())) == {str}
        assert table.to_dict("records") == list(read_report(tmp_path))

    def test_csv_and_parquet_agree(self, tmp_path: Path) -> None:
        """Cell by cell, over more than one chunk."""
        count = 45_000
        codes = (None, 200, 503)
        write(tmp_path, [row(file_no=n, path=f"/\n/{n}", http_status=codes[n % 3]) for n in range(count)])
        typed = parquet.read_table(tmp_path / "report.parquet")
        text = {
            name: ["" if cell is None else str(cell) for cell in column.to_pylist()]
            for name, column in zip(typed.column_names, typed.columns, strict=True)
        }
        written = lines_of(tmp_path / "report.csv")
        assert len(written) == typed.num_rows == count
        assert {name: [line[name] for line in written] for name in REPORT_COLUMNS} == text

    def test_a_report_without_rows_has_its_columns(self, tmp_path: Path) -> None:
        """Nothing was found: the tables are empty, and still tables."""
        summary = write(tmp_path, [], studies=[])
        assert (summary.files, summary.by_status, summary.exit_code) == (0, {}, 0)
        assert list(read_report(tmp_path)) == []
        assert tuple(read_table(tmp_path).columns) == REPORT_COLUMNS
        assert parquet.read_table(tmp_path / "report.parquet").num_rows == 0

    def test_rows_that_jump_between_studies_are_refused(self, tmp_path: Path) -> None:
        """Counts would be wrong, so there is no report rather than a false one."""
        studies = [StudyEntry(1, "/a"), StudyEntry(2, "/b")]
        with pytest.raises(InternalError):
            write(tmp_path, [row(), row(study_no=2), row(file_no=2)], studies)
        assert contents(tmp_path) == {}


class TestStudies:
    """studies.csv."""

    def test_counts_of_each_entry_in_manifest_order(self, tmp_path: Path) -> None:
        """Also of entries that have no row."""
        studies = [
            StudyEntry(
                1, "/archive/a", "1.2", expected_instances=2, priority=5, label="A", expected_bytes=3000
            ),
            StudyEntry(2, "/archive/b"),
            StudyEntry(3, "/archive/c"),
        ]
        rows = [
            row(),
            row(file_no=2, status="duplicate"),
            row(file_no=3, status="already_uploaded", sop_instance_uid="1.3"),
            row(UNSENT, study_no=3, status="missing", reason="not_found"),
        ]
        write(tmp_path, rows, studies)
        header, *lines = (tmp_path / "studies.csv").read_text().splitlines()
        assert tuple(header.split(",")) == STUDY_COLUMNS
        assert lines == [
            "1,/archive/a,A,1.2,5,3,3000,2,0,2,3000,true,,1.2,CT,,,,",
            "2,/archive/b,,,0,0,0,0,0,,,false,no file,,,,,,",
            "3,/archive/c,,,0,1,0,0,1,,,false,1 not_found,,,,,,",
        ]

    def test_what_was_seen_and_why_it_is_not_complete(self, tmp_path: Path) -> None:
        """One study after the other: nothing of one is said of the next."""
        studies = [StudyEntry(1, "/archive/a", "1.2", expected_instances=3), StudyEntry(2, "/archive/b")]
        rows = [
            row(),
            row(file_no=2, sop_instance_uid="1.4", study_instance_uid="1.9", modality="SR", size_bytes=7),
            row(UNSENT, file_no=3, status="invalid", reason="truncated", size_bytes=30),
            row(UNSENT, study_no=2, status="not_dicom", reason="dicomdir", size_bytes=4),
            row(UNSENT, study_no=2, file_no=2, status="not_dicom", reason="text"),
        ]
        summary = write(tmp_path, rows, studies)
        first, second = read_report(tmp_path / "studies.csv")
        assert first["why"] == (
            "1 truncated; 1 fewer than expected; another Study Instance UID than the manifest says"
        )
        assert (first["seen_study_instance_uids"], first["modalities"]) == ("1.2;1.9", "CT;SR")
        assert (first["bytes"], first["complete"]) == ("1037", "false")
        assert (second["why"], second["complete"], second["bytes"]) == ("no image", "", "4")
        assert (second["seen_study_instance_uids"], second["modalities"]) == ("", "")
        assert (summary.complete_studies, summary.exit_code) == (0, 1)

    def test_a_study_without_images_is_no_reason_for_exit_1(self, tmp_path: Path) -> None:
        """Unless the manifest promises some, or there is no file at all."""
        readme = row(UNSENT, status="not_dicom", reason="text")
        assert write(tmp_path, [readme]).exit_code == 0
        assert write(tmp_path, [readme], [StudyEntry(1, STUDY, expected_instances=1)]).exit_code == 1
        assert write(tmp_path, [readme], [StudyEntry(1, STUDY, "1.2")]).exit_code == 1
        assert write(tmp_path, []).exit_code == 1

    def test_those_that_are_not_complete_are_counted_and_the_first_are_given(self, tmp_path: Path) -> None:
        """For a terminal and the UI: text as it is safe to show."""
        studies = [StudyEntry(n, f"/archive/{n}", label=f"=l{n}") for n in range(1, 8)]
        rows = [
            row(study_no=1),
            row(UNSENT, study_no=2, status="missing", reason="not_found"),
            row(UNSENT, study_no=3, status="not_dicom", reason="text"),
        ]
        write(tmp_path, rows, studies, overlaps={7: 1})
        found = read_not_complete(tmp_path, most=2)
        assert (found.incomplete, found.without_image) == (4, 1)
        assert [(each["study_no"], each["label"], each["why"]) for each in found.first] == [
            ("2", "\\x3dl2", "1 not_found"),
            ("4", "\\x3dl4", "no file"),
        ]

    def test_those_of_a_report_by_an_earlier_version_have_no_reason(self, tmp_path: Path) -> None:
        """Its studies.csv has neither `why` nor `bytes`."""
        (tmp_path / "studies.csv").write_text("study_no,label,complete\n1,A,false\n2,B,true\n3,C,\n")
        found = read_not_complete(tmp_path, most=9)
        assert (found.incomplete, found.without_image) == (1, 0)
        assert [(each["label"], each["why"], each["bytes"]) for each in found.first] == [("A", "", "")]

    def test_unknown_columns_are_carried(self, tmp_path: Path) -> None:
        """As they came; a name that studies.csv has itself gets `manifest_` in front."""
        studies = [
            StudyEntry(
                1, "/a", extra=(("ward", "=4B"), ("files", "12"), ("manifest_files", "13"), ("why", "x"))
            ),
            StudyEntry(2, "/b", extra=(("note", "caf\udce9\n"),)),
        ]
        write(tmp_path, [], studies)
        first, second = read_report(tmp_path / "studies.csv")
        assert (first["ward"], first["note"], first["files"]) == ("=4B", "", "0")
        assert (first["manifest_files"], first["manifest_manifest_files"]) == ("12", "13")
        assert (first["why"], first["manifest_why"]) == ("no file", "x")
        assert second["note"] == "caf\udce9\n"
        assert list(read_table(tmp_path / "studies.csv")["note"]) == ["", "caf\udce9\n"]

    def test_a_covered_entry_is_neither_complete_nor_incomplete(self, tmp_path: Path) -> None:
        """`complete` is empty, `overlaps` names the earlier entry, and the exit code is 0."""
        summary = write(tmp_path, [row()], [StudyEntry(1, STUDY), StudyEntry(2, f"{STUDY}/b")], {2: 1})
        covered = list(read_report(tmp_path / "studies.csv"))[1]
        assert (covered["complete"], covered["overlaps"]) == ("", "1")
        assert (summary.studies, summary.complete_studies, summary.exit_code) == (2, 1, 0)


class TestSummary:
    """summary.json."""

    def test_numbers_of_the_run(self, tmp_path: Path) -> None:
        """Bytes and rates are those of the files that this run sent."""
        rows = [
            row(),
            row(file_no=2, sop_instance_uid="1.4", size_bytes=500),
            row(file_no=3, status="already_uploaded", sop_instance_uid="1.5", size_bytes=70),
            row(UNSENT, file_no=4, status="not_dicom", reason="text"),
        ]
        summary = write(tmp_path, rows, run=facts(problems=["Study 2 overlaps study 1."]))
        assert summary == Summary(
            run_id="run-1",
            campaign="default",
            files=4,
            bytes=1500,
            by_status={"uploaded": 2, "already_uploaded": 1, "not_dicom": 1},
            studies=1,
            complete_studies=1,
            started_at="2023-11-14T22:13:20.123456Z",
            finished_at="2023-11-14T22:13:22.123456Z",
            wall_s=2.0,
            files_per_s=1.0,
            bytes_per_s=750.0,
            peak_parallel=20,
            exit_code=0,
            problems=["Study 2 overlaps study 1."],
        )
        assert read_summary(tmp_path) == summary

    def test_keys_come_in_the_contract_s_order(self, tmp_path: Path) -> None:
        """For people who read it as text."""
        write(tmp_path, [row()])
        assert list(json.loads((tmp_path / "summary.json").read_text())) == list(Summary.__dataclass_fields__)

    @pytest.mark.parametrize(
        ("stopped", "status", "code"),
        [
            (None, "uploaded", 0),
            (None, "failed", 1),
            (3, "uploaded", 3),
            (3, "failed", 3),
            (130, "not_attempted", 130),
        ],
    )
    def test_exit_code(self, tmp_path: Path, stopped: int | None, status: str, code: int) -> None:
        """The rows say 0 or 1; a run that ended early says why instead."""
        assert write(tmp_path, [row(status=status)], run=facts(stopped_exit_code=stopped)).exit_code == code

    def test_a_run_of_no_time_has_no_rate(self, tmp_path: Path) -> None:
        """Nor a division by zero."""
        summary = write(tmp_path, [row()], run=facts(finished_ns=STARTED_NS))
        assert (summary.wall_s, summary.files_per_s, summary.bytes_per_s) == (0.0, 0.0, 0.0)


class TestCost:
    """Memory and start-up."""

    @pytest.mark.long
    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        """A hundred thousand rows pass through the memory of one chunk."""
        count = 100_000
        studies = [StudyEntry(n, f"/archive/{n}") for n in range(count // 500)]
        first = row()
        rows = (
            first._replace(study_no=n // 500, file_no=n % 500, path=f"/archive/{n}") for n in range(count)
        )
        tracemalloc.start()
        try:
            write_report(tmp_path, facts(), studies, {}, rows)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 45_000_000  # rows that pile up would add 33 MB, their CSV 50

    def test_first_row_groups_of_parquet_are_small(self, tmp_path: Path) -> None:
        """One of four MiB takes a hundred to write, also in a report that has no more."""
        from pyarrow import parquet

        count = 6000
        first = row()
        rows = (first._replace(file_no=n, path=f"/archive/{n:0500}") for n in range(count))
        write_report(tmp_path, facts(), [StudyEntry(first.study_no, "/archive")], {}, rows)
        metadata = parquet.read_metadata(tmp_path / "report.parquet")
        in_groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        assert sum(in_groups) == count
        assert max(in_groups) <= 1000

    @pytest.mark.processes
    def test_importing_it_loads_neither_pandas_nor_pyarrow(self) -> None:
        """`upload` starts fast: they are loaded when a report is written."""
        code = "import sys, tasks.report.reader; print({'pandas', 'pyarrow', 'numpy'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
