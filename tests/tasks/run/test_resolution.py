"""What a person decided survives a kill at any moment, and is not made while a run is at work."""

import json
from collections.abc import Iterator

import pytest

from tasks.audit.check import audit
from tasks.core.audit_chain import Event
from tasks.core.decisions import Decision
from tasks.core.errors import UsageError
from tasks.core.report_columns import ReportRow
from tasks.ledger.decided import Decisions
from tasks.report.finished import is_finished
from tasks.report.reader import opened_studies, read_summary
from tasks.run.engine import ingest
from tasks.run.preflight import target_of
from tasks.run.records import Records, report_again
from tasks.run.resolution import Chosen, Resolved, Rule, resolve
from tasks.settings import ResolveSettings
from tasks.source.manifest_reader import load_manifest
from tests.conftest import Dicom, NearSide, Run
from tests.dicomweb_side import DicomwebSide
from tests.verified import ObjectsClient, Verified


class Killed(BaseException):
    """The process is gone: nothing of it follows."""


@pytest.fixture
def run(near_side: NearSide, dicom: Dicom) -> Run:
    """One file stored, one cut off."""
    near_side.put("study/1", dicom("1.1"))
    near_side.put("study/2", dicom("1.2")[:-40])
    return near_side.run()


def settings_of(near_side: NearSide, user_id: str = "anna") -> ResolveSettings:
    return ResolveSettings(report_dir=near_side.report_dir, user_id=user_id)


def ignore(near_side: NearSide) -> Resolved:
    rule = Rule(Decision.IGNORE, "a test image", {"invalid"})
    return resolve(settings_of(near_side), rule.decisions)


