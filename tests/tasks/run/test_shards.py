"""A manifest in shards: what many processes make of it together is what one run would have made."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from flows.orchestration.run_progress import Sampler, sentence
from tasks.audit.check import audit
from tasks.core.decisions import Decision
from tasks.core.errors import CredentialsRefusedError, InterruptedRunError, StoppedError, UsageError
from tasks.core.models import Balance, StudyEntry
from tasks.core.progress import Progress
from tasks.core.selection import Selection
from tasks.core.study_entries import StudyEntries
from tasks.declaration import load_as
from tasks.ledger import schema
from tasks.ledger.earlier_runs import Begins, begins
from tasks.ledger.ledger import Ledger
from tasks.report.reader import read_report, read_summary
from tasks.run.early_end import early_end
from tasks.run.engine import Engine
from tasks.run.records import report_again
from tasks.run.resolution import Rule, resolve
from tasks.run.retry_run import retry
from tasks.run.shards import Migration, run_id_for, shard_engine, weigh
from tasks.settings import ResolveSettings, Settings
from tasks.source.scan import survey
from tests.conftest import Dicom, NearSide, Row, padded
from tests.databases import PostgreSQL, long_ago
from tests.far_side import TOKEN, Deviation, FarSide, Step, always, s3_error, scripted, status
from tests.processes import Command, await_that

# What is the same in a report of one run and in one of shards (DESIGN.md, section 6) ...
_OF_FILE = (
    "study_no",
    "file_no",
    "study_dir",
    "sop_instance_uid",
    "study_instance_uid",
    "size_bytes",
    "sha256",
)
# ... but for which of some twins was stored.
_OF_INSTANCE = ("sop_instance_uid", "status", "reason")


_MIGRATE = """
from pathlib import Path
from tasks.core.models import Balance, StudyEntry
from tasks.run.shards import begin_migration
from tasks.settings import load
from tasks.core.progress import Progress

