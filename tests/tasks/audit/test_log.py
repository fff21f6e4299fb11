"""The audit trail of real runs."""

import errno
import fcntl
import os
from collections import Counter
from pathlib import Path

import pytest

from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import StoppedError, UsageError
from tasks.report.directory import AUDIT_JSONL
from tests.conftest import Dicom, NearSide
from tests.far_side import FarSide, Reset, Step, StoredAs, s3_error, scripted
from tests.tasks.audit.report_dirs import events, faults


class TestTrail:
    def test_of_a_run_tells_it_from_beginning_to_end(self, near_side: NearSide, dicom: Dicom) -> None:
        for number in range(3):
            near_side.put(f"study/{number}", dicom(f"1.{number}"))
        run = near_side.run(user_id="j.doe")
        told = events(near_side.report_dir)
        names = [each["event"] for each in told[:4]]
        assert names == ["run_started", "credential", "key_unused", "batch_started"]
        assert [told[2]["key"]] == run.summary.unused_keys
        assert told[0]["user_id"] == "j.doe"
        assert told[0]["run_id"] == run.summary.run_id
        assert Counter(each["event"] for each in told)["key_issued"] == 3
        stored = {each["key"]: each["sha256"] for each in told if each["event"] == "stored"}
        assert stored == {row["key"]: row["sha256"] for row in run.rows.values()}
        assert (told[-1]["event"], told[-1]["by_status"]) == ("run_ended", {"uploaded": 3})
        assert (near_side.report_dir / AUDIT_JSONL).stat().st_mode & 0o777 == 0o600

    def test_holds_no_secret(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.run()
        trail = (near_side.report_dir / AUDIT_JSONL).read_text()
        assert near_side.settings().token.get_secret_value() not in trail
        assert "X-Amz" not in trail
        assert str(near_side.archive) not in trail

    def test_is_one_chain_over_runs(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Failures, a conflict, a duplicate, a file that is replaced: they agree after each run."""
        paths = [near_side.put(f"study/{number}", dicom(f"1.{number}")) for number in range(6)]
        near_side.put("study/twin", dicom("1.3"))
        near_side.put("study/other", dicom("1.4", "other"))
        far_side.script = scripted(
            (Step.PUT, 1, Reset(stored=True)),
            (Step.PUT, 2, s3_error(400, "InvalidRequest")),
            (Step.PUT, 3, s3_error(403, "AccessDenied")),
            (Step.PUT, 4, StoredAs('"00000000000000000000000000000000"')),
        )
        first = near_side.run()
        assert faults(near_side.report_dir) == ""
        stored = next(n for n in (0, 1, 2, 5) if first.row(f"study/{n}")["status"] == "uploaded")
        paths[stored].write_bytes(dicom(f"1.{stored}", "anew"))
        run = near_side.run()
        assert faults(near_side.report_dir) == ""
        near_side.run(on_conflict="upload")
        assert faults(near_side.report_dir) == ""
        told = Counter(each["event"] for each in events(near_side.report_dir))
        assert told["run_ended"] == 3
        assert told["refused"] >= 1
        assert told["superseded"] >= 2
        assert run.row(f"study/{stored}")["reason"] == "replaced"

    def test_torn_by_a_crash_is_mended_by_the_next_run(self, near_side: NearSide, dicom: Dicom) -> None:
        """And the next run says so."""
        near_side.put("study/1", dicom("1.1"))
        near_side.run()
        with (near_side.report_dir / AUDIT_JSONL).open("ab") as file:
            file.write(b'{"no":99,"prev":"abc')
        assert "is cut off" in faults(near_side.report_dir)
        near_side.run()
        assert faults(near_side.report_dir) == ""
        assert {"line_cut": 20} in [{e["event"]: e.get("bytes")} for e in events(near_side.report_dir)]

    def test_belongs_to_one_run_at_a_time(self, near_side: NearSide, dicom: Dicom) -> None:
        """Two runs would overwrite each other's report."""
        near_side.put("study/1", dicom("1.1"))
        engine = near_side.engine()
        with pytest.raises(UsageError, match="Another run writes into this report directory"):
            near_side.engine()
        near_side.finished(engine)
        assert near_side.run().exit_code == 0

    def test_that_is_taken_back_is_what_it_was(self, tmp_path: Path) -> None:
        """Of a run that attempted nothing no line is left, whether it was on the disk already or not."""
        first = Trail(tmp_path)
        first.record(Event.RUN_STARTED, run_id="one")
        first.close()
        before = (tmp_path / AUDIT_JSONL).read_bytes()
        refused = Trail(tmp_path)
        refused.record(Event.RUN_STARTED, run_id="two")
        refused.flush()
        refused.record(Event.CREDENTIAL, credential="none")
        refused.undo()
        assert (tmp_path / AUDIT_JSONL).read_bytes() == before
        third = Trail(tmp_path)
        third.record(Event.RUN_STARTED, run_id="three")
        third.close()
        assert [(each["no"], each["run_id"]) for each in events(tmp_path)] == [(1, "one"), (2, "three")]

    def test_that_is_taken_back_and_was_new_is_gone(self, tmp_path: Path) -> None:
        trail = Trail(tmp_path)
        trail.record(Event.RUN_STARTED, run_id="one")
        trail.flush()
        trail.undo()
        assert list(tmp_path.iterdir()) == []

    def test_that_was_torn_is_mended_also_by_a_run_that_is_refused(self, tmp_path: Path) -> None:
        """What is cut off is told; no run is."""
        (tmp_path / AUDIT_JSONL).write_bytes(b'{"no":1,"prev":"abc')
        trail = Trail(tmp_path)
        trail.record(Event.RUN_STARTED, run_id="one")
        trail.undo()
        assert [each["event"] for each in events(tmp_path)] == ["line_cut"]

    def test_is_never_one_that_another_run_has_just_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Opened before it was removed, locked afterwards: it would be a trail that nobody can read."""
        refused = Trail(tmp_path)
        lock = fcntl.flock

        def late(file: int, how: int) -> None:
            monkeypatch.undo()
            refused.undo()
            lock(file, how)

        monkeypatch.setattr("tasks.audit.log.fcntl.flock", late)
        trail = Trail(tmp_path)
        trail.record(Event.RUN_STARTED, run_id="two")
        trail.close()
        assert [each["run_id"] for each in events(tmp_path)] == ["two"]

    def test_that_is_none_of_ours_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / AUDIT_JSONL).write_text("somebody's notes\n")
        with pytest.raises(UsageError, match="no audit trail of ours"):
            Trail(tmp_path)
        assert (tmp_path / AUDIT_JSONL).read_text() == "somebody's notes\n"

    def test_that_can_not_be_written_stays_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk takes half a line: it is taken back, and the whole line written once there is room."""
        trail = Trail(tmp_path)
        trail.record(Event.KEY_ISSUED, key="one")
        trail.flush()
        before = (tmp_path / AUDIT_JSONL).read_bytes()
        write = os_write_once_then_full(monkeypatch)
        trail.record(Event.KEY_ISSUED, key="two")
        with pytest.raises(StoppedError, match="No space left"):
            trail.flush()
        assert write
        monkeypatch.undo()
        assert (tmp_path / AUDIT_JSONL).read_bytes() == before
        trail.record(Event.KEY_ISSUED, key="three")
        trail.close()
        told = [(each["no"], each["key"]) for each in events(tmp_path)]
        assert told == [(1, "one"), (2, "two"), (3, "three")]


def os_write_once_then_full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    import os

    real, calls = os.write, []

    def write(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:10])

    monkeypatch.setattr("tasks.audit.log.os.write", write)
    return calls


class TestFullDisk:
    @pytest.mark.parametrize("event", [Event.BATCH_STARTED, Event.KEY_ISSUED, Event.STORED])
    def test_stops_the_run_and_loses_no_line(
        self, event: Event, near_side: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For a moment: exit 3, and trail and report agree, now and after the next."""
        for number in range(60):
            near_side.put(f"study/{number}", dicom(f"1.{number}"))
        full_at(monkeypatch, event)
        run = near_side.run()
        monkeypatch.undo()
        assert run.exit_code == 3
        assert faults(near_side.report_dir) == ""
        assert run.keys_told == near_side.far_side.keys_handed_out
        assert [each["event"] for each in events(near_side.report_dir)].count("batch_started") == 1
        assert near_side.run().exit_code == 0
        assert faults(near_side.report_dir) == ""


def full_at(monkeypatch: pytest.MonkeyPatch, event: Event) -> None:
    """A disk that has no room for the first group of lines that tells of this."""
    real, is_full = os.write, iter([True])

    def write(descriptor: int, data: bytes) -> int:
        if f'"{event}"'.encode() in data and next(is_full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("tasks.audit.log.os.write", write)
