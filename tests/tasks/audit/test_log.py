"""The audit trail of real runs, and what `dicom-ingest audit` finds when somebody touched something."""

import csv
import fcntl
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks.audit.certificate import public_key, write_certificate
from tasks.audit.check import audit
from tasks.audit.log import AUDIT_JSONL, Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import StoppedError, UsageError
from tasks.report.reader import read_summary
from tasks.run.engine import ingest
from tests.conftest import Dicom, NearSide
from tests.far_side import FarSide, Reset, Step, StoredAs, s3_error, scripted


def events(report_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report_dir / AUDIT_JSONL).read_text().splitlines()]


def faults(report_dir: Path) -> str:
    return "\n".join(audit(report_dir).faults)


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
        first.tell(Event.RUN_STARTED, run_id="one")
        first.close()
        before = (tmp_path / AUDIT_JSONL).read_bytes()
        refused = Trail(tmp_path)
        refused.tell(Event.RUN_STARTED, run_id="two")
        refused.flush()
        refused.tell(Event.CREDENTIAL, credential="none")
        refused.undo()
        assert (tmp_path / AUDIT_JSONL).read_bytes() == before
        third = Trail(tmp_path)
        third.tell(Event.RUN_STARTED, run_id="three")
        third.close()
        assert [(each["no"], each["run_id"]) for each in events(tmp_path)] == [(1, "one"), (2, "three")]

    def test_that_is_taken_back_and_was_new_is_gone(self, tmp_path: Path) -> None:
        trail = Trail(tmp_path)
        trail.tell(Event.RUN_STARTED, run_id="one")
        trail.flush()
        trail.undo()
        assert list(tmp_path.iterdir()) == []

    def test_that_was_torn_is_mended_also_by_a_run_that_is_refused(self, tmp_path: Path) -> None:
        """What is cut off is told; no run is."""
        (tmp_path / AUDIT_JSONL).write_bytes(b'{"no":1,"prev":"abc')
        trail = Trail(tmp_path)
        trail.tell(Event.RUN_STARTED, run_id="one")
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
        trail.tell(Event.RUN_STARTED, run_id="two")
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
        """A full disk takes half a line: it is taken back."""
        trail = Trail(tmp_path)
        trail.tell(Event.KEY_ISSUED, key="one")
        trail.flush()
        before = (tmp_path / AUDIT_JSONL).read_bytes()
        write = os_write_once_then_full(monkeypatch)
        trail.tell(Event.KEY_ISSUED, key="two")
        with pytest.raises(StoppedError, match="No space left"):
            trail.flush()
        assert write
        monkeypatch.undo()
        assert (tmp_path / AUDIT_JSONL).read_bytes() == before
        trail.tell(Event.KEY_ISSUED, key="three")
        trail.close()
        assert [each["no"] for each in events(tmp_path)] == [1, 2]


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


@pytest.fixture
def reported(near_side: NearSide, dicom: Dicom) -> Path:
    """A report directory of three stored files."""
    for number in range(3):
        near_side.put(f"study/{number}", dicom(f"1.{number}"))
    near_side.run()
    return near_side.report_dir


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


