"""`dicom-ingest resolve` and `retry`: what a run left is worked off, by rule, by a list, and one by one."""

import csv
import json
import os
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tasks.report.reader import read_report, read_summary
from tests.conftest import instance
from tests.far_side import TOKEN, FarSide

REPORT = Path("report")


@pytest.fixture
def archive(here: Path, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One image stored, one of its UID with other bytes, one cut off: a run has reported them."""
    for name, value in (("API_ENDPOINT", far_side.url), ("TOKEN", TOKEN), ("USER_ID", "anna")):
        monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
    put(here / "archive/1", instance("1.1"))
    put(here / "archive/2", instance("1.1", "other"))
    put(here / "archive/3", instance("1.3")[:-40])
    assert upload() == 1
    return here / "archive"


def put(path: Path, body: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)
    os.utime(path, (10**9, 10**9))


def upload() -> int:
    return execute(["upload", "-p", "archive"])


def resolve(*arguments: str) -> int:
    return execute(["resolve", "report", *arguments])


def decide(decision: str, status: str, why: str = "the first scan counts", *more: str) -> int:
    return resolve("--status", status, "--decision", decision, "--reason-text", why, *more)


def rows() -> dict[str, dict[str, str]]:
    return {Path(row["path"]).name: row for row in read_report(REPORT)}


def said() -> dict[str, str]:
    return {name: f"{row['status']}/{row['reason']}".rstrip("/") for name, row in rows().items()}


def study() -> dict[str, str]:
    with (REPORT / "studies.csv").open() as file:
        (row,) = csv.DictReader(file)
    return row


def trail() -> list[dict[str, str]]:
    return [json.loads(line) for line in (REPORT / "audit.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("archive")
class TestAccepted:
    def test_rows_keep_status_and_reason_and_are_no_reason_for_exit_code_1(self) -> None:
        """Once all that is left is accepted; the report, the trail and the next runs say so."""
        before = said()
        assert decide("keep", "conflict") == 1
        assert study()["complete"] == "false"
        assert decide("ignore", "invalid", "a test image") == 0
        for _ in range(2):
            assert {name: said()[name] for name in "23"} == {name: before[name] for name in "23"}
            assert rows()["2"]["detail"] == "accepted (keep) by anna: the first scan counts"
            assert rows()["3"]["detail"].startswith("accepted (ignore) by anna: a test image [it ends")
            summary = read_summary(REPORT)
            assert (summary.accepted, summary.exit_code, summary.complete_studies) == (2, 0, 0)
            assert (study()["complete"], study()["why"]) == ("with_exceptions", "2 accepted")
            assert execute(["audit"]) == 0
            assert upload() == 0

    def test_rows_are_on_the_trail_with_who_and_why(self) -> None:
        decide("keep", "conflict")
        (line,) = (each for each in trail() if each["event"] == "decided")
        assert {name: line[name] for name in ("decision", "status", "user_id", "reason_text", "file_no")} == {
            "decision": "keep",
            "status": "conflict",
            "user_id": "anna",
            "reason_text": "the first scan counts",
            "file_no": 2,
        }
        assert "archive" not in json.dumps(line)

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("2", instance("1.1", "third")),
            ("3", instance("1.3")[:-42]),
            ("3", instance("1.4")[:-40]),
        ],
    )
    def test_rows_of_a_file_that_changed_are_not_accepted_any_more(
        self, archive: Path, name: str, body: bytes
    ) -> None:
        """Also when its size and mtime are what they were: its ctime, or its SHA-256, is not."""
        decide("keep", "conflict")
        assert decide("ignore", "invalid") == 0
        put(archive / name, body)
        assert upload() == 1
        assert "accepted" not in rows()[name]["detail"]
        assert read_summary(REPORT).accepted == 1

    def test_conflict_is_one_again_when_other_bytes_are_stored(self, archive: Path) -> None:
        """The decision was about these two contents."""
        decide("ignore", "invalid")
        assert decide("keep", "conflict") == 0
        (archive / "1").write_bytes(instance("1.1", "newer"))
        assert upload() == 1
        assert said()["1"] == "uploaded/replaced"
        assert rows()["2"]["detail"] == ""

    def test_row_of_another_outcome_is_not(self, archive: Path) -> None:
        """What was accepted is that it is cut off, not whatever becomes of it."""
        decide("keep", "conflict")
        decide("ignore", "invalid")
        (archive / "3").unlink()
        (archive / "3").symlink_to("nowhere")
        assert upload() == 1
        assert said()["3"] == "unreadable/broken_link"

    def test_rows_are_a_reason_again_once_that_is_withdrawn(self) -> None:
        """Which is on the trail, too."""
        decide("keep", "conflict")
        assert decide("ignore", "invalid") == 0
        assert decide("withdraw", "invalid", "it was a mistake") == 1
        assert (rows()["3"]["detail"][:11], read_summary(REPORT).accepted) == ("it ends wit", 1)
        assert [each["decision"] for each in trail() if each["event"] == "decided"] == [
            "keep",
            "ignore",
            "withdraw",
        ]
        assert execute(["audit"]) == 0
        assert upload() == 1


class TestRetry:
    def test_sends_what_a_decision_says(self, archive: Path, far_side: FarSide) -> None:
        """Without a manifest; what is accepted is left alone, and the rest is as it was."""
        decide("ignore", "invalid")
        decide("upload", "conflict", "both count")
        put(archive / "4", instance("1.4"))
        assert execute(["retry", "report", "--status", "conflict"]) == 0
        assert far_side.bodies[rows()["2"]["key"]] == instance("1.1", "other")
        assert (said()["2"], said()["3"], read_summary(REPORT).accepted) == (
            "uploaded",
            "invalid/truncated",
            1,
        )
        assert execute(["audit"]) == 0

    def test_has_nothing_to_do_when_all_that_is_left_is_accepted(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        decide("keep", "conflict")
        decide("ignore", "invalid")
        assert execute(["retry", "report"]) == 2
        assert "left nothing that is chosen" in capsys.readouterr().err

    def test_is_told_of_a_status_that_is_none(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert execute(["retry", "report", "--status", "failed,uploaded"]) == 2
        assert "nothing to send again that is uploaded" in capsys.readouterr().err


@pytest.mark.usefixtures("archive")
class TestUpload:
    def test_sends_the_file_beside_what_is_stored(self, far_side: FarSide) -> None:
        """By the next run: until then it is a conflict, and exit code 1."""
        decide("ignore", "invalid")
        assert decide("upload", "conflict", "both count") == 1
        assert rows()["2"]["detail"] == "upload by anna: both count"
        assert upload() == 0
        assert said() == {"1": "already_uploaded", "2": "uploaded", "3": "invalid/truncated"}
        assert far_side.bodies[rows()["2"]["key"]] == instance("1.1", "other")
        assert execute(["audit"]) == 0

    def test_does_not_send_other_bytes_than_those_it_is_about(self, archive: Path) -> None:
        decide("upload", "conflict")
        put(archive / "2", instance("1.1", "third"))
        assert upload() == 1
        assert said()["2"] == "conflict"
