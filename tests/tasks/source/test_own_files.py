"""A run's own files are left out of what it sends, by whatever name the archive shows them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import UsageError
from tasks.core.models import StudyEntry
from tasks.source.own_files import own_files, require_none_in
from tasks.source.scan import just_file, survey, walk_study

LEDGERS = ("x.sqlite", "x.sqlite-wal", "x.sqlite-shm", "x.sqlite-journal")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An image, a ledger of the run, and in a directory of its own the report."""
    study = tmp_path / "study"
    (study / "report" / "runs" / "one").mkdir(parents=True)
    for name in ("image", "report/report.csv", "report/runs/one/report.csv", *LEDGERS):
        (study / name).write_bytes(b"x")
    return study


def walked(study: Path, report_dir: Path | None = None, ledger: Path | None = None) -> set[str]:
    """The names of all rows."""
    entry = StudyEntry(1, str(study))
    own = own_files([report_dir or study / "report"], ledger or study / "x.sqlite")
    rows = walk_study(entry, replace(survey([entry]), own=own))
    return {os.path.relpath(row.path, study) for row in rows}


def test_ledger_its_companions_and_report_directory_have_no_row(study: Path) -> None:
    assert walked(study) == {"image"}


def test_of_another_run_have_rows(study: Path) -> None:
    """They are nothing that this run knows to be its own."""
    (study / "other").mkdir()
    for name in ("report.csv", "x.sqlite", "x.sqlite-wal"):
        (study / "other" / name).write_bytes(b"x")
    assert walked(study) == {"image", "other/report.csv", "other/x.sqlite", "other/x.sqlite-wal"}


def test_companions_that_come_while_the_walk_is_under_way_have_none(study: Path) -> None:
    """SQLite makes and removes them as it likes."""
    for name in LEDGERS[1:]:
        (study / name).unlink()
    entry = StudyEntry(1, str(study))
    ownership = replace(survey([entry]), own=own_files([study / "report"], study / "x.sqlite"))
    for name in LEDGERS[1:]:
        (study / name).write_bytes(b"x")
    assert [os.path.basename(row.path) for row in walk_study(entry, ownership)] == ["image"]


def test_under_other_names_have_none(study: Path, tmp_path: Path) -> None:
    """A hard link to the ledger; links to it, to its log, to the report directory and to what is in that."""
    outside = tmp_path / "outside"
    for name in ("report", *LEDGERS):
        outside.mkdir(exist_ok=True)
        (study / name).rename(outside / name)
    (study / "hard").hardlink_to(outside / "x.sqlite")
    for name in ("x.sqlite", "x.sqlite-wal", "report", "report/runs", "report/report.csv"):
        (study / name.replace("/", "-")).symlink_to(outside / name)
    entry = StudyEntry(1, str(study))
    ownership = survey([entry], tmp_path)
    assert len([*walk_study(entry, ownership)]) > 1  # links into the root are followed
    own = own_files([outside / "report"], outside / "x.sqlite")
    assert [os.path.basename(r.path) for r in walk_study(entry, replace(ownership, own=own))] == ["image"]


def test_known_by_a_path_with_links_have_none(study: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(study)
    link = tmp_path / "link"
    assert walked(study, report_dir=link / "report", ledger=link / "x.sqlite") == {"image"}
    assert walked(link, report_dir=study / "report", ledger=study / "x.sqlite") == {"image"}


def test_are_known_by_device_and_inode_where_a_mount_shows_them_twice(study: Path) -> None:
    """As if by another real path, which a bind mount has."""
    own = own_files([study / "report"], study / "x.sqlite")
    elsewhere = b"/mnt/elsewhere"
    assert own.names_in(elsewhere, study.stat()) == frozenset(map(os.fsencode, LEDGERS))
    assert own.names_in(elsewhere, (study / "report").stat()) is None


def test_named_as_the_only_file_to_send_have_none(study: Path) -> None:
    entry = StudyEntry(1, str(study))
    ownership = replace(survey([entry]), own=own_files([study / "report"], study / "x.sqlite"))
    sent = [name for name in ("image", *LEDGERS) if [*just_file(study / name)(entry, ownership)]]
    assert sent == ["image"]


@pytest.mark.parametrize("name", ["report", "report/runs/one"])
def test_as_a_study_directory_are_refused(study: Path, name: str) -> None:
    """Left out without a word they would be a study that was never sent."""
    ownership = survey([StudyEntry(1, str(study)), StudyEntry(2, str(study / name))])
    with pytest.raises(UsageError, match="The directory of study 2 is the report directory, or lies in it"):
        require_none_in(ownership.real_dirs, [study / "report"])
