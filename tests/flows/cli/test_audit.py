"""`dicom-ingest audit` at a terminal: what it says of a directory that somebody touched, and how it ends."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tests.far_side import TOKEN, FarSide
from tests.flows.conftest import Plant


@pytest.fixture
def stored(here: Path, plant: Plant, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report directory of a run that stored two files."""
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(here / "study", 2)
    assert execute(["upload", "-p", "study"]) == 0
    return here / "report"


def test_finds_a_trail_that_was_removed_and_no_run_goes_on_there(
    stored: Path, far_side: FarSide, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit codes 1 and 2; the way on is another report directory by the same ledger."""
    (stored / "audit.jsonl").unlink()
    assert execute(["audit"]) == 1
    assert "There is no audit.jsonl: it was removed" in capsys.readouterr().err
    before, asked = {path: path.stat() for path in stored.iterdir()}, len(far_side.requests)
    assert execute(["upload", "-p", "study"]) == 2
    assert "Go on with another --report-dir and the same --ledger" in capsys.readouterr().err
    assert execute(["report"]) == 2
    assert ({path: path.stat() for path in stored.iterdir()}, len(far_side.requests)) == (before, asked)
    elsewhere = ["--report-dir", "other", "--ledger", "report/ledger.sqlite"]
    assert execute(["upload", "-p", "study", *elsewhere]) == 0
    assert "2 already_uploaded" in capsys.readouterr().err
    assert execute(["audit", "other", "--ledger", "report/ledger.sqlite"]) == 0
    said = capsys.readouterr().err
    assert "2 of them by runs whose trails could not be seen" in said
    assert f"which is in {stored}, could not be seen" in said


def test_finds_that_all_was_removed_but_the_ledger(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Be it in the directory, or named."""
    for path in stored.iterdir():
        if path.name != "ledger.sqlite":
            path.unlink()
    said = "There is no audit.jsonl: it was removed, for the ledger knows a run into this directory."
    assert execute(["audit"]) == 1
    assert said in capsys.readouterr().err
    (stored / "ledger.sqlite").rename(stored.parent / "ledger.sqlite")
    assert execute(["audit", "--ledger", "ledger.sqlite"]) == 1
    assert said in capsys.readouterr().err
    assert execute(["audit"]) == 2  # nothing says here that there was a run


def test_says_what_it_did_not_check(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stored / "ledger.sqlite").rename(stored.parent / "ledger.sqlite")
    assert execute(["audit"]) == 0
    said = capsys.readouterr().err
    assert "Not checked: The ledger was not looked at, for it is not in the directory: --ledger names" in said
    assert "agrees with the report, as far as it was checked." in said
    assert execute(["audit", "--ledger", "ledger.sqlite"]) == 0
    assert "Not checked" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "pattern", "command"),
    [
        ("audit.jsonl", r'(?<="event":")credential', "audit"),
        ("audit.jsonl", r'(?<="run_id":")', "audit"),
        ("summary.json", r'(?<="run_id": ")', "audit"),
        ("report.csv", r"(?m)^1(?=,1,)", "audit"),
        ("studies.csv", r"(?m)^1(?=,)", "audit"),
    ],
)
def test_moves_no_cursor_by_what_files_say(
    stored: Path, name: str, pattern: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither colours nor a line that overwrites another one."""
    escape = "\\u001b[2J\\r" if name.endswith(("json", "jsonl")) else "\x1b[2J\r"
    text = (stored / name).read_text()
    (stored / name).write_text(re.sub(pattern, lambda _: escape, text, count=1))
    assert (stored / name).read_text() != text
    assert execute([command]) == 1
    said = capsys.readouterr().err
    assert re.search(r"[^\n\t -~]", said) is None


def test_of_a_report_that_is_written_again_moves_no_cursor(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what somebody wrote into the ledger, or as an error, with --debug."""
    with closing(sqlite3.connect(stored / "ledger.sqlite")) as db, db:
        problem = "json_set(\"end\", '$.problems', json_array(char(27) || '[2J' || char(13)))"
        db.execute(f'UPDATE run SET "end" = {problem}')
    assert execute(["report"]) == 0
    assert "\\x1b[2J\\x0d" in (said := capsys.readouterr().err)
    assert execute(["report", "gone\x1b[2J", "--debug"]) == 2
    assert re.search(r"[^\n\t -~]", said + capsys.readouterr().err) is None


def test_makes_nothing(stored: Path) -> None:
    """Not even what SQLite has beside a database that it reads."""
    before = sorted(stored.rglob("*"))
    assert execute(["audit"]) == 0
    assert sorted(stored.rglob("*")) == before
