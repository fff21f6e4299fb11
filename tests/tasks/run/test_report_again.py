"""A report that is written again is that of the directory's newest run, with what that run found."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from tasks.audit.check import audit
from tasks.core.errors import UsageError
from tasks.core.models import StudyEntry, Summary
from tasks.report.reader import read_report
from tasks.run.engine import ingest
from tasks.run.records import report_again
from tests.conftest import Dicom, NearSide, Run
from tests.far_side import TOKEN, FarSide, Step, always, s3_error, scripted


@pytest.fixture
def ledger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all report directories."""
    return str(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")


def run_into(near_side: NearSide, name: str, *studies: str) -> Run:
    """A run of these studies, or of all, into a report directory of this name."""
    near_side.options["report_dir"] = near_side.directory / name
    entries = [StudyEntry(n, str(near_side.archive / study)) for n, study in enumerate(studies, 1)]
    summary = ingest(entries or near_side.entries(), near_side.settings(), edges=near_side.edges)
    return told(near_side, name, summary)


def again(near_side: NearSide, name: str) -> Run:
    settings = near_side.settings(report_dir=near_side.directory / name)
    summary = report_again(settings.report_dir, settings.ledger_at, settings.campaign)
    return told(near_side, name, summary)


def told(near_side: NearSide, name: str, summary: Summary) -> Run:
    rows = read_report(near_side.directory / name)
    return Run(summary, {os.path.relpath(row["path"], near_side.archive): row for row in rows})


class TestNewestRun:
    def test_is_the_one_that_began_last_whatever_the_clock_said(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        run_into(near_side, "one")
        near_side.put("study/2", dicom("1.2"))
        near_side.edges = replace(near_side.edges, clock_ns=lambda: 10**18)
        second = run_into(near_side, "one")
        assert again(near_side, "one").rows == second.rows


def test_the_page_is_written_again_as_it_was(near_side: NearSide, dicom: Dicom) -> None:
    """With the run's settings, which are no secret, and what it was done with."""
    near_side.put("study/1", dicom("1.1"))
    near_side.run(parallel=7, on_conflict="upload")
    page = (near_side.report_dir / "report.html").read_text()
    assert "<dt>parallel</dt><dd>7</dd>" in page
    assert "<dt>on-conflict</dt><dd>upload</dd>" in page
    assert TOKEN not in page
    assert near_side.far_side.url not in page
    (near_side.report_dir / "report.html").unlink()
    again(near_side, "report")
    assert (near_side.report_dir / "report.html").read_text() == page


class TestLaterRun:
    def test_that_stored_what_had_failed_is_not_told_in_place_of_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        far_side.script = scripted((Step.PUT, 1, s3_error(400, "InvalidRequest")))
        assert run_into(near_side, "one").statuses == {"study/1": "failed/refused"}
        before = (near_side.directory / "one" / "report.csv").read_bytes()
        second = run_into(near_side, "two")
        with pytest.raises(UsageError, match="A later run"):
            again(near_side, "one")
        assert (near_side.directory / "one" / "report.csv").read_bytes() == before
        assert again(near_side, "two").rows == second.rows

    def test_that_replaced_what_was_stored_is_not_told_in_place_of_it(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Neither for the file itself, nor for another's duplicate of it."""
        near_side.put("owner/1", dicom("1.1"))
        near_side.put("other/2", dicom("1.1"))
        run_into(near_side, "zero", "owner")
        assert run_into(near_side, "one", "other").statuses == {"other/2": "already_uploaded"}
        near_side.put("owner/1", dicom("1.1", "newer"))
        run_into(near_side, "two", "owner")
        for name in ("zero", "one"):
            with pytest.raises(UsageError, match="A later run"):
                again(near_side, name)

    def test_that_found_all_as_it_was_changes_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        body = dicom("1.1")
        for name in ("study/1", "study/2"):
            near_side.put(name, body)
        near_side.put("study/3", dicom("1.1", "other"))
        near_side.put("study/4", b"text")
        first = run_into(near_side, "one")
        run_into(near_side, "two")
        written = again(near_side, "one")
        assert written.statuses == first.statuses
        assert [row["key"] for row in written.rows.values()] == [row["key"] for row in first.rows.values()]


class TestOwner:
    def test_whose_path_holds_another_uid_now_leaves_its_duplicate_already_uploaded(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """With the key under which it is; no row of this report is that file's any more."""
        body = dicom("1.1")
        near_side.put("study/1", body)
        near_side.run()
        near_side.put("study/2", body)
        before = near_side.run()
        assert before.statuses == {"study/1": "already_uploaded", "study/2": "duplicate"}
        near_side.put("study/1", dicom("1.2", "another"))
        run = near_side.run()
        assert run.statuses == {"study/1": "uploaded/replaced", "study/2": "already_uploaded"}
        assert run.row("study/2")["key"] == before.row("study/2")["key"]
        assert (run.row("study/2")["same_uid_path"], run.exit_code) == ("", 0)


def test_has_the_keys_of_a_commit_that_failed(near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
    """On a full disk the trail has them and the ledger has not; nothing was sent to them."""
    near_side.put("study/0", dicom("1.0"))
    stored = run_into(near_side, "one").row("study/0")["key"]
    for number in range(1, 4):
        near_side.put(f"study/{number}", dicom(f"1.{number}"))
    far_side.script = always(Step.PUT, s3_error(400, "InvalidRequest"))
    run_into(near_side, "one")
    settings = near_side.settings()
    with closing(sqlite3.connect(settings.ledger_at)) as db, db:
        keys = {key for (key,) in db.execute("SELECT key FROM issued_key WHERE file_id > 0")} - {stored}
        db.execute("DELETE FROM issued_key WHERE file_id > 0")
    for _ in range(2):
        unused = again(near_side, "one").summary.unused_keys
        assert (keys <= {*unused}, stored in unused, len({*unused})) == (True, False, len(unused))
        assert audit(settings.report_dir, ledger_at=settings.ledger_at).faults == []
