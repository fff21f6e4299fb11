"""What an earlier run left without storing it, and what is gone since: a row in each run until it is back."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core.models import StudyEntry
from tasks.ledger.database import connect
from tasks.ledger.schema import instance
from tasks.run.engine import ingest
from tasks.source.scan import just_file
from tests.conftest import Dicom, NearSide, Run
from tests.databases import PostgreSQL
from tests.far_side import FarSide, Step, always, s3_error, status

GONE = "missing/not_found"
REFUSED = s3_error(400, "InvalidRequest")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def ledger(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
    """Everything here holds on both."""
    return "" if request.param == "sqlite" else postgresql.new_database()


def problems(run: Run, words: str) -> list[str]:
    return [problem for problem in run.summary.problems if words in problem]


LEFT: dict[str, Callable[[Path, Dicom], None]] = {
    "failed/refused": lambda path, dicom: write(path, dicom("9.9")),
    "invalid/truncated": lambda path, dicom: write(path, dicom("9.9")[:-10]),
    "invalid/no_preamble": lambda path, dicom: write(path, dicom("9.9")[132:]),
    "unreadable/broken_link": lambda path, _dicom: path.symlink_to("/nowhere"),
    "conflict": lambda path, dicom: write(path, dicom("1.1", "other")),
    "too_large": lambda path, _dicom: write_sparse(path, 5 * 1024**3 + 1),
}


def set_ahead(ledger: Path | str) -> None:
    """As if each run that stored something had a clock that was ahead by a day."""
    engine = connect(ledger)
    with engine.execution_options(writes=True).begin() as db:
        db.execute(sa.update(instance).values(finished_ns=instance.c.finished_ns + 86_400 * 10**9))
    engine.dispose()


def write(path: Path, body: bytes) -> None:
    path.write_bytes(body)


def write_sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


WHERE = [
    *(("sqlite", left) for left in LEFT),
    ("postgresql", "invalid/truncated"),
    ("postgresql", "conflict"),
]


class TestFileThatWasLeft:
    @pytest.mark.parametrize(("ledger", "left"), WHERE, indirect=["ledger"])
    def test_and_is_gone_is_missing_until_it_is_back(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, left: str
    ) -> None:
        """Whatever kept it from being stored; in path order, and with exit code 1 in each run."""
        near_side.put("study/a", dicom("1.1"))
        near_side.put("study/z", dicom("1.3"))
        near_side.run()
        path = near_side.archive / "study" / "m\n=é"
        LEFT[left](path, dicom)
        far_side.script = always(Step.PUT, REFUSED)
        assert near_side.run().statuses["study/m\n=é"] == left
        far_side.script = lambda _request: None
        path.unlink()
        for _ in range(2):
            run = near_side.run()
            assert run.statuses == {
                "study/a": "already_uploaded",
                "study/m\n=é": GONE,
                "study/z": "already_uploaded",
            }
            assert [row["file_no"] for row in run.rows.values()] == ["1", "2", "3"]
            assert run.row("study/m\n=é")["key"] == ""
            assert (run.exit_code, run.keys_told >= set(far_side.objects)) == (1, True)
        write(path, dicom("2.2"))
        run = near_side.run()
        assert (run.statuses["study/m\n=é"], run.exit_code) == ("uploaded", 0)

    def test_before_any_run_came_to_it_is_missing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Listed, and the run was stopped: nobody read it."""
        for name in ("a", "b", "c"):
            near_side.put(f"study/{name}", dicom(f"1.{ord(name)}"))
        far_side.script = lambda request: (
            status(401) if request.step is Step.PRESIGN and request.n > 1 else None
        )
        stopped = near_side.run(parallel=1)
        left = {name for name, said in stopped.statuses.items() if said == "not_attempted/stopped"}
        assert left
        far_side.script = lambda _request: None
        for name in left:
            (near_side.archive / name).unlink()
        for _ in range(2):
            run = near_side.run()
            assert {name for name, said in run.statuses.items() if said == GONE} == left
            assert run.exit_code == 1

    def test_and_whose_bytes_are_stored_from_elsewhere_has_no_row(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Moved: what was refused under one path is stored under another."""
        path = near_side.put("study/a", dicom("1.1"))
        far_side.script = always(Step.PUT, REFUSED)
        near_side.run()
        far_side.script = lambda _request: None
        path.rename(path.with_name("b"))
        for said in ("uploaded", "already_uploaded"):
            run = near_side.run()
            assert (run.statuses, run.exit_code) == ({"study/b": said}, 0)

    def test_and_whose_uid_is_stored_since_has_no_row(self, near_side: NearSide, dicom: Dicom) -> None:
        """A copy that was cut off, and then made again elsewhere."""
        path = near_side.put("study/a", dicom("1.1")[:-10])
        near_side.run()
        path.unlink()
        near_side.put("study/b", dicom("1.1"))
        for said in ("uploaded", "already_uploaded"):
            run = near_side.run()
            assert (run.statuses, run.exit_code) == ({"study/b": said}, 0)

    def test_in_conflict_is_missing_whatever_the_clock_said(
        self, near_side: NearSide, ledger: str, dicom: Dicom
    ) -> None:
        """What is stored was so before: by a run whose clock was ahead of this one's."""
        near_side.put("study/a", dicom("1.1"))
        near_side.run()
        path = near_side.put("study/b", dicom("1.1", "other"))
        assert near_side.run().statuses["study/b"] == "conflict"
        set_ahead(ledger or near_side.report_dir / "ledger.sqlite")
        path.unlink()
        for _ in range(2):
            run = near_side.run()
            assert (run.statuses, run.exit_code) == ({"study/a": "already_uploaded", "study/b": GONE}, 1)

    def test_of_an_edited_path_is_missing_whatever_the_clock_said(
        self, near_side: NearSide, far_side: FarSide, ledger: str, dicom: Dicom
    ) -> None:
        """Its first bytes were stored by a run whose clock was ahead; those of the edit were refused."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.run()
        near_side.put("study/a", dicom("1.1", "edited"))
        os.utime(path, (1, 1))
        far_side.script = always(Step.PUT, REFUSED)
        assert near_side.run().statuses == {"study/a": "failed/refused"}
        set_ahead(ledger or near_side.report_dir / "ledger.sqlite")
        path.unlink()
        for _ in range(2):
            run = near_side.run()
            assert (run.statuses, run.exit_code) == ({"study/a": GONE}, 1)

    def test_and_whose_bytes_are_stored_beside_others_of_its_uid_has_no_row(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        near_side.put("study/a", dicom("1.1"))
        near_side.run()
        near_side.put("study/b", dicom("1.1", "other"))
        path = near_side.put("study/c", dicom("1.1", "other"))
        assert near_side.run().statuses["study/c"] == "conflict"
        path.unlink()
        for said in ("uploaded", "already_uploaded"):
            run = near_side.run(on_conflict="upload")
            assert run.statuses == {"study/a": "already_uploaded", "study/b": said}
            assert run.exit_code == 0

    def test_because_it_was_too_young_has_no_row(self, near_side: NearSide, dicom: Dicom) -> None:
        """What comes and goes within a minute is some writer's own."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.put("study/b", dicom("1.2"))
        os.utime(path)
        assert near_side.run(min_age=600).statuses["study/a"] == "not_attempted/too_young"
        path.unlink()
        run = near_side.run(min_age=600)
        assert (run.statuses, run.exit_code) == ({"study/b": "already_uploaded"}, 0)

    def test_in_a_directory_that_is_not_walked_is_not_known_to_be_gone(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A study whose share is not mounted has its one row; another study's files are another's."""
        for name in ("a/1", "ab/1", "b/deep/1"):
            near_side.put(name, dicom(f"1.{ord(name[0])}.{len(name)}"))
        far_side.script = always(Step.PUT, REFUSED)
        entries = near_side.entries()
        near_side.run()
        shutil.rmtree(near_side.archive / "a")
        shutil.rmtree(near_side.archive / "b" / "deep")
        run = near_side.told(ingest(entries, near_side.settings(), edges=near_side.edges))
        assert run.statuses == {"a": GONE, "ab/1": "failed/refused", "b/deep/1": GONE}
        assert [row["study_no"] for row in run.rows.values()] == ["1", "2", "3"]

    def test_is_the_row_of_the_first_entry_that_holds_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Where study directories lie in one another."""
        path = near_side.put("study/inner/1", dicom("1.1"))
        near_side.put("study/2", dicom("1.2"))
        far_side.script = always(Step.PUT, REFUSED)
        inner, outer = StudyEntry(1, str(path.parent)), StudyEntry(2, str(path.parents[1]))
        for entries in ([inner, outer], [replace(outer, study_no=1), replace(inner, study_no=2)]):
            near_side.put("study/inner/1", dicom("1.1"))
            ingest(entries, near_side.settings(), edges=near_side.edges)
            path.unlink()
            run = near_side.told(ingest(entries, near_side.settings(), edges=near_side.edges))
            assert (run.statuses["study/inner/1"], run.row("study/inner/1")["study_no"]) == (GONE, "1")
            assert len(run.rows) == 2

    def test_beside_the_one_file_that_is_sent_has_no_row(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """`upload -p FILE` looks at nothing else."""
        path, other = (near_side.put(f"study/{name}", dicom(f"1.{name}")) for name in ("1", "2"))
        far_side.script = always(Step.PUT, REFUSED)
        near_side.run()
        far_side.script = lambda _request: None
        other.unlink()
        entry = StudyEntry(1, str(path.parent))
        run = near_side.told(ingest([entry], near_side.settings(), scan=just_file(path)))
        assert run.statuses == {"study/1": "uploaded"}

    def test_with_a_path_longer_than_an_index_takes_is_missing_too(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Also directories whose paths begin alike for longer than the index looks."""
        deep = "study/" + "/".join(["d" * 200] * 4)
        paths = [near_side.put(f"{deep}/{name}", dicom(f"1.{n}")) for n, name in enumerate(("a/1", "b/1"))]
        far_side.script = always(Step.PUT, REFUSED)
        entries = [StudyEntry(number, str(path.parent)) for number, path in enumerate(paths, 1)]
        ingest(entries, near_side.settings(), edges=near_side.edges)
        for path in paths:
            path.unlink()
        run = near_side.told(ingest(entries, near_side.settings(), edges=near_side.edges))
        assert [row["study_no"] for row in run.rows.values()] == ["1", "2"]
        assert set(run.statuses.values()) == {GONE}

    def test_are_found_page_by_page(self, near_side: NearSide, far_side: FarSide) -> None:
        """More than are read at once, some gone and some not."""
        names = [f"study/{number:05}" for number in range(2100)]
        for name in names:
            near_side.put(name, b"\0")
        near_side.run()
        gone = set(names[::2])
        for name in gone:
            (near_side.archive / name).unlink()
        run = near_side.run()
        assert {name for name, said in run.statuses.items() if said == GONE} == gone
        assert list(run.rows) == names


class TestStoredFileThatIsGone:
    def test_has_no_row_and_is_counted(self, near_side: NearSide, dicom: Dicom) -> None:
        """Damaged ones and duplicates too: what they held is stored."""
        for name in "abcd":
            near_side.put(f"study/{name}", dicom(f"1.{ord(name)}"))
        near_side.put("study/e", dicom(f"1.{ord('d')}"))
        near_side.run()
        near_side.put("study/c", b"")
        assert near_side.run().exit_code == 1
        for name in "bce":
            (near_side.archive / "study" / name).unlink()
        run = near_side.run()
        assert (set(run.rows), run.exit_code) == ({"study/a", "study/d"}, 0)
        assert problems(run, "gone since the run before, and stored: 3 files")
