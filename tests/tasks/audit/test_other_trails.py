"""What an audit finds in the trails of other report directories, and what it says that it did not see."""

import json
from pathlib import Path
from shutil import rmtree

import pytest

from tasks.audit.check import audit
from tasks.core.models import Balance
from tasks.core.progress import Progress
from tasks.report.directory import AUDIT_JSONL
from tasks.run.early_end import early_end
from tasks.run.engine import Engine
from tasks.run.shards import Migration, shard_engine
from tests.conftest import Dicom, NearSide
from tests.databases import PostgreSQL
from tests.tasks.audit.report_dirs import edit, events, killed


class TestElsewhere:
    """A report of files that a run into another directory stored; both have one ledger."""

    @pytest.fixture
    def first(self, near_side: NearSide, dicom: Dicom) -> Path:
        for number in range(3):
            near_side.put(f"study/{number}", dicom(f"1.{number}"))
        near_side.run()
        return near_side.report_dir

    @pytest.fixture
    def ledger_at(self, first: Path) -> Path:
        return first / "ledger.sqlite"

    @pytest.fixture
    def second(self, near_side: NearSide, ledger_at: Path) -> Path:
        directory = near_side.directory / "elsewhere"
        near_side.run(report_dir=directory, ledger=str(ledger_at))
        return directory

    def test_is_followed_by_the_ledger(self, second: Path, ledger_at: Path) -> None:
        found = audit(second, None, ledger_at)
        assert (found.faults, found.elsewhere, found.unseen, found.unchecked) == ([], 3, 0, [])

    def test_without_the_ledger_is_said_not_to_be_seen(self, second: Path) -> None:
        found = audit(second)
        assert (found.faults, found.elsewhere, found.unseen) == ([], 3, 3)
        assert "The ledger was not looked at" in found.unchecked[0]
        assert "could not be seen" in found.unchecked[1]

    def test_that_is_gone_is_said_not_to_be_seen(
        self, near_side: NearSide, second: Path, ledger_at: Path, first: Path
    ) -> None:
        ledger = ledger_at.rename(near_side.directory / "ledger.sqlite")
        rmtree(first)
        found = audit(second, None, ledger)
        assert (found.faults, found.unseen) == ([], 3)
        assert f"which is in {first}, could not be seen" in found.unchecked[0]

    def test_with_other_bytes_or_without_the_key_is_a_fault(
        self, second: Path, ledger_at: Path, first: Path
    ) -> None:
        stored = [each for each in events(first) if each["event"] == "stored"]
        edit(second / "report.csv", lambda text: text.replace(stored[0]["key"], "uploads/nowhere"))
        edit(second / "report.csv", lambda text: text.replace(stored[1]["sha256"], "0" * 64))
        said = "\n".join(audit(second, None, ledger_at).faults)
        assert "the trail does not know its key" in said
        assert "other bytes were stored" in said

    def test_that_does_not_hold_itself_is_a_fault(self, second: Path, ledger_at: Path, first: Path) -> None:
        edit(first / AUDIT_JSONL, lambda text: text.replace('"stored"', '"refused"', 1))
        assert f"{first}: The audit trail is broken" in "\n".join(audit(second, None, ledger_at).faults)

    def test_is_no_run_into_this_directory(
        self, near_side: NearSide, first: Path, ledger_at: Path, second: Path
    ) -> None:
        """Which the ledger knows, or a certificate: its trail is this one, whatever was done to it."""
        near_side.run()
        trail = first / AUDIT_JSONL
        trail.write_text("".join(trail.read_text().splitlines(keepends=True)[:1]))
        edit(trail, lambda text: text.replace(json.loads(text)["run_id"], "0" * 32))
        for ledger in (ledger_at, near_side.directory / "gone.sqlite"):
            found = audit(first, None, ledger)
            assert found.elsewhere == 0
            assert "the trail does not know that run" in "\n".join(found.faults)

    def test_is_known_when_it_was_killed_before_another_report(
        self, near_side: NearSide, first: Path, dicom: Dicom
    ) -> None:
        """Of a run that came later and had other files: it is no fault of its report, and is said."""
        path = near_side.put("other/1", dicom("1.9"))
        killed(near_side)
        path.unlink()
        near_side.run()
        found = audit(first)
        assert found.faults == []
        assert "killed before this report have 2 keys that it does not name" in found.unchecked[0]


class TestMergedMigration:
    """Its shards stored the files, each by a trail of its own."""

    @pytest.fixture
    def ledger(self, postgresql: PostgreSQL) -> str:
        return postgresql.new_database()

    @pytest.fixture
    def merged(self, near_side: NearSide, dicom: Dicom) -> Path:
        for study in range(2):
            for number in range(3):
                near_side.put(f"{study}/{number}", dicom(f"1.{study}.{number}"))
        near_side.put("1/twin", dicom("1.0.0"))
        whole = Migration(
            near_side.entries(), near_side.settings(), "m", 2, Balance.FILES, Progress(), near_side.edges
        )
        for number in (1, 2):
            carry_out(shard(near_side, number))
        assert whole.finish().by_status == {"uploaded": 6, "duplicate": 1}
        return near_side.report_dir

    @pytest.mark.parametrize("is_given", [True, False])
    def test_is_held_against_their_trails(self, merged: Path, ledger: str, is_given: bool) -> None:
        """Which lie in its report directory, or are collected there."""
        found = audit(merged, None, ledger if is_given else None)
        assert (found.faults, found.elsewhere) == ([], 0)
        assert bool(found.unchecked) != is_given

    def test_without_a_shards_trail_says_so(self, merged: Path, ledger: str) -> None:
        rmtree(merged / "shards" / "0002")
        found = audit(merged, None, ledger)
        assert found.faults == []
        assert found.unseen == found.elsewhere > 0
        (sentence,) = found.unchecked
        assert sentence.startswith("The trail of shard 0002, which is in")
        assert sentence.endswith("shards/0002, could not be seen; collect it in shards/.")
        assert "The trail of shard 0002 could not be seen" in "\n".join(audit(merged).unchecked)

    def test_that_leaves_out_what_a_shard_did_is_found(self, merged: Path) -> None:
        edit(merged / "report.csv", lambda text: "".join(
            line for line in text.splitlines(keepends=True) if not line.startswith("2,2,")
        ))  # fmt: skip
        assert "study 2 file 2: a key was issued for it that the report does not name" in "\n".join(
            audit(merged).faults
        )

    def test_of_a_shard_with_other_bytes_is_found(self, merged: Path) -> None:
        stored = next(each for each in events(merged / "shards" / "0002") if each["event"] == "stored")
        edit(merged / "report.csv", lambda text: text.replace(stored["sha256"], "0" * 64))
        assert "other bytes were stored" in "\n".join(audit(merged).faults)

    def test_is_found_by_the_ledger_where_its_shards_trails_were_written(
        self, merged: Path, ledger: str, near_side: NearSide
    ) -> None:
        """A shard's own report has files of the other's, too."""
        found = audit(merged / "shards" / "0002", None, ledger)
        assert (found.faults, found.elsewhere, found.unseen) == ([], 1, 0)


def shard(near_side: NearSide, number: int) -> Engine:
    settings = near_side.settings(report_dir=near_side.report_dir / "shards" / f"{number:04}")
    return shard_engine(settings, "m", number, near_side.edges)


def carry_out(engine: Engine) -> None:
    with early_end(engine) as end:
        for batch_no in engine.plan(engine.scan()):
            engine.upload(batch_no)
    engine.finish(end.why)
