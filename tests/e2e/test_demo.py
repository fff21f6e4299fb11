"""`dicom-ingest demo`, as a person runs it: the whole chain on one machine, and a report that was checked."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.sandbox.demo import _fresh
from deployments.sandbox.ports import keep_port, last_port
from flows.cli.commands import app
from tasks.core.models import Status
from tasks.core.report_columns import REPORT_COLUMNS
from tasks.report.directory import FILES
from tasks.report.reader import read_report, read_summary
from tests.orthanc import IS_INSTALLED
from tests.proxy import Proxy, running_proxy, through

DICOM_INGEST = str(Path(sys.executable).with_name("dicom-ingest"))
SLICES = 20
Demo = tuple[Path, subprocess.CompletedProcess[str]]  # its directory, and how its process ended


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Proxy]:
    """A proxy for everything, and the Prefect server that the environment and a profile name."""
    with running_proxy() as elsewhere:
        yield elsewhere


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path, elsewhere: Proxy) -> Demo:
    directory = tmp_path_factory.mktemp("demo")
    server = f"{elsewhere.url}/api"
    profiles = directory / "profiles.toml"
    profiles.write_text(f'active = "company"\n[profiles.company]\nPREFECT_API_URL = "{server}"\n')
    (directory / "prefect.toml").write_text(f'api.url = "{server}"\n')
    (directory / ".env").write_text(f"PREFECT_API_URL={server}\n")
    foreign = {"PREFECT_API_URL": server, "PREFECT_PROFILES_PATH": str(profiles), **through(elsewhere.url)}
    done = subprocess.run(
        [
            Path(sys.executable).with_name("dicom-ingest"),
            "demo",
            "--directory",
            "new",
            "--slices",
            str(SLICES),
        ],
        cwd=directory,
        env=os.environ
        | {"PREFECT_HOME": str(prefect_home), "DICOM_INGEST_PARALLEL": "nobody else's setting"}
        | foreign,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return directory / "new", done


def test_ends_with_0_and_tells_the_backfills_own_exit_code(demo: Demo) -> None:
    """What was planted can't all be stored, so the backfill rightly ends with 1."""
    directory, done = demo
    assert (done.returncode, read_summary(directory / "report").exit_code) == (0, 1)
    assert "The backfill ended with exit code 1" in done.stdout
    assert "every object in the bucket is byte for byte the file" in done.stdout
    checked = re.search(r"each of the (\d+) planted files has its one row", done.stdout)
    assert checked
    assert int(checked[1]) == sum(1 for _ in read_report(directory / "report")) > SLICES


def test_goes_all_the_way(demo: Demo) -> None:
    """Ingest and verify are run as a person would, and what they report was checked; it says what ran."""
    directory, done = demo
    program = "Orthanc with its DICOMweb plugin" if IS_INSTALLED else "tiny-pacs"
    assert f"/dicom-web: {program}" in done.stdout
    assert "  dicom-ingest ingest --report-dir new/report\n" in done.stdout
    assert "  dicom-ingest verify new/report --deep 10\n" in done.stdout
    assert "Ingest and verify ended with exit codes 1 and 1" in done.stdout
    assert "registered, and confirmed by verify." in done.stdout
    names = {path.name for path in (directory / "report").iterdir()}
    assert names >= {"registration.csv", "verification.csv", "verification-certificate.json"}


def test_asks_neither_a_proxy_nor_a_prefect_server_that_is_named(demo: Demo, elsewhere: Proxy) -> None:
    """By PREFECT_API_URL, a profile, or a file in the working directory: its own server ends with it."""
    assert demo[1].returncode == 0
    assert elsewhere.asked == []


def test_says_what_a_person_wants_to_see(demo: Demo) -> None:
    """The command to do it oneself, the counts, and where the report is; no log and no traceback."""
    directory, done = demo
    assert re.search(
        r"dicom-ingest run new/archive/manifest\.csv -u http://127\.0\.0\.1:\d+ --report-dir", done.stdout
    )
    assert re.search(r"^\d+ files: \d+ uploaded, 1 duplicate, 1 conflict", done.stderr, re.MULTILINE)
    assert re.search(r"^8 of \d+ files are not stored$", done.stderr, re.MULTILINE)
    assert "  study 36 (mr-moved-away): 1 not_found; 12 fewer than expected\n" in done.stderr
    assert f"Report: {directory}/report/report.csv" in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) < 60
    assert "Traceback" not in done.stderr


def test_ends_with_what_to_do_next(demo: Demo) -> None:
    """Commands that there are, with options that they have; no address of what has ended with it."""
    _, done = demo
    checked, found, next_steps = done.stdout.partition("\nNext, ")
    assert "Checked: " in checked
    assert found
    assert "127.0.0.1" not in next_steps
    commands = re.findall(r"^  dicom-ingest ([^#\n]+)", next_steps, re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        *("sandbox", "manifest", "run", "ingest", "verify"),
        "run",
    ]
    for command in commands:
        app.parse_args(command.split(), exit_on_error=False)
    assert ". sandbox/sandbox.env" in next_steps
    to_sandbox, endpoint, to_platform = next_steps.partition("DICOM_INGEST_API_ENDPOINT=")
    assert endpoint
    report_dirs = [re.findall(r"--report-dir (\S+)", part) for part in (to_sandbox, to_platform)]
    assert report_dirs == [["try", "try"], ["report"]], "two platforms, two ledgers"
    assert "dicom-ingest verify try" in to_sandbox


def test_leaves_a_report_with_every_outcome_that_was_planted(demo: Demo) -> None:
    """Its columns are the documented ones."""
    rows = list(read_report(demo[0] / "report"))
    assert tuple(rows[0]) == REPORT_COLUMNS
    assert {row["status"] for row in rows} >= {
        Status.UPLOADED,
        Status.DUPLICATE,
        Status.CONFLICT,
        Status.NOT_DICOM,
        Status.INVALID,
        Status.UNREADABLE,
        Status.MISSING,
    }


def test_leaves_files_for_its_owner_alone(demo: Demo) -> None:
    """The report directory is 0700, and all that is in it 0600; no draft is left over."""
    report = demo[0] / "report"
    names = {path.name for path in report.iterdir()}
    assert names >= {*FILES, "ledger.sqlite"}
    assert [name for name in names if name.endswith(".tmp")] == []
    assert stat.S_IMODE(report.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in report.iterdir()} == {0o600}


def test_refuses_a_directory_that_is_not_a_demos(tmp_path: Path) -> None:
    """It would have to be removed first: exit code 2, and nothing in it is touched."""
    (tmp_path / "mine.txt").touch()
    done = subprocess.run(
        [DICOM_INGEST, "demo", "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Name another one" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_is_at_the_same_port_each_time(tmp_path: Path) -> None:
    """Everything else of it is made anew."""
    home = tmp_path / "demo"
    _fresh(home)
    keep_port(home / "sandbox", 4711)
    assert not (home / "sandbox").exists(), "nobody has started one"
    (home / "sandbox").mkdir()
    keep_port(home / "sandbox", 4711)
    (home / "sandbox" / "objects").mkdir()
    _fresh(home)
    assert last_port(home / "sandbox") == 4711
    assert [path.name for path in (home / "sandbox").iterdir()] == ["gateway.port"]