entries = [StudyEntry(n, str(path)) for n, path in enumerate(sorted(Path({}).iterdir()), 1)]
begin_migration(entries, load(), "m", 1, Balance.FILES, Progress())
"""


@pytest.fixture
def ledger(postgresql: PostgreSQL) -> str:
    return postgresql.new_database()


def migration(
    near_side: NearSide, shards: int, balance: Balance = Balance.FILES, run_id: str = "m"
) -> Migration:
    entries, settings = StudyEntries(near_side.entries(), "ab12"), near_side.settings()
    return Migration(entries, settings, run_id, shards, balance, Progress(), near_side.edges)


def of_shard(near_side: NearSide, number: int, run_id: str = "m") -> Settings:
    return near_side.settings(report_dir=near_side.report_dir / "shards" / f"{number:04}", parallel=5)


def engine(near_side: NearSide, number: int, run_id: str = "m") -> Engine:
    return shard_engine(of_shard(near_side, number), run_id, number, near_side.edges)


def carry_out(the_engine: Engine) -> int:
    with early_end(the_engine) as end:
        for batch_no in the_engine.plan(the_engine.scan()):
            the_engine.upload(batch_no)
    return the_engine.finish(end.why).exit_code


def die(what: Engine | Migration) -> None:
    """What a kill leaves: no sign of life any more, no lock, and neither an end nor a report."""
    if isinstance(what, Migration):
        what._records.close()
        return
    with what.draining():
        pass
    what.close()


@contextmanager
def shard_held_up(settings: Settings) -> Iterator[sa.Engine]:
    """Whoever makes the first shard of the migration waits for the end of the block, which makes none."""
    database = sa.create_engine(settings.ledger.replace("postgresql:", "postgresql+psycopg:"))
    with database.connect() as db, db.begin() as transaction:
        db.execute(
            sa.insert(schema.run).values(
                run_id="m-0001", campaign="x", started_ns=0, heartbeat_s=0, report_dir=""
            )
        )
        yield database
        transaction.rollback()
    database.dispose()


def is_waiting(database: sa.Engine) -> bool:
    """Whether anybody does for what another has locked."""
    with database.connect() as db:
        return bool(db.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def same(rows: Iterable[Row]) -> tuple[dict[str, list[str]], list[list[str]]]:
    """Of the rows what does not depend on who was first."""
    rows = list(rows)
    files = {row["path"]: [row[name] for name in _OF_FILE] for row in rows}
    return files, sorted([row[name] for name in _OF_INSTANCE] for row in rows)


def plant(near_side: NearSide, dicom: Dicom) -> None:
    """Five studies: twins and a conflict across them, an overlap, a file that is none."""
    for study in range(5):
        for number in range(8):
            near_side.put(f"{study}/{number}", dicom(f"1.{study}.{number}"))
    near_side.put("1/twin", dicom("1.0.0"))
    near_side.put("4/twin", dicom("1.2.3"))
    near_side.put("3/other", dicom("1.0.1", text="other"))
    near_side.put("2/notes.txt", b"notes")
    near_side.put("0/deep/x", dicom("1.9"))


class TestBounds:
    @pytest.mark.parametrize(("most", "shares"), [(8, [3, 3, 2]), (2, [1, 1, 0])])
    def test_each_shard_has_its_part_of_max_files(
        self, near_side: NearSide, dicom: Dicom, most: int, shares: list[int]
    ) -> None:
        """All together send no more, and the merged report says what ended them."""
        for study in range(3):
            for number in range(6):
                near_side.put(f"{study}/{number}", dicom(f"1.{study}.{number}"))
        near_side.options |= {"max_files": most}
        whole = migration(near_side, 3)
        bounds = whole.bounds(3)
        assert [bounds(number)["max_files"] for number in (1, 2, 3)] == shares
        for number in (1, 2, 3):
            near_side.options |= bounds(number)
            carry_out(engine(near_side, number))
        run = near_side.told(whole.finish())
        assert len(near_side.far_side.objects) == most
        assert (run.exit_code, run.summary.ended_by) == (1, "max_files")
        assert sorted(set(run.statuses.values())) == ["not_attempted/stopped", "uploaded"]

    def test_a_shard_that_is_taken_up_again_has_what_is_left_of_its_part(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        for number in range(6):
            near_side.put(f"0/{number}", dicom(f"1.0.{number}"))
        whole = migration(near_side, 1)
        near_side.options |= {"max_files": 3}
        first = engine(near_side, 1)
        with early_end(first):
            for batch_no in first.plan(first.scan()):
                first.upload(batch_no)
            die(first)
        first.close()
        near_side.options |= {"max_files": 4}
        carry_out(engine(near_side, 1))
        assert len(near_side.far_side.objects) == 4
        assert whole.finish().ended_by == "max_files"

    def test_max_duration_counts_from_the_migrations_start(self, near_side: NearSide, dicom: Dicom) -> None:
        """A shard that begins late has what is left of it, be it nothing."""
        near_side.put("0/0", dicom("1.0.0"))
        now = [100.0]
        near_side.edges = replace(near_side.edges, elapsed=lambda: now[0])
        near_side.options |= {"max_duration": "1h"}
        bounds = migration(near_side, 1).bounds(1)
        now[0] += 600
        assert bounds(1) == {"max_duration": "3000"}
        now[0] += 36000
        assert bounds(1) == {"max_duration": "0"}


class TestMerged:
    def test_is_what_a_single_run_writes(
        self, near_side: NearSide, dicom: Dicom, postgresql: PostgreSQL, tmp_path: Path
    ) -> None:
        plant(near_side, dicom)
        whole = migration(near_side, 3)
        engines = [engine(near_side, number) for number in (1, 2, 3)]
        threads = [threading.Thread(target=carry_out, args=(each,)) for each in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        merged = near_side.told(whole.finish())
        stored = {row["key"] for row in merged.rows.values() if row["status"] == "uploaded"}
        assert stored == set(near_side.far_side.bodies), "each stored once"
        assert merged.exit_code == 1
        by_status = merged.summary.by_status
        assert (by_status["uploaded"], by_status["duplicate"], by_status["conflict"]) == (41, 2, 1)
        assert audit(near_side.report_dir, None).faults == []
        assert len(merged.summary.unused_keys) == 1, "of the migration: a shard asks for no URL at its start"
        assert merged.keys_told == near_side.far_side.keys_handed_out
        near_side.run(report_dir=tmp_path / "single", ledger=postgresql.new_database())
        assert same(merged.rows.values()) == same(read_report(tmp_path / "single"))
        assert (near_side.report_dir / "studies.csv").read_text() == (
            tmp_path / "single" / "studies.csv"
        ).read_text()

    def test_has_no_row_of_its_own_files_wherever_a_shard_has_its_report(
        self, near_side: NearSide, dicom: Dicom, tmp_path: Path
    ) -> None:
        """The report directory of the migration lies in a study; the shard's is on another disk."""
        near_side.put("0/1", dicom("1.1"))
        near_side.options["report_dir"] = report_dir = near_side.archive / "0" / "report"
        whole = migration(near_side, 1)
        settings = near_side.settings(report_dir=tmp_path / "shard", parallel=5)
        carry_out(shard_engine(settings, "m", 1, near_side.edges))
        assert whole.finish().by_status == {"uploaded": 1}
        assert (report_dir / "audit.jsonl").exists()

    @pytest.mark.long
    def test_outlasts_a_failover_of_five_seconds(
        self, near_side: NearSide, dicom: Dicom, postgresql: PostgreSQL
    ) -> None:
        """Of whoever writes, and of the migration, which looks where its shards stand meanwhile."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        engines = [engine(near_side, number) for number in (1, 2)]
        postgresql.stop("immediate")
        start = threading.Timer(5, postgresql.start)
        start.start()
        threads = [threading.Thread(target=carry_out, args=(each,)) for each in engines]
        for thread in threads:
            thread.start()
        assert len(whole.standings()) == 2
        for thread in threads:
            thread.join()
        start.join()
        merged = near_side.told(whole.finish())
        by_status = merged.summary.by_status
        assert (by_status["uploaded"], by_status["duplicate"], by_status["conflict"]) == (41, 2, 1)
        assert merged.keys_told == near_side.far_side.keys_handed_out

    def test_is_written_again_from_the_ledger(self, near_side: NearSide, dicom: Dicom) -> None:
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        for number in (1, 2):
            carry_out(engine(near_side, number))
        before = whole.finish()
        page = (near_side.report_dir / "report.html").read_text()
        assert all(title in page for title in ("Throughput", "Slots", "<dt>parallel</dt>"))
        (near_side.report_dir / "report.csv").unlink()
        settings = near_side.settings()
        again = report_again(near_side.report_dir, settings.ledger_at, settings.campaign)
        assert again.by_status == before.by_status
        assert again.run_id == "m"
        assert (near_side.report_dir / "report.html").read_text() == page

    def test_has_a_row_for_what_no_shard_came_to(self, near_side: NearSide, dicom: Dicom) -> None:
        plant(near_side, dicom)
        whole = migration(near_side, 5)
        carry_out(engine(near_side, 1))
        told = near_side.told(whole.finish())
        assert told.exit_code == 3
        assert list(told.statuses.values()).count("not_attempted/not_scanned") == 4
        assert "shard 2 was not ended: run the same command to go on" in told.summary.problems


class TestWhoseADirectoryIs:
    """Workers on machines with other mounts, here played one after another: the migration has decided."""

    def test_is_the_same_for_all_shards(self, near_side: NearSide, dicom: Dicom) -> None:
        """What lies in another study on one machine alone would be walked by nobody."""
        near_side.put("0/a", dicom("1.1"))
        near_side.put("1/a", dicom("1.2"))
        whole = migration(near_side, 2)
        carry_out(engine(near_side, 1))
        (near_side.archive / "1").rename(near_side.archive / "0" / "inner")
        (near_side.archive / "1").symlink_to(near_side.archive / "0" / "inner")
        carry_out(engine(near_side, 2))
        assert near_side.told(whole.finish()).statuses == {"0/a": "uploaded", "1/a": "uploaded"}

    def test_of_links_is_looked_up_on_each(self, near_side: NearSide, dicom: Dicom) -> None:
        """A link within a study leads into it, under whatever name it is mounted there."""
        near_side.put("0/a", dicom("1.1"))
        (near_side.archive / "0" / "link").symlink_to("a")
        whole = migration(near_side, 1)
        near_side.archive.rename(near_side.directory / "elsewhere")
        near_side.archive.symlink_to(near_side.directory / "elsewhere")
        carry_out(engine(near_side, 1))
        assert near_side.told(whole.finish()).statuses == {"0/a": "uploaded"}

    def test_is_never_outside_the_root_of_this_one(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("0/a", dicom("1.1"))
        near_side.options["root"] = str(near_side.archive)
        whole = migration(near_side, 1)
        (near_side.archive / "0").rename(near_side.directory / "outside")
        (near_side.archive / "0").symlink_to(near_side.directory / "outside")
        carry_out(engine(near_side, 1))
        assert near_side.told(whole.finish()).statuses == {"0": "unreadable/link_outside_root"}

    def test_is_decided_by_each_in_a_migration_of_an_earlier_version(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Its ledger does not have it."""
        near_side.put("0/a", dicom("1.1"))
        near_side.put("1/a", dicom("1.2"))
        whole = migration(near_side, 2)
        database = sa.create_engine(near_side.settings().ledger.replace("postgresql:", "postgresql+psycopg:"))
        with database.begin() as db:
            db.execute(sa.update(schema.study).values(real_dir=None))
        database.dispose()
        for number in (1, 2):
            carry_out(engine(near_side, number))
        assert whole.finish().by_status == {"uploaded": 2}


