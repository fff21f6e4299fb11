"""A trail that is not as earlier runs left it: no run adds to it."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import rmtree

import pytest

from tasks.audit.check import audit
from tasks.audit.log import Trail
from tasks.core.audit_chain import Chain, Event
from tasks.core.errors import StoppedError, UsageError
from tasks.report.directory import AUDIT_JSONL, CERTIFICATE_JSON
from tasks.run.records import report_again
from tests.conftest import Dicom, NearSide
from tests.tasks.audit.report_dirs import edit, events, faults, killed

REFUSED = r"audit trail in the report directory is not as earlier runs left it: .*{}.*another --report-dir"


@pytest.fixture
def twice(near_side: NearSide, dicom: Dicom) -> Path:
    """A report directory of two runs: a certificate in it, and one in runs/."""
    near_side.put("study/0", dicom("1.0"))
    near_side.run()
    near_side.put("study/1", dicom("1.1"))
    near_side.run()
    return near_side.report_dir


def cut(report_dir: Path, lines: int) -> None:
    trail = report_dir / AUDIT_JSONL
    trail.write_bytes(b"".join(trail.read_bytes().splitlines(keepends=True)[:lines]))


def forge(report_dir: Path, *added: tuple[Event, dict[str, object]], after: int | None = None) -> None:
    """Puts lines in, and makes the chain of all that follow anew, as somebody does who knows how."""
    old = events(report_dir)
    after = len(old) if after is None else after
    chain, lines = Chain(), b""
    told = [(each.pop("at"), Event(each.pop("event")), each) for each in old]
    new = [("2026-01-31T12:00:00.000000Z", event, facts) for event, facts in added]
    for at, event, facts in (*told[:after], *new, *told[after:]):
        rest = {name: fact for name, fact in facts.items() if name not in ("no", "prev")}
        lines += chain.append(at, event, rest)
    (report_dir / AUDIT_JSONL).write_bytes(lines)


def of_another_run(*more: Event) -> list[tuple[Event, dict[str, object]]]:
    stored = {"study_no": 1, "file_no": 9, "key": "uploads/forged", "sha256": "0" * 64}
    return [(Event.RUN_STARTED, {"run_id": "forged"}), *((event, dict(stored)) for event in more)]


def remove(report_dir: Path) -> None:
    (report_dir / AUDIT_JSONL).unlink()


def empty(report_dir: Path) -> None:
    cut(report_dir, 0)


def cut_at_its_end(report_dir: Path) -> None:
    cut(report_dir, len(events(report_dir)) - 1)


def cut_to_the_first_run(report_dir: Path) -> None:
    """Whole, and as the certificate in runs/ says."""
    ends = [each["no"] for each in events(report_dir) if each["event"] == "run_ended"]
    cut(report_dir, ends[0])


def change_its_last_line(report_dir: Path) -> None:
    edit(
        report_dir / AUDIT_JSONL,
        lambda text: re.sub(r'"exit_code":0(?!.*\n.*exit_code)', '"exit_code":1', text),
    )


def add_what_was_stored(report_dir: Path) -> None:
    forge(report_dir, *of_another_run(Event.STORED)[1:])


def add_another_run(report_dir: Path) -> None:
    forge(report_dir, *of_another_run(Event.KEY_ISSUED, Event.STORED))


def add_the_beginning_of_another_run(report_dir: Path) -> None:
    forge(report_dir, *of_another_run())


def put_another_run_in_between(report_dir: Path) -> None:
    first = next(each["no"] for each in events(report_dir) if each["event"] == "run_ended")
    forge(report_dir, *of_another_run(Event.KEY_ISSUED, Event.STORED), after=first)


def replace_all(report_dir: Path) -> None:
    """By another directory's, which is whole."""
    remove(report_dir)
    forge_at = report_dir / AUDIT_JSONL
    forge_at.touch()
    forge(report_dir, *of_another_run(Event.STORED))


def damage_an_earlier_certificate(report_dir: Path) -> None:
    (earlier,) = (report_dir / "runs").iterdir()
    (earlier / CERTIFICATE_JSON).write_text("{}")


