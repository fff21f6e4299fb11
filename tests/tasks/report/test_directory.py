"""The report directory: whole or not at all, and what becomes of an earlier report."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pyarrow import parquet

from tasks.core.errors import StoppedError, UsageError
from tasks.core.models import StudyEntry
from tasks.core.report_columns import ReportRow
from tasks.report.directory import FILES, write_report
from tasks.report.reader import read_report, read_summary
from tests.tasks.report.sample_report import STUDY, contents, facts, lines_of, mode, row, write


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