class TestKilled:
    def test_is_taken_up_where_it_was_left(self, near_side: NearSide, dicom: Dicom) -> None:
        """Its keys and statuses are the run's own, not an earlier run's."""
        plant(near_side, dicom)
        near_side.options["dead_after"] = 2
        whole = migration(near_side, 2)
        carry_out(engine(near_side, 2))
        killed = engine(near_side, 1)
        for batch_no in killed.plan(killed.scan()):
            killed.upload(batch_no)
        bodies = set(near_side.far_side.bodies)
        with pytest.raises(UsageError, match="at work, or was killed"):
            shard_engine(near_side.settings(report_dir=near_side.directory / "elsewhere"), "m", 1)
        die(killed)
        long_ago(killed.settings.ledger_at)
        carry_out(engine(near_side, 1))
        told = near_side.told(whole.finish())
        assert set(near_side.far_side.bodies) == bodies
        assert told.summary.by_status["uploaded"] == len(bodies)
        assert "already_uploaded" not in told.summary.by_status

    def test_leaves_no_claim_behind(self, near_side: NearSide, dicom: Dicom) -> None:
        """Not even one by a file that is gone by then, unread: its twin would wait for ever."""
        first = near_side.put("0/a", dicom("1.7"))
        near_side.put("0/b", dicom("1.7"))
        near_side.options["dead_after"] = 2
        whole = migration(near_side, 1)
        killed = engine(near_side, 1)
        (batch_no,) = killed.plan(killed.scan())
        settings = killed.settings
        with closing(Ledger(settings.ledger_at, settings.campaign, killed.run_id)) as ledger:
            todo = next(ledger.todo(batch_no))
            assert ledger.claim(todo, padded("1.7")).mine
        die(killed)
        first.unlink()
        long_ago(settings.ledger_at)
        carry_out(engine(near_side, 1))
        expected = {"0/a": "missing/not_found", "0/b": "uploaded"}
        assert near_side.told(whole.finish()).statuses == expected