class TestAudit:
    def test_of_what_nobody_touched_finds_nothing(self, reported: Path) -> None:
        found = audit(reported)
        assert (found.faults, found.lines, found.elsewhere) == ([], len(events(reported)), 0)

    @pytest.mark.parametrize(
        ("name", "change", "fault"),
        [
            (AUDIT_JSONL, lambda text: text.replace('"stored"', '"refused"', 1), "broken: line"),
            (AUDIT_JSONL, lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "certificate names"),
            (
                "report.csv",
                lambda text: text.replace(",uploaded,", ",invalid,", 1),
                "report.csv is not as it was",
            ),
            (
                "report.csv",
                lambda text: text[: text.rindex("\n1,3")] + "\n",
                "study 1 file 3: a key was issued",
            ),
            ("studies.csv", lambda text: text.replace("true", "false"), "studies.csv is not as it was"),
            (
                "summary.json",
                lambda text: re.sub(r'"unused_keys": \[[^]]*\]', '"unused_keys": []', text),
                "A key was handed out at the start that unused_keys of summary.json does not name",
            ),
            ("summary.json", lambda text: text.replace('"files": 3', '"files": 4'), "summary.json is not"),
            ("certificate.json", lambda text: "", "no certificate.json that can be read"),
        ],
    )
    def test_says_what_was_touched(
        self, reported: Path, name: str, change: Callable[[str], str], fault: str
    ) -> None:
        edit(reported / name, change)
        assert fault in faults(reported)

    def test_says_which_row_has_a_key_or_bytes_that_were_never_stored(self, reported: Path) -> None:
        """Also when somebody wrote a new certificate over a report of his own making."""
        stored = [each for each in events(reported) if each["event"] == "stored"]
        edit(reported / "report.csv", lambda text: text.replace(stored[0]["key"], "uploads/nowhere"))
        edit(reported / "report.csv", lambda text: text.replace(stored[1]["sha256"], "0" * 64))
        assert "the trail does not know its key" in faults(reported)
        assert "other bytes were stored" in faults(reported)

    def test_says_that_something_was_sent_to_an_unused_key(self, reported: Path) -> None:
        stored = next(each["key"] for each in events(reported) if each["event"] == "stored")
        edit(reported / "summary.json", lambda text: re.sub(r'(?<="unused_keys": \[)', f'"{stored}",', text))
        assert "the trail has what was stored there" in faults(reported)

    def test_of_files_stored_by_a_run_elsewhere_counts_them(
        self, near_side: NearSide, reported: Path
    ) -> None:
        elsewhere = near_side.directory / "elsewhere"
        near_side.run(report_dir=elsewhere, ledger=str(reported / "ledger.sqlite"))
        found = audit(elsewhere)
        assert (found.faults, found.elsewhere) == ([], 3)

    def test_of_an_earlier_report_looks_at_the_trail_up_to_its_end(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """What was stored then is superseded now; a change to that report, or to its lines, is found."""
        near_side.put("study/1", dicom("1.1"))
        near_side.run()
        near_side.put("study/1", dicom("1.1", "anew"))
        near_side.run()
        (earlier,) = (near_side.report_dir / "runs").iterdir()
        found = audit(earlier)
        assert (found.faults, found.events["run_ended"]) == ([], 1)
        assert faults(near_side.report_dir) == ""
        assert found.lines < len(events(near_side.report_dir))
        edit(earlier / "report.csv", lambda text: text.replace(",uploaded,", ",invalid,"))
        assert "report.csv is not as it was" in faults(earlier)
        edit(near_side.report_dir / AUDIT_JSONL, lambda text: text.replace('"stored"', '"refused"', 1))
        assert "broken: line" in faults(earlier)

    def test_of_a_report_by_an_earlier_version_finds_nothing(
        self, near_side: NearSide, reported: Path
    ) -> None:
        """It has fewer columns; the next run moves it to `runs/`, where it is audited as well."""
        for name, unknown in (
            ("report.csv", {"same_uid_path", "detail"}),
            ("studies.csv", {"bytes", "why", "seen_study_instance_uids", "modalities"}),
        ):
            with (reported / name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            with (reported / name).open("w", newline="") as file:
                names = [column for column in rows[0] if column not in unknown]
                writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        with closing(Trail(reported)) as trail:
            write_certificate(reported, read_summary(reported), trail.chain)
        assert faults(reported) == ""
        near_side.run()
        (earlier,) = (reported / "runs").iterdir()
        assert (faults(reported), faults(earlier)) == ("", "")

    def test_of_a_report_directory_in_one_named_runs_is_of_its_own_trail(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """A name that an operator may choose."""
        near_side.put("study/1", dicom("1.1"))
        monday = near_side.directory / "runs" / "monday"
        ingest(near_side.entries(), near_side.settings(report_dir=monday))
        assert faults(monday) == ""

    @pytest.mark.parametrize("place", ["", "gone", "gone/runs/20231114T221320.123456Z-0", "file"])
    def test_of_a_path_that_holds_no_run_makes_nothing(self, tmp_path: Path, place: str) -> None:
        """One sentence says that there is none."""
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"There is no run in this directory.* no audit\.jsonl"):
            audit(tmp_path / place)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestCertificate:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path]:
        """Made by openssl, as README says."""
        private, public = tmp_path / "key.pem", tmp_path / "public.pem"
        for command in (
            ["genpkey", "-algorithm", "ed25519", "-out", private],
            ["pkey", "-in", private, "-pubout", "-out", public],
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return private, public

    def test_is_signed_as_openssl_verifies_it(
        self, near_side: NearSide, dicom: Dicom, keys: tuple[Path, Path]
    ) -> None:
        private, public = keys
        near_side.put("study/1", dicom("1.1"))
        near_side.run(signing_key=private)
        verify = ["-verify", "-rawin", "-pubin", "-inkey", str(public)]
        files = ["-in", "certificate.json", "-sigfile", "certificate.sig"]
        subprocess.run(["openssl", "pkeyutl", *verify, *files], check=True, cwd=near_side.report_dir)
        found = audit(near_side.report_dir, public_key(public))
        assert (found.faults, found.signed) == ([], True)
        edit(near_side.report_dir / "certificate.json", lambda text: text + " ")
        assert "certificate.sig is no signature" in audit(near_side.report_dir, public_key(public)).faults[-1]

    def test_needs_a_key_that_is_one(self, near_side: NearSide, dicom: Dicom, tmp_path: Path) -> None:
        """Known before anything is sent."""
        near_side.put("study/1", dicom("1.1"))
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(UsageError, match="DICOM_INGEST_SIGNING_KEY"):
            near_side.run(signing_key=tmp_path / "key.pem")

    def test_of_an_earlier_run_moves_with_its_report(
        self, near_side: NearSide, dicom: Dicom, keys: tuple[Path, Path]
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.run(signing_key=keys[0])
        near_side.run()
        (earlier,) = (near_side.report_dir / "runs").iterdir()
        assert {path.name for path in earlier.iterdir()} >= {"certificate.json", "certificate.sig"}
        assert not (near_side.report_dir / "certificate.sig").exists()
        found = audit(earlier, public_key(keys[1]))
        assert (found.faults, found.signed) == ([], True)
