"""What `dicom-ingest audit` finds when somebody touched something."""

import csv
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.audit.certificate import write_certificate
from tasks.audit.check import audit
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import UsageError
from tasks.report.directory import AUDIT_JSONL, FILES, Written
from tasks.report.reader import read_summary
from tasks.report.regular_file import sha256_of
from tasks.run.engine import ingest
from tests.conftest import Dicom, NearSide
from tests.tasks.audit.report_dirs import edit, events, faults


@pytest.fixture
def reported(near_side: NearSide, dicom: Dicom) -> Path:
    """A report directory of three stored files."""
    for number in range(3):
        near_side.put(f"study/{number}", dicom(f"1.{number}"))
    near_side.run()
    return near_side.report_dir


class TestAudit:
    def test_of_what_nobody_touched_finds_nothing(self, reported: Path) -> None:
        found = audit(reported)
        assert (found.faults, found.lines, found.elsewhere) == ([], len(events(reported)), 0)

    @pytest.mark.parametrize(
        ("name", "change", "fault"),
        [
            (AUDIT_JSONL, lambda text: text.replace('"stored"', '"refused"', 1), "broken: line"),
            (AUDIT_JSONL, lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "certificate names"),
            (
                "report.csv",
                lambda text: text.replace(",uploaded,", ",invalid,", 1),
                "report.csv is not as it was",
            ),
            (
                "report.csv",
                lambda text: text[: text.rindex("\n1,3")] + "\n",
                "study 1 file 3: a key was issued",
            ),
            ("studies.csv", lambda text: text.replace("true", "false"), "studies.csv is not as it was"),
            (
                "summary.json",
                lambda text: re.sub(r'"unused_keys": \[[^]]*\]', '"unused_keys": []', text),
                "A key was handed out at the start that unused_keys of summary.json does not name",
            ),
            ("summary.json", lambda text: text.replace('"files": 3', '"files": 4'), "summary.json is not"),
            ("certificate.json", lambda text: "", "no certificate.json that can be read"),
        ],
    )
    def test_says_what_was_touched(
        self, reported: Path, name: str, change: Callable[[str], str], fault: str
    ) -> None:
        edit(reported / name, change)
        assert fault in faults(reported)

    def test_says_which_row_has_a_key_or_bytes_that_were_never_stored(self, reported: Path) -> None:
        """Also when somebody wrote a new certificate over a report of his own making."""
        stored = [each for each in events(reported) if each["event"] == "stored"]
        edit(reported / "report.csv", lambda text: text.replace(stored[0]["key"], "uploads/nowhere"))
        edit(reported / "report.csv", lambda text: text.replace(stored[1]["sha256"], "0" * 64))
        assert "the trail does not know its key" in faults(reported)
        assert "other bytes were stored" in faults(reported)

    def test_says_that_something_was_sent_to_an_unused_key(self, reported: Path) -> None:
        stored = next(each["key"] for each in events(reported) if each["event"] == "stored")
        edit(reported / "summary.json", lambda text: re.sub(r'(?<="unused_keys": \[)', f'"{stored}",', text))
        assert "the trail has what was stored there" in faults(reported)

    def test_of_files_stored_by_a_run_elsewhere_counts_them(
        self, near_side: NearSide, reported: Path
    ) -> None:
        elsewhere = near_side.directory / "elsewhere"
        near_side.run(report_dir=elsewhere, ledger=str(reported / "ledger.sqlite"))
        found = audit(elsewhere)
        assert (found.faults, found.elsewhere) == ([], 3)

    def test_of_an_earlier_report_looks_at_the_trail_up_to_its_end(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """What was stored then is superseded now; a change to that report, or to its lines, is found."""
        near_side.put("study/1", dicom("1.1"))
        near_side.run()
        near_side.put("study/1", dicom("1.1", "anew"))
        near_side.run()
        (earlier,) = (near_side.report_dir / "runs").iterdir()
        found = audit(earlier)
        assert (found.faults, found.events["run_ended"]) == ([], 1)
        assert faults(near_side.report_dir) == ""
        assert found.lines < len(events(near_side.report_dir))
        edit(earlier / "report.csv", lambda text: text.replace(",uploaded,", ",invalid,"))
        assert "report.csv is not as it was" in faults(earlier)
        edit(near_side.report_dir / AUDIT_JSONL, lambda text: text.replace('"stored"', '"refused"', 1))
        assert "broken: line" in faults(earlier)

    def test_of_a_report_by_an_earlier_version_finds_nothing(
        self, near_side: NearSide, reported: Path
    ) -> None:
        """It has fewer columns; the next run moves it to `runs/`, where it is audited as well."""
        for name, unknown in (
            ("report.csv", {"same_uid_path", "detail"}),
            ("studies.csv", {"bytes", "why", "seen_study_instance_uids", "modalities"}),
        ):
            with (reported / name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            with (reported / name).open("w", newline="") as file:
                names = [column for column in rows[0] if column not in unknown]
                writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        written = Written(read_summary(reported), {name: sha256_of(reported / name) for name in FILES})
        (reported / "certificate.json").unlink()
        with closing(Trail(reported)) as trail:
            run_id, sha256 = written.summary.run_id, written.sha256["report.csv"]
            trail.record(Event.REPORT_WRITTEN, run_id=run_id, report_sha256=sha256)
            trail.flush()
            write_certificate(reported, written, trail.chain, trail.size_bytes)
        assert faults(reported) == ""
        near_side.run()
        (earlier,) = (reported / "runs").iterdir()
        assert (faults(reported), faults(earlier)) == ("", "")

    def test_of_a_report_directory_in_one_named_runs_is_of_its_own_trail(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """A name that an operator may choose."""
        near_side.put("study/1", dicom("1.1"))
        monday = near_side.directory / "runs" / "monday"
        ingest(near_side.entries(), near_side.settings(report_dir=monday))
        assert faults(monday) == ""

    @pytest.mark.parametrize("place", ["", "gone", "gone/runs/20231114T221320.123456Z-0", "file"])
    def test_of_a_path_that_holds_no_run_makes_nothing(self, tmp_path: Path, place: str) -> None:
        """One sentence says that there is none."""
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"There is no run in this directory.* no audit\.jsonl"):
            audit(tmp_path / place)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