class TestKilledBeforeItWasDivided:
    """A migration is known with all its shards, or not at all: its retry has the same name."""

    def test_is_tried_again(self, near_side: NearSide, dicom: Dicom) -> None:
        """Killed with -9 while the ledger's database holds up what makes its first shard."""
        near_side.put("0/a", dicom("1.7"))
        settings = near_side.settings()
        Ledger(settings.ledger_at, settings.campaign, "").close()  # makes the tables
        with shard_held_up(settings) as database:
            child = subprocess.Popen(
                [sys.executable, "-c", _MIGRATE.format(repr(str(near_side.archive)))],
                env=os.environ
                | {
                    "DICOM_INGEST_API_ENDPOINT": near_side.far_side.url,
                    "DICOM_INGEST_TOKEN": TOKEN,
                    "DICOM_INGEST_LEDGER": settings.ledger,
                    "DICOM_INGEST_REPORT_DIR": str(near_side.report_dir),
                },
            )
            await_that(lambda: is_waiting(database) or child.poll() is not None)
            assert child.poll() is None
            child.kill()
            child.wait()
        assert run_id_for("m", settings) == "m"
        near_side.options["dead_after"] = 2
        whole = migration(near_side, 1)
        carry_out(engine(near_side, 1))
        assert near_side.told(whole.finish()).statuses == {"0/a": "uploaded"}

    def test_by_an_earlier_version_is_tried_again(self, near_side: NearSide, dicom: Dicom) -> None:
        """Which made it known before its shards were; the manifest is that of the retry."""
        near_side.put("0/a", dicom("1.7"))
        settings = near_side.settings()
        gone = StudyEntry(2, str(near_side.archive / "gone"))
        with closing(Ledger(settings.ledger_at, settings.campaign, "m")) as ledger:
            ledger.begin(1, settings.report_dir, [*near_side.entries(), gone], {})
        with pytest.raises(UsageError, match="at work already"):
            migration(near_side, 1)
        long_ago(settings.ledger_at)
        whole = migration(near_side, 1)
        carry_out(engine(near_side, 1))
        assert near_side.told(whole.finish()).statuses == {"0/a": "uploaded"}


