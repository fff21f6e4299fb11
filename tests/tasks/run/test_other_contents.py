"""--on-conflict upload: each content of a SOP Instance UID is sent once, and no claim outlives its file."""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core.errors import StoppedError
from tests.conftest import Dicom, NearSide, Run, superseded
from tests.far_side import Deviation, FarSide, Request, Reset, Step, s3_error


def digest(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def ended(near_side: NearSide, **options: str) -> Run:
    """A run that may not wait for ever."""
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(near_side.run(**options)), daemon=True)
    thread.start()
    thread.join(60)
    assert runs, "it waits for a claim that nobody gives up"
    return runs[0]


def claims(near_side: NearSide) -> list[tuple[str, str]]:
    """Table and path of what is claimed and not stored."""
    query = "SELECT '{0}', path FROM {0} JOIN file ON file.file_id = {0}.file_id WHERE {0}.\"key\" = ''"
    with closing(sqlite3.connect(near_side.report_dir / "ledger.sqlite")) as db:
        return [row for table in ("instance", "other_content") for row in db.execute(query.format(table))]


class TestEachContent:
    def test_is_sent_once(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Five files, two contents: two objects, in every run."""
        contents = [dicom("1.1", "one"), dicom("1.1", "other")]
        bodies = {f"study/{number}": contents[number % 2] for number in range(5)}
        for name, body in bodies.items():
            near_side.put(name, body)
        run = ended(near_side, on_conflict="upload")
        assert sorted(run.statuses.values()) == ["duplicate"] * 3 + ["uploaded"] * 2
        again = near_side.run(on_conflict="upload", rehash=True)
        assert sorted(again.statuses.values()) == ["already_uploaded"] * 2 + ["duplicate"] * 3
        for each in (run, again):
            assert {name: far_side.bodies[row["key"]] for name, row in each.rows.items()} == bodies
            assert {key for row in each.rows.values() for key in superseded(row)} == set()
        assert (len(far_side.asked(Step.PUT)), run.exit_code, claims(near_side)) == (2, 0, [])
        assert run.keys_told == far_side.keys_handed_out - set(again.summary.unused_keys)

    def test_is_sent_too_when_the_file_that_it_duplicates_was_edited(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Its bytes are no instance's any more: a conflict, which `upload` sends without --rehash."""
        near_side.put("study/1", dicom("1.1", "one"))
        near_side.run()
        near_side.put("study/2", dicom("1.1", "one"))
        assert near_side.run().statuses["study/2"] == "duplicate"
        os.utime(near_side.put("study/1", dicom("1.1", "edited")), (1, 1))
        run = near_side.run()
        assert run.statuses == {"study/1": "uploaded/replaced", "study/2": "conflict"}
        assert near_side.run().statuses == {"study/1": "already_uploaded", "study/2": "conflict"}
        for said in ("uploaded", "already_uploaded"):
            run = near_side.run(on_conflict="upload")
            assert run.statuses == {"study/1": "already_uploaded", "study/2": said}
            assert far_side.bodies[run.row("study/2")["key"]] == dicom("1.1", "one")
            assert (run.exit_code, claims(near_side)) == (0, [])

    def test_is_known_to_runs_that_report_conflicts(self, near_side: NearSide, dicom: Dicom) -> None:
        """These bytes are stored; those that are not are a conflict."""
        near_side.put("study/1", dicom("1.1", "one"))
        near_side.put("study/2", dicom("1.1", "other"))
        near_side.run(on_conflict="upload")
        near_side.put("study/3", dicom("1.1", "one"))
        near_side.put("study/4", dicom("1.1", "other"))
        near_side.put("study/5", dicom("1.1", "third"))
        run = near_side.run()
        assert [run.statuses[f"study/{number}"] for number in (3, 4, 5)] == ["duplicate"] * 2 + ["conflict"]
        assert run.row("study/4")["key"] == run.row("study/2")["key"]
        assert run.row("study/4")["same_uid_path"] == run.row("study/2")["path"]

    def test_of_a_path_is_forgotten_with_its_next(self, near_side: NearSide, dicom: Dicom) -> None:
        """Its old key is superseded, so nothing may be a duplicate of that any more."""
        near_side.put("study/1", dicom("1.1", "one"))
        near_side.run()
        near_side.put("study/2", dicom("1.1", "other"))
        first = near_side.run(on_conflict="upload").row("study/2")
        near_side.put("study/2", dicom("1.1", "newer!"))
        second = near_side.run(on_conflict="upload").row("study/2")
        assert (second["status"], second["reason"], superseded(second)) == (
            "uploaded",
            "replaced",
            [first["key"]],
        )
        near_side.put("study/3", dicom("1.1", "other"))
        assert near_side.run(on_conflict="upload").statuses["study/3"] == "uploaded"


def vanish(path: Path) -> None:
    path.unlink()


def become_text(path: Path) -> None:
    path.write_text("no image any more, but long enough to look like something that was written")


class TestClaim:
    """A file that does not get to the end of its way leaves its claim to the others."""

    @pytest.mark.parametrize("on_conflict", ["report", "upload"])
    @pytest.mark.parametrize("disturb", [vanish, become_text])
    def test_of_a_file_that_is_unreadable_or_changed_is_free(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        on_conflict: str,
        disturb: Callable[[Path], None],
    ) -> None:
        """Of the UID, and of these bytes beside others."""
        if on_conflict == "upload":
            near_side.put("study/0", dicom("1.1", "one"))
            near_side.run()
        other = dicom("1.1", "other")
        for name in ("study/1", "study/2"):
            near_side.put(name, other)

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT or request.md5 != digest(other) or disturbed:
                return None
            ((_, path),) = claims(near_side)
            disturbed.append(Path(path).name)
            disturb(Path(path))
            return Reset()

        disturbed: list[str] = []
        far_side.script = script
        run = ended(near_side, on_conflict=on_conflict)
        (whole,) = {"1", "2"} - set(disturbed)
        assert run.statuses[f"study/{whole}"] == "uploaded"
        assert claims(near_side) == []

    def test_of_a_file_that_failed_passes_to_the_next_with_these_bytes(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/0", dicom("1.1", "one"))
        near_side.run()
        other = dicom("1.1", "other")
        for name in ("study/1", "study/2"):
            near_side.put(name, other)
        refused: list[Request] = []

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT or refused:
                return None
            refused.append(request)
            return s3_error(400, "InvalidRequest")

        far_side.script = script
        run = ended(near_side, on_conflict="upload")
        of_both = sorted(run.statuses[name] for name in ("study/1", "study/2"))
        assert of_both == ["failed/refused", "uploaded"]
        assert claims(near_side) == []

    def test_of_a_file_that_waits_for_another_is_free(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """It had another UID before it changed: whoever waits for that need not wait for ever."""
        slow, bodies = dicom("1.2", "slow"), {f"study/{n}": dicom("1.1", f"before {n}") for n in (1, 2)}
        for name, body in [("study/3", slow), *bodies.items()]:
            near_side.put(name, body)
        names = {digest(body): name for name, body in bodies.items()}
        slow_is_sent, changed = threading.Event(), []

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT and request.md5 == digest(slow):
                slow_is_sent.set()
                time.sleep(1.5)  # by then the other has come back with its UID
            elif request.step is Step.PUT and not changed:
                slow_is_sent.wait(60)
                changed.append(names[request.md5])
                near_side.put(changed[0], dicom("1.2", "after"))
                return Reset()
            return None

        far_side.script = script
        run = ended(near_side)
        ((still, _),) = (each for each in bodies.items() if each[0] not in changed)
        assert (run.statuses[changed[0]], run.statuses[still]) == ("conflict", "uploaded")
        assert claims(near_side) == []

    @pytest.mark.parametrize("end", ["stop", "exception"])
    def test_of_a_file_that_the_runs_end_cut_off_is_free(
        self, near_side: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        """Of what was under way, and of what waited for it."""
        near_side.put("study/0", dicom("1.1", "one"))
        near_side.run()
        for number in range(1, 4):
            near_side.put(f"study/{number}", dicom("1.1", "other"))

        async def broken(*_: object) -> None:
            raise StoppedError("Stopped.") if end == "stop" else RuntimeError("a defect")

        monkeypatch.setattr("tasks.upload.transfer.Transfer._store", broken)
        run = ended(near_side, on_conflict="upload")
        assert (run.exit_code, claims(near_side)) == (3, [])
        assert [run.statuses[f"study/{number}"] for number in range(1, 4)] == ["not_attempted/stopped"] * 3


def test_a_content_whose_path_holds_another_instance_now_keeps_its_object(
    near_side: NearSide, dicom: Dicom
) -> None:
    """It is all that is stored of these bytes: its key is not among the superseded ones."""
    near_side.put("study/a", dicom("1.1", "one"))
    near_side.put("study/b", dicom("1.1", "two"))
    near_side.run(on_conflict="upload")
    for number, name in enumerate("ab"):
        near_side.put(f"study/{name}", dicom(f"1.9.{number}"))
    run = near_side.run()
    assert {name: (row["status"], superseded(row)) for name, row in run.rows.items()} == {
        "study/a": ("uploaded", []),
        "study/b": ("uploaded", []),
    }
