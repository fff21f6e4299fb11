"""What `dicom-ingest audit` finds when somebody touched something."""

import csv
import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

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
from tasks.run.records import report_again
from tests.conftest import Dicom, NearSide
from tests.databases import long_ago
from tests.tasks.audit.report_dirs import edit, events, faults, killed


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
            ("report.html", lambda text: text.replace("All 3 files", "All 4 files"), "report.html is not"),
            (
                "certificate.json",
                lambda text: re.sub(r'"digest": ".', '"digest": "', text),
                "The digest in certificate.json, which the page has",
            ),
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

    def test_says_which_duplicate_has_a_key_or_bytes_that_were_never_stored(
        self, near_side: NearSide, reported: Path, dicom: Dicom
    ) -> None:
        """Its key is that of the file that has its UID."""
        near_side.put("study/twin", dicom("1.2"))
        run = near_side.run()
        twin = run.row("study/twin")
        assert (twin["status"], faults(reported)) == ("duplicate", "")
        line = f",duplicate,,{twin['key']},"
        edit(reported / "report.csv", lambda text: text.replace(line, ",duplicate,,uploads/nowhere,"))
        assert "study 1 file 4: the trail does not know its key" in faults(reported)
        other = run.row("study/0")["key"]
        edit(
            reported / "report.csv",
            lambda text: text.replace(",duplicate,,uploads/nowhere,", f",duplicate,,{other},"),
        )
        assert "study 1 file 4: the trail says that other bytes were stored" in faults(reported)

    def test_says_that_report_csv_is_another_also_with_a_certificate_of_it(self, reported: Path) -> None:
        """The trail has its SHA-256 at the end of its run."""
        old = sha256_of(reported / "report.csv")
        edit(reported / "report.csv", lambda text: text.replace("1.2.3.4,", "1.2.3.5,", 1))
        new = sha256_of(reported / "report.csv")
        edit(reported / "certificate.json", lambda text: text.replace(old, new))
        assert "report.csv is not the one whose SHA-256 the trail has" in faults(reported)
        assert "has another SHA-256 of report.csv than the certificate" in faults(reported)

    @pytest.mark.parametrize("name", FILES)
    def test_says_that_a_file_can_not_be_read(self, reported: Path, name: str) -> None:
        """Also where the certificate has nothing of it."""
        digest = sha256_of(reported / name)
        edit(
            reported / "certificate.json", lambda text: text.replace(f'"{name}": "{digest}"', f'"{name}": ""')
        )
        (reported / name).unlink()
        assert f"{name} can't be read: No such file" in faults(reported)

    def test_says_that_a_file_was_put_there_before_the_certificate_was(
        self, near_side: NearSide, reported: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its digests are of what was written."""

        def write(report_dir: Path, *rest: Any) -> None:
            edit(report_dir / "report.csv", lambda text: text.replace("already_uploaded", "uploaded"))
            edit(report_dir / "studies.csv", lambda text: text + "\n")
            write_certificate(report_dir, *rest)

        monkeypatch.setattr("tasks.run.records.write_certificate", write)
        near_side.run()
        assert "report.csv is not as it was" in faults(reported)
        assert "studies.csv is not as it was" in faults(reported)

    def test_of_what_is_no_text_where_text_should_be_is_no_defect(self, reported: Path) -> None:
        """Somebody wrote it by hand."""
        edit(reported / AUDIT_JSONL, lambda text: re.sub(r'"key":"[^"]*"', '"key":{"a":[1]}', text))
        edit(
            reported / "summary.json",
            lambda text: re.sub(r'"unused_keys": [^]]*\]', '"unused_keys": [[1]]', text),
        )
        edit(reported / "certificate.json", lambda text: re.sub(r'"lines": \d+', '"lines": 1e400', text))
        assert "The audit trail is broken: line" in faults(reported)
        edit(reported / AUDIT_JSONL, lambda text: re.sub(r'"run_id":"', r'"run_id":"\\ud800', text, count=1))
        edit(reported / "report.csv", lambda text: text.replace("superseded_keys", "keys"))
        assert "lacks columns" in faults(reported)

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

    def test_of_a_report_by_a_version_that_wrote_no_page_finds_nothing(self, reported: Path) -> None:
        """A page that is put beside it is found."""
        facts = json.loads((reported / "certificate.json").read_text())
        del facts["digest"], facts["sha256"]["report.html"]
        (reported / "certificate.json").write_text(json.dumps(facts))
        page = (reported / "report.html").read_bytes()
        (reported / "report.html").unlink()
        assert faults(reported) == ""
        (reported / "report.html").write_bytes(page)
        assert faults(reported) == "report.html is not as it was when the certificate was written."

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


class TestRunWithoutAnEnd:
    def test_after_the_last_report_is_a_fault_and_says_the_way_out(
        self, near_side: NearSide, reported: Path, dicom: Dicom
    ) -> None:
        """What it stored is in no report until that is written again."""
        near_side.put("study/3", dicom("1.3"))
        run_id = killed(near_side)
        began = next(each["at"] for each in events(reported) if each.get("run_id") == run_id)
        way_out = (
            f"A run began at {began} and has no end: `dicom-ingest report {reported}` writes its report."
        )
        assert way_out in faults(reported)
        assert "1 key was issued since the last report" in faults(reported)
        settings = near_side.settings()
        long_ago(settings.ledger_at)
        assert report_again(reported, settings.ledger_at, settings.campaign).exit_code == 3
        assert faults(reported) == ""

    def test_and_without_any_report_is_a_fault(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("study/1", dicom("1.1"))
        killed(near_side)
        assert "A run began at" in faults(near_side.report_dir)
        assert "There is no whole report" in faults(near_side.report_dir)

    def test_that_was_killed_before_its_first_line_is_known_by_the_ledger(
        self, near_side: NearSide, reported: Path
    ) -> None:
        lines = (reported / AUDIT_JSONL).read_bytes()
        killed(near_side, before_its_first_file=True)
        (reported / AUDIT_JSONL).write_bytes(lines)
        assert "A run began at" in faults(reported)
        assert near_side.run().exit_code == 0
        assert faults(reported) == ""

    def test_that_is_at_work_is_no_run_without_an_end(self, near_side: NearSide, reported: Path) -> None:
        engine = near_side.engine()
        for batch_no in engine.plan(engine.scan()):
            engine.upload(batch_no)
        engine.reconcile()
        assert faults(reported) == "A run into this directory is at work: audit it again at its end."
        engine.close()

    def test_of_an_earlier_report_is_no_business_of_it(
        self, near_side: NearSide, reported: Path, dicom: Dicom
    ) -> None:
        near_side.run()
        near_side.put("study/3", dicom("1.3"))
        killed(near_side)
        (earlier,) = (reported / "runs").iterdir()
        assert faults(earlier) == ""