class TestKilled:
    def test_between_trail_and_ledger_it_is_decided_again(
        self, run: Run, near_side: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The trail has at least what the ledger has."""

        def killed(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Decisions, "decide", killed)
            ignore(near_side)
        assert near_side.run().exit_code == 1
        assert audit(near_side.report_dir).faults == []
        resolved = ignore(near_side)
        assert (resolved.summary.exit_code, resolved.decided.total()) == (0, 1)
        assert audit(near_side.report_dir).faults == []

    def test_before_the_report_is_written_the_same_command_writes_it(
        self, run: Run, near_side: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though there is nothing left to decide; so does `report`, and so does the next run."""

        def killed(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Records, "write", killed)
            ignore(near_side)
        assert read_summary(near_side.report_dir).accepted == 0
        assert audit(near_side.report_dir).faults == []
        resolved = ignore(near_side)
        assert (resolved.summary.accepted, resolved.decided.total()) == (1, 0)
        before = (near_side.report_dir / "report.csv").stat().st_mtime_ns
        ignore(near_side)
        assert (near_side.report_dir / "report.csv").stat().st_mtime_ns == before, "nothing to write"
        assert audit(near_side.report_dir).faults == []

    def test_after_some_rows_the_others_are_left(self, run: Run, near_side: NearSide, dicom: Dicom) -> None:
        for number in range(3, 6):
            near_side.put(f"study/{number}", dicom(f"1.{number}")[:-40])
        near_side.run()

        def choose(rows: Iterator[ReportRow]) -> Iterator[Chosen]:
            for number, row in enumerate(rows):
                if number == 2:
                    raise Killed
                yield Chosen(row, Decision.IGNORE, "a test image")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr("tasks.run.resolution._AT_ONCE", 1)
            resolve(settings_of(near_side), choose)
        settings = near_side.settings()
        assert report_again(settings.report_dir, settings.ledger_at, settings.campaign).accepted == 2
        assert ignore(near_side).summary.accepted == 4


class TestAtWork:
    def test_a_run_refuses_decisions(self, run: Run, near_side: NearSide) -> None:
        """They are made when it has ended."""
        engine = near_side.engine()
        with pytest.raises(UsageError, match="Another run writes into this report directory"):
            ignore(near_side)
        assert near_side.finished(engine).summary.accepted == 0
        assert ignore(near_side).summary.accepted == 1

    def test_a_directory_without_a_run_has_nothing_to_decide(self, near_side: NearSide) -> None:
        with pytest.raises(UsageError, match=r"There is no audit.jsonl in the report directory"):
            ignore(near_side)
        assert not near_side.report_dir.exists()

    def test_what_a_later_run_has_seen_otherwise_is_not_decided_here(
        self, run: Run, near_side: NearSide, dicom: Dicom
    ) -> None:
        """The report of that run has it."""
        near_side.put("study/2", dicom("1.2"))
        ledger = str(near_side.settings().ledger_at)
        near_side.run(report_dir=near_side.directory / "other", ledger=ledger)
        with pytest.raises(UsageError, match="A later run, into another report directory"):
            ignore(near_side)


class TestAccepted:
    def test_study_is_never_safe_to_delete(self, run: Run, near_side: NearSide) -> None:
        """Whatever bucket and registry say of its instances."""
        ignore(near_side)
        far_side = near_side.far_side
        with DicomwebSide() as registry:
            client = ObjectsClient(lambda: {key: versions[-1] for key, versions in far_side.objects.items()})
            verified = Verified(near_side, registry, client)
            verified.register_all()
            assert verified().exit_code == 0
            assert verified.safe() == ["no"]
        with opened_studies(near_side.report_dir) as studies:
            assert [study.cells["complete"] for study in studies.rows] == ["with_exceptions"]
        assert audit(near_side.report_dir).faults == []

    def test_manifest_is_finished_until_that_is_withdrawn(self, near_side: NearSide, dicom: Dicom) -> None:
        """A schedule runs it no more."""
        near_side.put("study/1", dicom("1.1"))
        near_side.put("study/2", dicom("1.2")[:-40])
        manifest = near_side.directory / "manifest.csv"
        manifest.write_text("study_dir\narchive/study\n")
        settings = near_side.settings()
        ingest(load_manifest(manifest, None), settings, edges=near_side.edges)
        of_campaign = settings.ledger_at, settings.campaign, target_of(settings), settings.root

        def finished() -> bool:
            return is_finished(manifest, near_side.report_dir, *of_campaign)

        assert not finished()
        ignore(near_side)
        assert finished()
        resolve(settings_of(near_side), Rule(Decision.WITHDRAW, "no", {"invalid"}).decisions)
        assert not finished()

    @pytest.mark.parametrize(("path", "exit_code"), [("gone", 0), ("gone/file", 1)])
    def test_directory_that_is_gone_stands_for_all_that_was_expected_in_it(
        self, near_side: NearSide, dicom: Dicom, path: str, exit_code: int
    ) -> None:
        """A file that is gone stands for one instance."""
        settings = near_side.settings()
        near_side.put("gone/file", dicom("1.1")[:-40])
        near_side.put("gone/other", b"no image")
        manifest = near_side.directory / "manifest.csv"
        manifest.write_text("study_dir,expected_instances\narchive/gone,12\n")
        ingest(load_manifest(manifest, None), settings, edges=near_side.edges)
        for file in ("file", "other")[: 1 if path == "gone/file" else 2]:
            (near_side.archive / "gone" / file).unlink()
        if path == "gone":
            (near_side.archive / path).rmdir()
        ingest(load_manifest(manifest, None), settings, edges=near_side.edges)
        rule = Rule(Decision.IGNORE, "deleted on purpose", {"missing"})
        assert resolve(settings_of(near_side), rule.decisions).summary.exit_code == exit_code

    def test_words_that_a_person_gave_are_text_everywhere(self, run: Run, near_side: NearSide) -> None:
        """In the report as in the trail, whatever is in them."""
        words = '=HYPERLINK("x")\n\\x41, \u202e"quoted"; é'
        rule = Rule(Decision.IGNORE, words, {"invalid"})
        resolve(settings_of(near_side, user_id="+anna\\"), rule.decisions)
        row = near_side.told(read_summary(near_side.report_dir)).row("study/2")
        assert row["detail"].startswith(f"accepted (ignore) by +anna\\: {words} [")
        lines = map(json.loads, (near_side.report_dir / "audit.jsonl").read_text().splitlines())
        (line,) = (each for each in lines if each["event"] == Event.DECIDED)
        assert (line["reason_text"], line["user_id"]) == (words, "+anna\\")
        assert audit(near_side.report_dir).faults == []