Deed = Callable[[Path], None]
DEEDS = [
    (remove, "there is none", "There is no audit.jsonl: it was removed"),
    (empty, "there is none", "is not the one that the certificate names"),
    (cut_at_its_end, "is missing", "is not the one that the certificate names"),
    (cut_to_the_first_run, "is missing", "is not the one that the certificate names"),
    (change_its_last_line, "is not the one that a certificate names", "is not the one that the certificate"),
    (add_what_was_stored, "follows the end of a run", "follows the end of a run"),
    (add_another_run, "neither a certificate nor the ledger knows", "neither a certificate nor the ledger"),
    (add_the_beginning_of_another_run, "neither a certificate nor", "neither a certificate nor the ledger"),
    (put_another_run_in_between, "is not the one that a certificate names", "neither a certificate nor"),
    (replace_all, "is missing", "is not the one that the certificate names"),
    (damage_an_earlier_certificate, "can't be read", "There is no certificate in runs/"),
]


class TestTrail:
    @pytest.mark.parametrize(("deed", "why", "fault"), DEEDS, ids=lambda each: getattr(each, "__name__", ""))
    def test_that_somebody_touched_takes_no_run(
        self, near_side: NearSide, twice: Path, deed: Deed, why: str, fault: str
    ) -> None:
        """Nothing is asked of the platform, and nothing changes; an audit says where; there is a way on."""
        deed(twice)
        before = contents(near_side.directory)
        asked = len(near_side.far_side.requests)
        settings = near_side.settings()
        for begin in (
            near_side.run,
            lambda: report_again(twice, settings.ledger_at, settings.campaign),
        ):
            with pytest.raises(UsageError, match=REFUSED.format(why)):
                begin()
        assert contents(near_side.directory) == before
        assert len(near_side.far_side.requests) == asked
        assert fault in faults(twice)
        assert contents(near_side.directory) == before
        elsewhere = near_side.directory / "elsewhere"
        run = near_side.run(report_dir=elsewhere, ledger=str(twice / "ledger.sqlite"))
        assert run.summary.by_status == {"already_uploaded": 2}

    def test_whose_certificate_went_with_its_last_lines_is_held_against_the_ledger(
        self, near_side: NearSide, twice: Path
    ) -> None:
        """Also without the ledger in the same directory, which may be removed with it."""
        for place in (near_side.directory / "ledger.sqlite", near_side.directory / "other.sqlite"):
            rmtree(twice)
            for _ in range(2):
                near_side.run(ledger=str(place))
            (twice / CERTIFICATE_JSON).unlink()
            cut_to_the_first_run(twice)
            with pytest.raises(UsageError, match=REFUSED.format("the ledger knows a run")):
                near_side.run(ledger=str(place))

    def test_of_a_run_that_was_killed_and_cut_off_is_held_against_the_ledger(
        self, near_side: NearSide, twice: Path, dicom: Dicom
    ) -> None:
        lines = len(events(twice))
        near_side.put("study/2", dicom("1.2"))
        killed(near_side)
        assert len(events(twice)) > lines
        cut(twice, lines)
        with pytest.raises(UsageError, match=REFUSED.format("the ledger knows a run")):
            near_side.run()
        assert "The ledger knows a run into this directory that began at 20" in faults(twice)

    def test_of_a_killed_run_is_missed_whatever_the_clock_said(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """The first run's was ahead, and the ledger lies elsewhere, so that the directory might be new."""
        ledger = near_side.directory / "ledger.sqlite"
        near_side.put("study/1", dicom("1.1"))
        near_side.run(ledger=str(ledger))
        told = events(near_side.report_dir)
        near_side.put("study/2", dicom("1.2"))
        killed(near_side, ledger=str(ledger))
        cut(near_side.report_dir, len(told))
        with closing(sqlite3.connect(ledger)) as db, db:
            db.execute("UPDATE run SET started_ns = started_ns - 86400000000000 WHERE serial > 1")
        with pytest.raises(UsageError, match=REFUSED.format("the ledger knows a run")):
            near_side.run(ledger=str(ledger))
        (fault,) = audit(near_side.report_dir, ledger_at=ledger).faults
        assert "The ledger knows a run into this directory" in fault

    def test_of_a_run_that_was_killed_is_gone_on_with(
        self, near_side: NearSide, twice: Path, dicom: Dicom
    ) -> None:
        """Whenever: it has no certificate, and the ledger knows it."""
        near_side.put("study/2", dicom("1.2"))
        killed(near_side)
        killed(near_side, before_its_first_file=True)
        assert near_side.run().exit_code == 0
        assert faults(twice) == ""

    def test_of_a_run_that_was_killed_with_another_ledger_needs_that_one(
        self, near_side: NearSide, twice: Path, dicom: Dicom
    ) -> None:
        near_side.put("study/2", dicom("1.2"))
        another = str(near_side.directory / "another.sqlite")
        killed(near_side, ledger=another)
        with pytest.raises(UsageError, match=REFUSED.format("neither a certificate nor the ledger knows")):
            near_side.run()
        assert near_side.run(ledger=another).exit_code == 0
        assert near_side.run().exit_code == 0

    def test_of_a_directory_that_was_removed_is_a_new_one(self, near_side: NearSide, dicom: Dicom) -> None:
        """Its ledger lies elsewhere, and goes on."""
        ledger = str(near_side.directory / "ledger.sqlite")
        near_side.put("study/0", dicom("1.0"))
        near_side.run(ledger=ledger)
        rmtree(near_side.report_dir)
        for _ in range(3):
            assert near_side.run(ledger=ledger).exit_code == 0

    def test_is_held_against_certificates_of_an_earlier_version(
        self, near_side: NearSide, twice: Path
    ) -> None:
        """They do not say where the trail's line ends."""
        for certificate in twice.rglob(CERTIFICATE_JSON):
            edit(certificate, lambda text: re.sub(r',\s*"bytes": \d+(?=\s*}\s*}\s*$)', "", text))
        assert near_side.run().exit_code == 0
        cut_at_its_end(twice)
        with pytest.raises(UsageError, match=REFUSED.format("is missing")):
            near_side.run()


class TestTrailOfZeros:
    """What a power cut leaves where the last lines were not on the disk yet."""

    @pytest.mark.parametrize("count", [1, 100, 64 * 1024, 3_000_000])
    def test_is_cut_back_and_said(
        self, near_side: NearSide, twice: Path, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = len(events(twice))
        with (twice / AUDIT_JSONL).open("ab") as file:
            file.write(b'{"no":' + bytes(count))
        assert "is cut off" in faults(twice)
        assert near_side.run().exit_code == 0
        assert faults(twice) == ""
        line = events(twice)[whole]
        assert (line["event"], line["bytes"]) == ("line_cut", count + 6)
        assert f"The audit trail ended in {count + 6} bytes that a crash had left" in caplog.text

    def test_and_of_nothing_else_was_the_first(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.report_dir.mkdir()
        (near_side.report_dir / AUDIT_JSONL).write_bytes(bytes(200_000))
        assert near_side.run().exit_code == 0
        assert events(near_side.report_dir)[0]["bytes"] == 200_000
        assert faults(near_side.report_dir) == ""

    def test_is_none_when_certified_lines_went(self, near_side: NearSide, twice: Path) -> None:
        trail = twice / AUDIT_JSONL
        content = trail.read_bytes()
        trail.write_bytes(content[:-300] + bytes(300))
        with pytest.raises(UsageError, match=REFUSED.format("is missing")):
            near_side.run()
        assert trail.read_bytes() == content[:-300] + bytes(300)


class TestNothing:
    def test_is_written_after_a_runs_end(self, tmp_path: Path) -> None:
        """It would belong to no run."""
        with closing(Trail(tmp_path)) as trail:
            trail.record(Event.RUN_STARTED, run_id="one")
            trail.record(Event.RUN_ENDED, run_id="one")
            with pytest.raises(StoppedError, match="The run is over"):
                trail.record(Event.STORED, key="late")
        assert [each["event"] for each in events(tmp_path)] == ["run_started", "run_ended"]


def contents(directory: Path) -> dict[str, bytes]:
    """Of every file."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
