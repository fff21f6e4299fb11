"""`dicom-ingest resolve` and `retry`: what a run left is worked off, by rule, by a list, and one by one."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from flows.cli.resolving import Filter, Look, ask
from tasks.declaration import load_as
from tasks.report.reader import read_report, read_summary
from tasks.settings import ResolveSettings
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

    def test_conflict_that_is_sent_all_the_same_is_none(self) -> None:
        """Its file is what it was; what was accepted is that it is not sent."""
        decide("ignore", "invalid")
        assert decide("keep", "conflict") == 0
        assert execute(["upload", "-p", "archive", "--on-conflict", "upload"]) == 0
        assert (said()["2"], rows()["2"]["detail"]) == ("uploaded", "")
        assert read_summary(REPORT).accepted == 1

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


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert resolve(*arguments) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def give_back(lines: list[dict[str, str]], *more: str, encoding: str = "utf-8", separator: str = ",") -> int:
    with Path("list.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, lines[0], delimiter=separator, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(lines)
    return resolve("--decisions", "list.csv", *more)


@pytest.mark.usefixtures("archive")
class TestList:
    def test_has_the_rows_that_a_person_may_decide_about_and_what_differs(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Tag by tag; values where they are asked for, for these may name a patient."""
        lines = listed(capsys)
        assert [(line["file_no"], line["status"], line["possible"]) for line in lines] == [
            ("2", "conflict", "upload keep ignore"),
            ("3", "invalid", "ignore"),
        ]
        assert lines[0]["differs"] == "ImageComments (0020,4000); pixels: equal"
        with_values = listed(capsys, "--values", "--status", "conflict")
        assert [line["differs"] for line in with_values] == [
            "ImageComments (0020,4000): other | ; pixels: equal"
        ]
        assert [line["differs"] for line in listed(capsys, "--no-compare")] == ["", ""]

    def test_pipes_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An object a line."""
        capsys.readouterr()
        assert resolve("--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["status"] for line in lines] == ["conflict", "invalid"]
        lines[1] |= {"decision": "ignore", "reason_text": "a test"}
        Path("list.json").write_text("\n".join(map(json.dumps, lines)))
        assert resolve("--decisions", "list.json") == 1
        assert rows()["3"]["detail"].startswith("accepted (ignore) by anna: a test")

    @pytest.mark.parametrize(("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8", "\t")])
    def test_is_given_back_with_decisions(
        self, capsys: pytest.CaptureFixture[str], encoding: str, separator: str
    ) -> None:
        """As a spreadsheet leaves it: a mark, blanks, empty rows, other columns, another separator."""
        lines = listed(capsys)
        lines[0] |= {"decision": " Keep ", "reason_text": " it counts "}
        lines[1] |= {"decision": "ignore"}
        lines.append(dict.fromkeys(lines[0], ""))
        lines = [{"note": "x", **line} for line in lines]
        assert give_back(lines, "--reason-text", "all of them", encoding=encoding, separator=separator) == 0
        assert rows()["2"]["detail"] == "accepted (keep) by anna: it counts"
        assert rows()["3"]["detail"].startswith("accepted (ignore) by anna: all of them")
        again = listed(capsys)
        assert [line["decision"] for line in again] == ["keep", "ignore"]
        again[1] |= {"decision": "none", "reason_text": "no"}
        assert give_back(again, "--reason-text", "x") == 1
        assert "Decided so already: 1 row" in capsys.readouterr().err
        assert [line["decision"] for line in listed(capsys)] == ["keep", ""]

    def test_is_refused_whole_with_every_fault(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = listed(capsys)
        before = (REPORT / "audit.jsonl").read_bytes()
        good = lines[1] | {"decision": "ignore", "reason_text": "a test"}
        faulty = [
            lines[0] | {"decision": "accept", "reason_text": "x" * 1001},
            good,
            good,
            lines[0] | {"decision": "keep", "path": ""},
        ]
        assert give_back(faulty) == 2
        told = capsys.readouterr().err
        for fault in (
            "The list of decisions was refused: 5 faults. Nothing was decided.",
            "row 1, decision: is none of upload, keep, ignore, withdraw, none",
            "row 1, reason_text: has more than 1,000 characters",
            "row 3, path: is in the list already",
            "row 4, reason_text: is empty, and there is no --reason-text",
            "row 4, path: is empty",
        ):
            assert fault in told
        assert (REPORT / "audit.jsonl").read_bytes() == before
        assert give_back([{"path": "x", "decision": "keep"}]) == 2
        assert "--decisions lacks the column as_of" in capsys.readouterr().err
        Path("list.csv").write_bytes(b"\xff\xfe\0\0")
        assert resolve("--decisions", "list.csv") == 2
        assert "--decisions is neither CSV nor JSON lines in UTF-8" in capsys.readouterr().err
        for rule in (("--decision", "keep"), ("--status", "conflict")):
            assert resolve("--decisions", "list.csv", *rule) == 2
            assert "row by row. Leave out --decision" in capsys.readouterr().err

    def test_rows_that_are_others_by_now_are_refused_one_by_one(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each with why; the others are settled."""
        put(archive / "4", instance("1.4")[:-40])
        put(archive / "5", instance("1.5")[:-40])
        upload()
        lines = [line | {"decision": "ignore", "reason_text": "a test"} for line in listed(capsys)]
        lines[0]["decision"] = "upload"
        lines[3]["decision"] = "upload"
        put(archive / "3", instance("1.3")[:-42])
        put(archive / "4", instance("1.4"))
        upload()
        assert give_back(lines) == 1
        told = capsys.readouterr().err
        assert "row 2: it has another row, or is another file, than when it was listed" in told
        assert "row 3: it is not in the last run's report any more, or is fine by now" in told
        assert "row 4: it is invalid/truncated, for which the decision can be ignore" in told
        assert [line["decision"] for line in listed(capsys)] == ["upload", "", ""]

    def test_of_a_path_that_would_be_a_formula_comes_back(
        self, archive: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The one escape is undone."""
        put(archive / "a\n b\\x\udcff ", instance("1.4")[:-40])
        upload()
        (line,) = (line for line in listed(capsys) if line["file_no"] == "4")
        assert give_back([line | {"decision": "ignore", "reason_text": "=cmd\\x41"}]) == 1
        assert rows()["a\n b\\x\udcff "]["detail"].startswith("accepted (ignore) by anna: =cmd\\x41")


class TestWhoDecides:
    def test_and_why_has_to_be_said(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (REPORT / "audit.jsonl").read_bytes()
        assert decide("keep", "conflict", " ") == 2
        assert "--reason-text has to say why" in capsys.readouterr().err
        assert decide("accept", "conflict") == 2
        assert "--decision is one of upload, keep, ignore, withdraw" in capsys.readouterr().err
        assert decide("ignore", "not_attempted") == 2
        assert "nothing can be decided about not_attempted" in capsys.readouterr().err
        monkeypatch.setenv("DICOM_INGEST_USER_ID", "")
        assert decide("keep", "conflict") == 2
        assert "DICOM_INGEST_USER_ID has to say who decides" in capsys.readouterr().err
        assert (REPORT / "audit.jsonl").read_bytes() == before


class TestAtTheTerminal:
    def test_rows_are_settled_one_by_one(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With what differs; a decision that a row does not leave open is asked for again."""
        answers = iter(["k", "the first counts", "keep", "i", ""])
        asked: list[str] = []

        def read(prompt: str) -> str:
            asked.append(prompt)
            return next(answers)

        settings = load_as(ResolveSettings, report_dir=REPORT)
        assert ask(settings, Filter((), ()), Look(with_values=True), read) == 0
        assert asked == [
            "[upload/keep/ignore/quit, or nothing to skip] ",
            "why: ",
            *["[ignore/quit, or nothing to skip] "] * 2,
            "why [the first counts]: ",
        ]
        told = capsys.readouterr().out
        assert "differs: ImageComments (0020,4000): other | \n" in told
        assert "differs: pixels: equal" in told
        assert rows()["3"]["detail"].startswith("accepted (ignore) by anna: the first counts")

    @pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
    def test_what_was_decided_is_kept_when_somebody_has_enough(
        self, archive: Path, end: type[BaseException]
    ) -> None:
        answers = iter(["upload", "both count"])

        def read(_prompt: str) -> str:
            for answer in answers:
                return answer
            raise end

        assert ask(load_as(ResolveSettings, report_dir=REPORT), Filter((), ()), Look(), read) == 1
        assert rows()["2"]["detail"] == "upload by anna: both count"
        assert "accepted" not in rows()["3"]["detail"]
