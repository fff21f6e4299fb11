"""Whose files ledger, trail and report are: none is opened through a link, and none of another user's."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tasks.core.errors import UsageError
from tasks.ledger.database import connect
from tasks.run.records import report_again
from tests.conftest import NearSide, instance
from tests.databases import long_ago
from tests.far_side import TOKEN

LEDGER = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.sqlite-journal")
REPORT = (
    "report.csv",
    "report.parquet",
    "studies.csv",
    "summary.json",
    "certificate.json",
    "certificate.sig",
)
OURS = ("audit.jsonl", *LEDGER, *REPORT, ".report.csv.tmp", ".certificate.json.tmp")
OTHER = 54_321  # a user whom no machine has

Put = Callable[[Path], None]


def put_link(path: Path) -> None:
    victim = path.parent.parent / "victim"
    victim.write_text("somebody else's")
    path.symlink_to(victim)


def give_away(path: Path) -> None:
    """To another user; in CI, which is root, nothing skips."""
    try:
        os.chown(path, OTHER, OTHER)
    except PermissionError:
        pytest.skip("only root can give a file away")


def put_others(path: Path) -> None:
    path.write_text("somebody else's")
    give_away(path)


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.fixture
def report_dir(near_side: NearSide) -> Path:
    """A directory of one's own, where nothing is yet; and an image that is to be sent."""
    near_side.put("study/1.dcm", instance("1.1"))
    near_side.report_dir.mkdir(mode=0o700)
    return near_side.report_dir


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("put", [put_link, put_others, put_fifo])
def test_what_is_not_ours_is_refused_and_left_as_it_is(
    name: str, put: Put, near_side: NearSide, report_dir: Path
) -> None:
    """By a run, which has sent nothing then, and left nothing beside it."""
    path = report_dir / name
    put(path)
    before = path.lstat()
    with pytest.raises(UsageError, match="is a link, no regular file, or another user's"):
        near_side.run()
    assert near_side.far_side.bodies == {}
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_size,
    )
    assert [each.name for each in report_dir.iterdir()] == [name]
    if put is put_link:
        assert path.read_text() == "somebody else's"


@pytest.mark.parametrize("name", ["ledger.sqlite", "audit.jsonl", "summary.json"])
def test_commands_refuse_it_with_exit_code_2(
    name: str,
    near_side: NearSide,
    report_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also those that only look: `report`, and `audit`, of what it reads."""
    near_side.run()
    long_ago(report_dir / "ledger.sqlite")
    (report_dir / name).rename(near_side.directory / name)
    (report_dir / name).symlink_to(near_side.directory / name)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", near_side.far_side.url)
    given = ["--report-dir", str(report_dir)]
    assert execute(["upload", "-p", str(near_side.archive), *given]) == 2
    assert execute(["report", str(report_dir)]) == 2
    capsys.readouterr()
    assert execute(["audit", str(report_dir)]) == 2
    assert "is a link, no regular file, or another user's" in capsys.readouterr().err


@pytest.mark.parametrize("put", [put_link, put_others, put_fifo])
def test_earlier_reports_are_moved_through_no_link(put: Put, near_side: NearSide, report_dir: Path) -> None:
    """Nor into what is another user's, or no directory."""
    near_side.run()
    put(report_dir / "runs")
    sent = dict(near_side.far_side.bodies)
    near_side.put("study/2.dcm", instance("1.2"))
    with pytest.raises(UsageError, match="runs in the report directory is a link, no directory, or another"):
        near_side.run()
    assert near_side.far_side.bodies == sent


def test_an_earlier_report_is_moved_into_no_directory_by_a_link(
    near_side: NearSide, report_dir: Path, tmp_path: Path
) -> None:
    """Of the name that it would have in `runs/`."""
    near_side.run()
    near_side.run()
    (home,) = (report_dir / "runs").iterdir()
    (tmp_path / "elsewhere").mkdir()
    (report_dir / "runs" / home.name).rename(tmp_path / "kept")
    (report_dir / "runs" / home.name).symlink_to(tmp_path / "elsewhere")
    for each in (tmp_path / "kept").iterdir():
        each.rename(report_dir / each.name)  # the first report is the one that is there
    near_side.run()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list((report_dir / "runs").iterdir())) == 2


def test_links_in_the_path_are_no_matter(near_side: NearSide, report_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(report_dir)
    link = tmp_path / "link"
    assert near_side.run(report_dir=link).summary.problems == []
    assert report_again(link, link / "ledger.sqlite", "default").exit_code == 0


def test_a_ledger_that_becomes_a_link_is_not_followed(report_dir: Path, tmp_path: Path) -> None:
    """After it was looked at, before SQLite opens it, which follows links."""
    engine = connect(report_dir / "ledger.sqlite")
    (tmp_path / "other.sqlite").touch()
    (report_dir / "ledger.sqlite").unlink()
    (report_dir / "ledger.sqlite").symlink_to(tmp_path / "other.sqlite")
    with pytest.raises(UsageError, match="has become a link"):
        engine.connect()
    engine.dispose()
    assert (tmp_path / "other.sqlite").stat().st_size == 0


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_directory_that_others_may_write_to_is_no_obstacle_but_is_told(
    mode: int, near_side: NearSide, report_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the terminal, and in the summary: of the report, and of the ledger elsewhere."""
    report_dir.chmod(mode)
    (tmp_path / "ledgers").mkdir(mode=0o700)
    elsewhere = str(tmp_path / "ledgers" / "x.sqlite")
    assert len(near_side.run(ledger=elsewhere).summary.problems) == 1
    (tmp_path / "ledgers").chmod(mode)
    report_dir.chmod(0o700)
    caplog.clear()
    (problem,) = near_side.run(ledger=elsewhere).summary.problems
    assert problem.startswith("The ledger's directory is another user's, or others may write to it")
    assert problem in caplog.messages


def test_a_directory_of_another_user_is_no_obstacle_but_is_told(
    near_side: NearSide, report_dir: Path
) -> None:
    """What lies in it is another's then, too: that is what its owner may have made for us."""
    give_away(report_dir)
    (problem,) = near_side.run().summary.problems
    assert problem.startswith("The report directory is another user's, or others may write to it")
    os.chown(report_dir / "audit.jsonl", OTHER, OTHER)
    assert near_side.run().exit_code == 0
