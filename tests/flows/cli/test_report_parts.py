"""`report --study`, `--status`, `--xlsx`: parts of a report, at a terminal and in pipes."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.__main__ import execute
from tests.conftest import NearSide
from tests.workbooks import sheets

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(autouse=True)
def reported(near_side: NearSide, dicom: Any) -> None:
    """Two studies, with a file that is cut."""
    near_side.put("a/one", dicom("1.9.1"))
    near_side.put("a/two", dicom("1.9.2")[:-20])
    near_side.put("b/=1+1", dicom("1.9.3"))
    near_side.run()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def contents(report_dir: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in report_dir.rglob("*") if path.is_file()]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("--study 1", ["one", "two"]),
        ("--study 2 --study 1", ["one", "two", "=1+1"]),
        ("--status invalid", ["two"]),
        ("--status invalid --status uploaded --study 2", ["=1+1"]),
        ("--reason truncated", ["two"]),
        ("--study 7", []),
    ],
)
def test_prints_the_rows_that_are_asked_for_and_writes_nothing(
    asked: str, found: list[str], near_side: NearSide, capsys: pytest.CaptureFixture[str]
) -> None:
    """No ledger is needed; the report stays as it is."""
    (near_side.report_dir / "ledger.sqlite").unlink()
    before = contents(near_side.report_dir)
    assert execute(["report", "report", *asked.split()]) == 0
    printed = capsys.readouterr().out
    assert [Path(row["path"]).name for row in rows(printed)] == found
    assert printed.splitlines()[0] == (near_side.report_dir / "report.csv").read_text().splitlines()[0]
    assert execute(["report", "report", *asked.split(), "--json"]) == 0
    printed = capsys.readouterr().out
    assert [Path(json.loads(line)["path"]).name for line in printed.splitlines()] == found
    assert contents(near_side.report_dir) == before


def test_exports_and_says_how_many(near_side: NearSide, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(near_side.report_dir)
    assert execute(["report", "report", "--status", "uploaded", "-o", "out.csv"]) == 0
    assert capsys.readouterr() == ("", "2 rows written.\n")
    assert [row["status"] for row in rows(Path("out.csv").read_text())] == ["uploaded"] * 2
    assert execute(["report", "report", "--xlsx", "out.xlsx"]) == 0
    files = sheets(Path("out.xlsx"))["files"]
    assert [Path(str(each["path"])).name for each in files] == ["one", "two", "=1+1"]
    assert all(isinstance(each["sop_instance_uid"], str) for each in files if "sop_instance_uid" in each)
    assert contents(near_side.report_dir) == before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("--status lost", "--status has to be one of uploaded"),
        ("--reason nobody", "--reason has to be one of"),
        ("--json -o out.csv", "only one can be given"),
        ("--xlsx out.csv", "ends in .xlsx"),
        ("-o out.txt", "ends in one of .csv"),
        ("-o report/report.csv", "no file is replaced"),
        ("--study one", "--study"),
    ],
)
def test_refuses_what_is_wrong(wrong: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["report", "report", *wrong.split()]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
    assert not Path("out.csv").exists()


def test_without_such_an_option_writes_the_report_again(
    near_side: NearSide, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it always did."""
    (near_side.report_dir / "report.csv").unlink()
    assert execute(["report", "report", "--study", "1"]) == 2
    assert "There is no whole report" in capsys.readouterr().err
    assert execute(["report", "report"]) == 1
    assert (near_side.report_dir / "report.csv").is_file()


@pytest.mark.processes
@pytest.mark.parametrize("command", [["report", "report", "--json"], ["status"]])
def test_that_nobody_reads_to_the_end_is_no_fault(command: list[str]) -> None:
    """`| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command], stdout=writer, stderr=subprocess.PIPE, timeout=120
    )
    os.close(writer)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
