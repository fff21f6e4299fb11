"""A run that attempted nothing leaves nothing: no directory, no ledger, no line that says there was one."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.core.errors import IngestError, UsageError
from tasks.core.models import Balance
from tasks.core.progress import Progress
from tasks.ledger.database import connect
from tasks.ledger.private_directories import make_directories, remove_empty
from tasks.run.early_end import early_end
from tasks.run.engine import ingest
from tasks.run.records import report_again
from tasks.run.shards import Migration, shard_engine
from tests.conftest import Dicom, NearSide
from tests.databases import PostgreSQL
from tests.far_side import CLIENT_ID

Files = dict[str, bytes]
Refusal = Callable[[NearSide], dict[str, Any]]  # what is wrong is in these options


def everything(directory: Path) -> Files:
    """Each file and directory, but for what SQLite keeps beside an open database."""
    found = (path for path in directory.rglob("*") if not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"" for path in found}


def runs_in(ledger: Path) -> list[str]:
    with closing(sqlite3.connect(ledger)) as db:
        return [run_id for (run_id,) in db.execute("SELECT run_id FROM run")]


@pytest.fixture
def archive(near_side: NearSide, dicom: Dicom) -> NearSide:
    near_side.put("study/1", dicom("1.1"))
    return near_side


def nobody_answers(near_side: NearSide) -> dict[str, Any]:
    return {"api_endpoint": "http://127.0.0.1:9"}


def the_client_is_refused(near_side: NearSide) -> dict[str, Any]:
    url = f"{near_side.far_side.url}/token"
    return {"token": "", "token_url": url, "client_id": CLIENT_ID, "client_secret": "another"}


def the_signing_key_is_none(near_side: NearSide) -> dict[str, Any]:
    return {"signing_key": near_side.archive / "study" / "1"}


def the_ledger_is_a_directory(near_side: NearSide) -> dict[str, Any]:
    return {"ledger": str(near_side.archive)}


def the_ledger_has_no_place(near_side: NearSide) -> dict[str, Any]:
    return {"ledger": str(near_side.directory / "new" / ("x" * 300) / "ledger.sqlite")}


def the_ledger_is_none(near_side: NearSide) -> dict[str, Any]:
    return {"ledger": str(near_side.archive / "study" / "1")}


REFUSALS = [
    nobody_answers,
    the_client_is_refused,
    the_signing_key_is_none,
    the_ledger_is_a_directory,
    the_ledger_has_no_place,
    the_ledger_is_none,
]


class TestStart:
    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_that_is_refused_makes_nothing(self, archive: NearSide, refusal: Refusal) -> None:
        """Not even the directories above the report's."""
        before = everything(archive.directory)
        with pytest.raises(IngestError):
            archive.engine(report_dir=archive.directory / "a" / "b" / "report", **refusal(archive))
        assert everything(archive.directory) == before

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_that_is_refused_changes_nothing_of_an_earlier_run(
        self, archive: NearSide, refusal: Refusal
    ) -> None:
        """Its report stays, and neither trail nor ledger knows of another run."""
        archive.run()
        before = everything(archive.directory)
        with pytest.raises(IngestError):
            archive.engine(**refusal(archive))
        assert everything(archive.directory) == before

    def test_into_a_directory_that_another_run_has_changes_nothing(self, archive: NearSide) -> None:
        """Whoever is second is told, and the first goes on."""
        first = archive.engine()
        before = everything(archive.directory)
        with pytest.raises(UsageError, match="Another run writes"):
            archive.engine()
        assert everything(archive.directory) == before
        assert archive.finished(first).exit_code == 0
        assert runs_in(archive.report_dir / "ledger.sqlite") == [first.run_id]

    def test_into_somebody_s_directory_leaves_it_alone(self, archive: NearSide) -> None:
        """audit.jsonl is no trail of ours."""
        archive.report_dir.mkdir()
        (archive.report_dir / "audit.jsonl").write_text("somebody's notes\n")
        before = everything(archive.directory)
        with pytest.raises(UsageError, match="no audit trail of ours"):
            archive.engine()
        assert everything(archive.directory) == before

    def test_whose_ledger_takes_no_run_leaves_no_line(self, archive: NearSide) -> None:
        """Its first lines were on the disk before the ledger refused."""
        archive.run()
        ledger = archive.report_dir / "ledger.sqlite"
        with closing(sqlite3.connect(ledger)) as db:
            db.execute("CREATE TRIGGER full BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'disk'); END")
        before = everything(archive.directory)
        with pytest.raises(IngestError):
            archive.engine()
        assert everything(archive.directory) == before

    def test_that_is_interrupted_leaves_nothing(
        self, archive: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C before the ledger knows of the run."""

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tasks.run.records.record_start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            archive.engine(ledger=str(archive.directory / "ledger.sqlite"))
        assert not archive.report_dir.exists()

    def test_after_one_that_was_refused_is_the_first(self, archive: NearSide) -> None:
        """The refused one is in no way in the next run's report, ledger, or trail."""
        with pytest.raises(IngestError):
            archive.engine(**nobody_answers(archive))
        run = archive.run()
        assert run.exit_code == 0
        assert not (archive.report_dir / "runs").exists()
        assert runs_in(archive.report_dir / "ledger.sqlite") == [run.summary.run_id]
        lines = (archive.report_dir / "audit.jsonl").read_text().splitlines()
        started = [json.loads(line) for line in lines if "run_started" in line]
        assert [(each["no"], each["run_id"]) for each in started] == [(1, run.summary.run_id)]


class TestShard:
    @pytest.fixture
    def ledger(self, postgresql: PostgreSQL) -> str:
        return postgresql.new_database()

    def test_that_is_at_work_leaves_nothing_of_another_start(self, archive: NearSide) -> None:
        """Neither of the shard nor of the migration; directories that were there have no line more."""
        entries, settings = archive.entries(), archive.settings()
        whole = Migration(entries, settings, "m", 1, Balance.FILES, Progress())
        at_work = shard_engine(archive.settings(report_dir=archive.report_dir / "shards" / "0001"), "m", 1)
        elsewhere = archive.directory / "elsewhere"
        ingest(entries, archive.settings(report_dir=elsewhere, ledger=str(archive.directory / "x.sqlite")))
        before = everything(archive.directory)
        for place in (elsewhere, archive.directory / "new" / "report"):
            with pytest.raises(UsageError, match="This shard is at work"):
                shard_engine(archive.settings(report_dir=place), "m", 1)
            with pytest.raises(UsageError, match="at work already"):
                Migration(entries, archive.settings(report_dir=place), "m", 1, Balance.FILES, Progress())
        assert everything(archive.directory) == before
        with early_end(at_work) as end:
            for batch_no in at_work.plan(at_work.scan()):
                at_work.upload(batch_no)
        at_work.finish(end.why)
        assert archive.told(whole.finish()).exit_code == 0

    def test_that_an_empty_database_does_not_know_makes_no_table(self, archive: NearSide) -> None:
        """A wrong --ledger."""
        before = everything(archive.directory)
        with pytest.raises(UsageError, match="knows no such shard"):
            shard_engine(archive.settings(), "m", 1)
        engine = connect(archive.settings().ledger_at)
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()
        assert everything(archive.directory) == before


class TestReportAgain:
    @pytest.mark.parametrize("place", ["gone", "gone/deep", "file", "empty"])
    def test_of_a_path_that_holds_no_run_makes_nothing(self, tmp_path: Path, place: str) -> None:
        """Whatever is there."""
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()
        before = everything(tmp_path)
        report_dir = tmp_path / place
        with pytest.raises(UsageError, match="There is no run in this report directory"):
            report_again(report_dir, report_dir / "ledger.sqlite", "default")
        assert everything(tmp_path) == before

    def test_of_another_directory_than_the_ledger_knows_makes_nothing(self, archive: NearSide) -> None:
        """The ledger is there, and has no run into that path."""
        archive.run()
        before = everything(archive.directory)
        with pytest.raises(UsageError, match="knows no run into this report directory"):
            report_again(archive.directory / "gone", archive.report_dir / "ledger.sqlite", "default")
        assert everything(archive.directory) == before

    def test_of_an_earlier_report_makes_nothing(self, archive: NearSide) -> None:
        """`runs/<...>` is no report directory of a run."""
        archive.run()
        archive.run()
        (earlier,) = (archive.report_dir / "runs").iterdir()
        before = everything(archive.directory)
        with pytest.raises(UsageError, match="There is no run"):
            report_again(earlier, earlier / "ledger.sqlite", "default")
        assert everything(archive.directory) == before


class TestDirectories:
    def test_are_given_as_they_were_made_and_removed_again(self, tmp_path: Path) -> None:
        """Those that were there stay."""
        made = make_directories(tmp_path / "a" / "b")
        assert made == [tmp_path / "a", tmp_path / "a" / "b"]
        assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
        assert make_directories(tmp_path / "a" / "b") == []
        remove_empty(made)
        assert list(tmp_path.iterdir()) == []

    def test_with_something_in_them_stay(self, tmp_path: Path) -> None:
        """Another run has begun there meanwhile."""
        made = make_directories(tmp_path / "a" / "b" / "c")
        (tmp_path / "a" / "b" / "theirs").touch()
        remove_empty(made)
        assert (tmp_path / "a" / "b" / "theirs").exists()
        assert not (tmp_path / "a" / "b" / "c").exists()

    def test_that_can_not_all_be_made_leave_none(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="too long"):
            make_directories(tmp_path / "a" / ("x" * 300))
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            make_directories(tmp_path / "file")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
