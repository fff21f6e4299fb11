"""The report directory: what is in it, whole or not at all, and how it reads back."""

import csv
import errno
import io
import json
import os
import resource
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tasks.core.errors import InternalError, StoppedError, UsageError
from tasks.core.escape import escape
from tasks.core.models import REPORT_COLUMNS, ROW_COLUMNS, StudyEntry, Summary
from tasks.report.directory import (
    FILES,
    STUDY_COLUMNS,
    ReportRow,
    RunFacts,
    read_not_complete,
    read_report,
    read_summary,
    read_table,
    write_report,
)

STUDY = "/archive/Müller Ä"
STARTED_NS = 1_700_000_000_123_456_789
UPLOADED: dict[str, Any] = {
    "study_no": 1,
    "file_no": 1,
    "study_dir": STUDY,
    "path": f"{STUDY}/IM0001",
    "status": "uploaded",
    "reason": "",
    "key": "uploads/0001.dcm",
    "sop_instance_uid": "1.2.840.1",
    "study_instance_uid": "1.2",
    "series_instance_uid": "1.10",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    "size_bytes": 1000,
    "sha256": "0" * 63 + "1",
    "md5": "1e10" * 8,
    "etag": '"1e101e10"',
    "attempts": 1,
    "superseded_keys": "",
    "http_status": 200,
    "started_at": STARTED_NS,
    "finished_at": STARTED_NS + 250_000_000,
    "duration_s": None,
    "run_id": "run-1",
    "same_uid_path": "",
    "modality": "CT",
}
UNSENT: dict[str, Any] = UPLOADED | {
    **dict.fromkeys(("sop_instance_uid", "study_instance_uid", "series_instance_uid", "sop_class_uid"), ""),
    **dict.fromkeys(("transfer_syntax_uid", "key", "sha256", "md5", "etag", "run_id", "modality"), ""),
    **dict.fromkeys(("size_bytes", "http_status", "started_at", "finished_at")),
    "attempts": 0,
}


def row(base: dict[str, Any] = UPLOADED, **cells: Any) -> ReportRow:
    """A row as the ledger gives it, from paths as the operating system has them."""
    line = base | cells
    line |= {name: escape(line[name]) for name in ("study_dir", "path", "same_uid_path")}
    return tuple(line[name] for name in ROW_COLUMNS)


def facts(run_id: str = "run-1", **changes: Any) -> RunFacts:
    return RunFacts(
        **{
            "run_id": run_id,
            "campaign": "default",
            "started_ns": STARTED_NS,
            "finished_ns": STARTED_NS + 2_000_000_000,
            "peak_parallel": 20,
            **changes,
        }
    )


def write(
    report_dir: Path,
    rows: list[ReportRow],
    studies: list[StudyEntry] | None = None,
    overlaps: dict[int, int] | None = None,
    run: RunFacts | None = None,
) -> Summary:
    entries = studies if studies is not None else [StudyEntry(1, STUDY)]
    return write_report(report_dir, run or facts(), entries, overlaps or {}, iter(rows))