class TestAtWork:
    """A shard goes on although its migration has ended: nothing of it is changed."""

    def test_is_reported_as_far_as_it_has_come(self, near_side: NearSide, dicom: Dicom) -> None:
        """Ctrl-C while Prefect's server is away: nobody could tell the shards."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        first, second = engine(near_side, 1), engine(near_side, 2)
        for _ in second.scan():
            break  # listed, and lost: nothing of it is in the ledger
        told = near_side.told(whole.finish(InterruptedRunError("Interrupted.")))
        assert set(told.statuses.values()) == {"not_attempted/not_scanned"}
        assert len(told.rows) == 5, "one for each study directory"
        assert "shard 1 was still at work when the migration ended" in str(told.summary.problems)
        assert [carry_out(first), carry_out(second)] == [0, 1]
        settings = near_side.settings()
        again = near_side.told(
            report_again(settings.report_dir, settings.ledger_at, settings.campaign)
        ).summary
        assert again.by_status["uploaded"] == 41
        assert "not_attempted" not in again.by_status

    @pytest.mark.processes
    def test_is_waited_for_by_report(self, near_side: NearSide, dicom: Dicom) -> None:
        """As a run that is at work is; it finds each of its files afterwards."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        settings = near_side.settings()
        die(whole)
        long_ago(settings.ledger_at)
        shards = [engine(near_side, number) for number in (1, 2)]
        command = ("report", str(settings.report_dir), "--ledger", settings.ledger)
        report = Command(near_side.directory / "report-command", os.environ, *command)
        assert report.ended() == 2, report.said
        assert "is at work" in report.said
        for each in shards:
            carry_out(each)
        report = Command(near_side.directory / "report-command", os.environ, *command)
        assert report.ended() == 3, "the migration itself was killed"
        by_status = read_summary(settings.report_dir).by_status
        assert (by_status["uploaded"], by_status.get("not_attempted")) == (41, None)