def contents(report_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in report_dir.iterdir() if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


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
        """Also of entries that have no row, and whatever order the entries come in."""
        studies = [
            StudyEntry(3, "/archive/c"),
            StudyEntry(
                1, "/archive/a", "1.2", expected_instances=2, priority=5, label="A", expected_bytes=3000
            ),
            StudyEntry(2, "/archive/b"),
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
            "1,/archive/a,A,1.2,5,3,3000,2,0,2,3000,true,,1.2,CT,,,",
            "2,/archive/b,,,0,0,0,0,0,,,false,no file,,,,,",
            "3,/archive/c,,,0,1,0,0,1,,,false,1 not_found,,,,,",
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


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to write further into any file of this process, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at_rename(number: int) -> Iterator[None]:
    """The process dies when it is about to rename its n-th file."""
    rename, count = Path.rename, iter(range(number))

    def rename_or_die(path: Path, target: Path) -> Path:
        if next(count, None) is None:
            raise Killed
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_die)
        yield


class TestAtomic:
    """Whole or not at all."""

    def test_only_the_owner_can_read_it(self, tmp_path: Path) -> None:
        """Paths name patients: the directory is 0700, its files are 0600, and nothing else lies about."""
        report_dir = tmp_path / "new" / "report"
        write(report_dir, [row()])
        assert mode(report_dir) == 0o700
        assert {path.name: mode(path) for path in report_dir.iterdir()} == dict.fromkeys(FILES, 0o600)

    @pytest.mark.parametrize(("rows", "limit"), [(1, 3000), (3000, 100_000)], ids=["parquet", "csv"])
    def test_a_write_that_fails_leaves_the_earlier_report_alone(
        self, tmp_path: Path, rows: int, limit: int
    ) -> None:
        """Whichever file it is that could not be written, every byte of the earlier report is still there."""
        write(tmp_path, [row()])
        earlier = contents(tmp_path)
        lines = [row(file_no=n, path=f"/a/{n}") for n in range(rows)]
        with file_size_limit(limit), pytest.raises(StoppedError, match="file too large"):
            write(tmp_path, lines, run=facts("run-2"))
        assert contents(tmp_path) == earlier

    @pytest.mark.parametrize(
        ("code", "what"),
        [
            (
                errno.ENOSPC,
                "no space left on device. Free space on the report directory's disk",
            ),
            (
                errno.EROFS,
                "read-only file system. Make the report directory writable",
            ),
            (
                errno.EIO,
                "input/output error. Put that right",
            ),
        ],
    )
    def test_one_sentence_says_what_to_do(self, tmp_path: Path, code: int, what: str) -> None:
        """Without the path that the operating system's error carries."""

        def rows() -> Iterator[ReportRow]:
            yield row()
            raise OSError(code, "text", "/archive/Doe^Jane")

        with pytest.raises(StoppedError) as caught:
            write_report(tmp_path, facts(), [StudyEntry(1, STUDY)], {}, rows())
        sentence = f"The report could not be written: {what}, then run `dicom-ingest report REPORT_DIR`."
        assert str(caught.value) == sentence
        assert contents(tmp_path) == {}

    def test_a_report_directory_that_is_a_file_is_told(self, tmp_path: Path) -> None:
        """And that file is left alone."""
        (tmp_path / "report").write_text("mine")
        with pytest.raises(StoppedError, match="could not be written: file exists"):
            write(tmp_path / "report", [row()])
        assert (tmp_path / "report").read_text() == "mine"

    def test_what_a_killed_run_left_is_no_hindrance(self, tmp_path: Path) -> None:
        """Half a draft is thrown away, whoever could read it."""
        (tmp_path / ".report.csv.tmp").write_text("half")
        (tmp_path / ".report.csv.tmp").chmod(0o644)
        write(tmp_path, [row()])
        assert set(contents(tmp_path)) == set(FILES)
        assert mode(tmp_path / "report.csv") == 0o600

    @pytest.mark.parametrize("new_run", ["run-1", "run-2"])
    @pytest.mark.parametrize("number", range(9))
    def test_a_kill_between_renames_never_leaves_a_mix(
        self, tmp_path: Path, number: int, new_run: str
    ) -> None:
        """What `read_summary` takes for whole is of one run; and the next run mends what is not."""
        two = [row(), row(file_no=2, sop_instance_uid="1.9")]
        write(tmp_path, [row()])
        with killed_at_rename(number), suppress(Killed):
            write(tmp_path, two, run=facts(new_run))
        with suppress(UsageError):
            whole = read_summary(tmp_path)
            assert set(rows_in(tmp_path).values()) == {whole.files}
        assert write(tmp_path, two, run=facts("run-3")) == read_summary(tmp_path)
        assert set(rows_in(tmp_path).values()) == {2}


def rows_in(report_dir: Path) -> dict[str, int]:
    """How many files each table of a report tells of."""
    return {
        "report.csv": len(lines_of(report_dir / "report.csv")),
        "report.parquet": parquet.read_metadata(report_dir / "report.parquet").num_rows,
        "studies.csv": sum(int(line["files"]) for line in lines_of(report_dir / "studies.csv")),
    }


FIRST = "20231114T221320.123456Z-0"  # when the run of `facts` started, and how it ended


def kept_in(directory: Path) -> dict[str, dict[str, bytes]]:
    """The earlier reports of a report directory, by the names of their directories."""
    places = sorted((directory / "runs").iterdir()) if (directory / "runs").exists() else []
    return {place.name: contents(place) for place in places}


class TestEarlierReport:
    """What becomes of the report that is there."""

    def test_moves_to_a_directory_of_its_own(self, tmp_path: Path) -> None:
        """Byte for byte, named for its start and exit code, and readable as it was."""
        write(tmp_path, [row()])
        for name in ("certificate.json", "certificate.sig"):
            (tmp_path / name).write_text(name)
        first = contents(tmp_path)
        write(tmp_path, [row(status="already_uploaded")], run=facts("run-2"))
        assert kept_in(tmp_path) == {FIRST: first}
        assert set(contents(tmp_path)) == set(FILES)
        assert read_summary(tmp_path).run_id == "run-2"
        earlier = tmp_path / "runs" / FIRST
        assert read_summary(earlier).run_id == "run-1"
        assert [line["status"] for line in read_report(earlier)] == ["uploaded"]

    def test_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        """Whoever can list `runs/` knows when there was what trouble."""
        write(tmp_path, [row()])
        write(tmp_path, [row()], run=facts("run-2"))
        assert mode(tmp_path / "runs") == mode(tmp_path / "runs" / FIRST) == 0o700
        assert {mode(path) for path in (tmp_path / "runs" / FIRST).iterdir()} == {0o600}

    @pytest.mark.parametrize("code", [1, 3, 130])
    def test_is_named_for_its_exit_code(self, tmp_path: Path, code: int) -> None:
        write(tmp_path, [row()], run=facts(stopped_exit_code=code))
        write(tmp_path, [row()], run=facts("run-2"))
        assert list(kept_in(tmp_path)) == [f"20231114T221320.123456Z-{code}"]

    def test_of_the_same_run_is_replaced(self, tmp_path: Path) -> None:
        """A run has one report."""
        write(tmp_path, [row()])
        write(tmp_path, [row(), row(file_no=2)])
        assert (set(contents(tmp_path)), kept_in(tmp_path)) == (set(FILES), {})
        assert read_summary(tmp_path).files == 2

    def test_never_overwrites_another_of_its_name(self, tmp_path: Path) -> None:
        """Runs that began in the same microsecond, by clocks that were set back."""
        write(tmp_path, [row()])
        texts = [(tmp_path / "summary.json").read_bytes()]
        for number in (2, 3, 4):
            write(tmp_path, [row()], run=facts(f"run-{number}"))
            texts.append((tmp_path / "summary.json").read_bytes())
        kept = kept_in(tmp_path)
        assert list(kept) == [FIRST, f"{FIRST}-2", f"{FIRST}-3"]
        assert [each["summary.json"] for each in kept.values()] == texts[:3]

    def test_that_an_earlier_version_kept_stays_where_it_is(self, tmp_path: Path) -> None:
        """`report.<run_id>.csv`, as its operator's scripts know it."""
        write(tmp_path, [row()])
        (tmp_path / "report.run-0.csv").write_text("earlier")
        write(tmp_path, [row()], run=facts("run-2"))
        assert (tmp_path / "report.run-0.csv").read_text() == "earlier"

    @pytest.mark.parametrize(
        "summary",
        [
            '{"run_id": "1", "started_at": "../../etc", "exit_code": 0}',
            '{"run_id": "1", "started_at": "2023-11-14T22:13:20Z", "exit_code": "../x"}',
            '{"run_id": "1", "started_at": "2023-11-14T22:13:20Z", "exit_code": 1e400}',
            '{"run_id": "1", "started_at": "0001-01-01T00:00:00+23:00", "exit_code": 1}',
            '{"run_id": 7}',
            "[]",
            "{",
            "[" * 100_000,
            None,
        ],
    )
    def test_without_a_summary_that_can_be_read_goes_by_its_time(
        self, tmp_path: Path, summary: str | None
    ) -> None:
        """Text from a file is no place to write to."""
        write(tmp_path, [row()])
        (tmp_path / "summary.json").unlink()
        if summary is not None:
            (tmp_path / "summary.json").write_text(summary)
        for path in tmp_path.iterdir():
            os.utime(path, ns=(0, 1_700_000_000_123_456_789))
        there = contents(tmp_path)
        write(tmp_path, [row()], run=facts("run-2"))
        assert kept_in(tmp_path) == {"20231114T221320.123456Z-unknown": there}

    @pytest.mark.parametrize("seconds", [-(2**40), 2**33])
    def test_of_an_odd_time_is_kept_all_the_same(self, tmp_path: Path, seconds: int) -> None:
        """Whatever the clock said."""
        write(tmp_path, [row()])
        (tmp_path / "summary.json").write_text("{")
        with suppress(OSError):  # a file system may refuse it
            os.utime(tmp_path / "summary.json", (seconds, seconds))
        write(tmp_path, [row()], run=facts("run-2"))
        assert len(kept_in(tmp_path)) == 1

    @pytest.mark.parametrize("with_summary", [True, False])
    @pytest.mark.parametrize("number", range(6))
    def test_is_moved_whole_also_by_a_run_that_was_killed(
        self, tmp_path: Path, number: int, with_summary: bool
    ) -> None:
        """The next run finishes what was begun: one directory, with all of it."""
        write(tmp_path, [row()])
        for name in ("certificate.json", "certificate.sig"):
            (tmp_path / name).write_text(name)
        if not with_summary:
            (tmp_path / "summary.json").unlink()
        first = contents(tmp_path)
        with killed_at_rename(number), suppress(Killed):
            write(tmp_path, [row()], run=facts("run-2"))
        write(tmp_path, [row()], run=facts("run-3"))
        kept = kept_in(tmp_path)
        assert first in kept.values()
        assert sum("certificate.json" in each for each in kept.values()) == 1

    def test_that_can_not_be_moved_stays(self, tmp_path: Path) -> None:
        """Something of another kind has the name `runs`; one sentence, and no draft left."""
        write(tmp_path, [row()])
        (tmp_path / "runs").write_text("mine")
        before = contents(tmp_path)
        with pytest.raises(StoppedError, match="could not be written: file exists"):
            write(tmp_path, [row()], run=facts("run-2"))
        assert contents(tmp_path) == before


class TestReading:
    """A report that can't be read is told in one sentence."""

    @pytest.mark.parametrize("read", [read_summary, read_table, lambda path: list(read_report(path))])
    def test_no_report(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        """Where none was written."""
        with pytest.raises(UsageError, match="no whole report"):
            read(tmp_path)

    def test_a_summary_without_its_rows_is_no_report(self, tmp_path: Path) -> None:
        """Somebody moved report.csv away."""
        write(tmp_path, [row()])
        (tmp_path / "report.csv").unlink()
        with pytest.raises(UsageError, match="no whole report"):
            read_summary(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"run_id": "1"}', "7"])
    def test_a_summary_that_is_none(self, tmp_path: Path, text: str) -> None:
        """Whatever else it is."""
        write(tmp_path, [row()])
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(UsageError, match="not as it was written"):
            read_summary(tmp_path)

    @pytest.mark.parametrize("damage", [b"one,cell,more\n", b"\xff\n"], ids=["cells", "bytes"])
    def test_rows_that_were_damaged(self, tmp_path: Path, damage: bytes) -> None:
        """An editor saved it in its own way."""
        write(tmp_path, [row()])
        with (tmp_path / "report.csv").open("ab") as file:
            file.write(damage)
        with pytest.raises(UsageError, match="not as it was written"):
            list(read_report(tmp_path))

    @pytest.mark.parametrize("read", [read_table, lambda path: list(read_report(path))])
    def test_an_empty_file_is_not_a_table(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        """Nor a report without rows, which has its header."""
        (tmp_path / "report.csv").touch()
        with pytest.raises(UsageError, match="not as it was written"):
            read(tmp_path)


class TestCost:
    """Memory and start-up."""

    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        """A hundred thousand rows pass through the memory of one chunk."""
        count = 100_000
        studies = [StudyEntry(n, f"/archive/{n}") for n in range(count // 500)]
        cells = row()[4:]  # all after the path
        rows = ((n // 500, n % 500, STUDY, f"/archive/{n}", *cells) for n in range(count))
        tracemalloc.start()
        try:
            write_report(tmp_path, facts(), studies, {}, rows)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 45_000_000  # rows that pile up would add 33 MB, their CSV 50

    def test_importing_it_loads_neither_pandas_nor_pyarrow(self) -> None:
        """`upload` starts fast: they are loaded when a report is written."""
        code = "import sys, tasks.report.directory; print({'pandas', 'pyarrow', 'numpy'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