class TestTriedAgain:
    """Retried in the UI, a flow run has the name that it had."""

    def test_one_that_was_cut_short_goes_on_with_its_shards(self, near_side: NearSide, dicom: Dicom) -> None:
        plant(near_side, dicom)
        settings = near_side.settings()
        assert run_id_for("m", settings) == "m"
        whole = migration(near_side, 2)
        carry_out(engine(near_side, 1))
        whole.finish(InterruptedRunError("Suspended."))
        assert run_id_for("m", settings) == "m"
        again = migration(near_side, 2)
        assert [standing.facts is not None for standing in again.standings()] == [True, False]
        carry_out(engine(near_side, 2))
        assert not {"not_attempted", "already_uploaded"} & again.finish().by_status.keys()

    def test_one_that_is_done_is_a_run_of_its_own(self, near_side: NearSide, dicom: Dicom) -> None:
        """So that what failed is sent again: its shards are over."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        for number in (1, 2):
            carry_out(engine(near_side, number))
        whole.finish()
        assert run_id_for("m", near_side.settings()) != "m"


class TestRunId:
    def test_is_found_without_making_a_ledger(self, near_side: NearSide) -> None:
        """Else the migration could not say that one begins."""
        settings = near_side.settings()
        assert run_id_for("m", settings) == "m"
        assert begins(settings.ledger_at, settings.campaign) is Begins.LEDGER


class TestRefused:
    def test_without_a_ledger_for_all(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("0/a", dicom("1.7"))
        near_side.options["ledger"] = "ledger.sqlite"
        with pytest.raises(UsageError, match="one database that all workers reach"):
            migration(near_side, 1)

    def test_when_credentials_are_and_leaves_nothing(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("0/a", dicom("1.7"))
        near_side.far_side.script = always(Step.PRESIGN, status(401))
        with pytest.raises(CredentialsRefusedError):
            migration(near_side, 1)
        assert not near_side.report_dir.exists()

    @pytest.mark.parametrize(("answer", "code"), [(status(401), 4), (status(404), 3)])
    def test_when_a_shards_credentials_are_ends_with_its_exit_code(
        self, near_side: NearSide, dicom: Dicom, answer: Deviation, code: int
    ) -> None:
        """Also when the migration itself is stopped because that one was."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        near_side.far_side.script = always(Step.PRESIGN, answer)
        assert [carry_out(engine(near_side, number)) for number in (1, 2)] == [code, code]
        assert whole.finish(StoppedError("Shard 1 stopped early.")).exit_code == code

    def test_a_shard_that_begins_while_the_platform_is_down_waits_for_it(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Its migration has asked at the start: from there on a run's own patience counts."""
        plant(near_side, dicom)
        whole = migration(near_side, 1)
        near_side.far_side.script = scripted(*((Step.PRESIGN, n, status(502)) for n in range(2, 8)))
        assert carry_out(engine(near_side, 1)) == 1
        assert whole.finish().by_status["uploaded"] == 41

    def test_a_shard_that_nobody_made(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("0/a", dicom("1.7"))
        migration(near_side, 1)
        with pytest.raises(UsageError, match="knows no such shard"):
            engine(near_side, 2)

    def test_into_another_platform(self, near_side: NearSide, dicom: Dicom) -> None:
        """The migration leaves nothing; nor does a shard whose worker's settings lead elsewhere."""
        plant(near_side, dicom)
        whole = migration(near_side, 2)
        url, report_dir = near_side.far_side.url, near_side.report_dir
        elsewhere = {"api_endpoint": url.replace("127.0.0.1", "localhost")}
        near_side.options.update(elsewhere)
        with pytest.raises(UsageError, match="belongs to the platform"):
            engine(near_side, 1)
        near_side.options["report_dir"] = near_side.directory / "other"
        with pytest.raises(UsageError, match="belongs to the platform"):
            migration(near_side, 2, run_id="n")
        assert not (near_side.directory / "other").exists()
        assert not (report_dir / "shards").exists()
        near_side.options.update({"api_endpoint": url, "report_dir": report_dir})
        for number in (1, 2):
            carry_out(engine(near_side, number))
        summary = whole.finish()
        assert f"http://{summary.api_host}" == url
        assert summary.storage_hosts == [summary.api_host]
        of_shards = [read_summary(of_shard(near_side, number).report_dir) for number in (1, 2)]
        assert {each.manifest_sha256 for each in (summary, *of_shards)} == {"ab12"}

    def test_a_migration_that_is_at_work(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("0/a", dicom("1.7"))
        migration(near_side, 1)
        near_side.options["report_dir"] = near_side.directory / "elsewhere"
        with pytest.raises(UsageError, match="at work already"):
            migration(near_side, 1)


def test_shows_the_slots_of_its_shards(
    near_side: NearSide, far_side: FarSide, let_go: threading.Event
) -> None:
    """As many as they have together, and those in use: each says so with its sign of life."""
    near_side.put_many(4)
    near_side.options["dead_after"] = 2
    whole, progress = migration(near_side, 1), Progress()
    whole._progress = progress
    running = threading.Thread(target=carry_out, args=(engine(near_side, 1),))
    running.start()

    def in_use() -> bool:
        whole.standings()
        platform = progress.platform()
        return platform is not None and (platform.slots, platform.slots_in_use) == (5, 4)

    await_that(in_use)
    let_go.set()
    running.join()
    whole.finish()
    assert sentence(Sampler(progress).snapshot()).endswith("4 uploaded, 0 failed"), "none is at work any more"


def test_weighs_files_or_bytes(near_side: NearSide) -> None:
    """A manifest that says how many there are is believed."""
    near_side.put("0/a", b"12345")
    near_side.put("1/a", b"1")
    near_side.put("1/b", b"1")
    entries = near_side.entries()
    territory, progress = survey(entries), Progress()
    assert weigh(entries, territory, Balance.FILES, progress) == {1: 1, 2: 2}
    assert weigh(entries, territory, Balance.BYTES, progress) == {1: 5, 2: 2}
    sized = [replace(entry, expected_bytes=70, expected_instances=2) for entry in entries]
    assert weigh(sized, territory, Balance.BYTES, Progress()) == {1: 70, 2: 70}
    assert weigh(sized, territory, Balance.FILES, Progress()) == {1: 2, 2: 2}
    told = [replace(entry, expected_instances=7) for entry in entries]
    assert weigh(told, territory, Balance.FILES, progress) == {1: 7, 2: 7}
    assert progress.files_listed == 3 + 3 + 14


class TestExceptions:
    def test_of_all_shards_are_decided_about_and_sent_again(self, near_side: NearSide, dicom: Dicom) -> None:
        """In the merged report; a shard's own is its own business."""
        plant(near_side, dicom)
        near_side.put("2/cut", dicom("1.8")[:-40])
        whole = migration(near_side, 3)
        near_side.far_side.script = scripted((Step.PUT, 1, s3_error(400, "InvalidRequest")))
        for number in (1, 2, 3):
            carry_out(engine(near_side, number))
        first = near_side.told(whole.finish())
        left = {
            name for name, row in first.rows.items() if row["status"] in ("conflict", "invalid", "failed")
        }
        assert len(left) == 3, first.summary.by_status
        settings = load_as(
            ResolveSettings,
            report_dir=near_side.report_dir,
            ledger=near_side.options["ledger"],
            user_id="anna",
        )
        assert resolve(settings, Rule(Decision.IGNORE, "a test", {"invalid"}).decisions).summary.accepted == 1
        assert audit(near_side.report_dir, None, near_side.options["ledger"]).faults == []
        resolve(settings, Rule(Decision.UPLOAD, "both count", {"conflict"}).decisions)
        again = near_side.told(retry(near_side.settings(), Selection(), edges=near_side.edges))
        assert again.exit_code == 0
        assert {name: row["path"] for name, row in again.rows.items()} == {
            name: row["path"] for name, row in first.rows.items()
        }
        assert again.summary.by_status["uploaded"] == 2
        assert audit(near_side.report_dir, None, near_side.options["ledger"]).faults == []
