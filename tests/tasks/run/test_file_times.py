"""Which stored files a run passes over: what size, mtime and ctime say, and what follows when they lie."""

import os
import time
from pathlib import Path

import pytest

from tasks.audit.check import audit
from tests.conftest import Dicom, NearSide, Run, superseded
from tests.databases import PostgreSQL
from tests.far_side import FarSide
from tests.processes import await_that

DAY_NS = 24 * 3600 * 10**9


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def ledger(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
    """Everything here holds on both."""
    return "" if request.param == "sqlite" else postgresql.new_database()


def rot(path: Path, body: bytes) -> None:
    """Other bytes, and times as before: ctime alone says that something happened."""
    times = path.stat()
    assert len(body) == times.st_size
    path.write_bytes(body)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def problems(run: Run, words: str) -> list[str]:
    return [problem for problem in run.summary.problems if words in problem]


class TestAltered:
    """Other bytes under the size and mtime of what is stored."""

    @pytest.mark.parametrize("options", [{}, {"rehash": True, "trust_ctime": False}])
    def test_file_is_not_sent_and_exit_code_1_until_it_is_as_it_was(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, options: dict[str, bool]
    ) -> None:
        """By its ctime, or by --rehash; its row names what is stored."""
        path = near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        rot(path, dicom("1.1", "bit rot"))
        for _ in range(2):
            run = near_side.run(**options)
            assert (run.statuses, run.exit_code) == ({"study/a": "changed/altered"}, 1)
            row = run.row("study/a")
            for name in ("key", "sop_instance_uid", "study_instance_uid", "sha256", "etag"):
                assert row[name] == first.row("study/a")[name] != ""
            assert superseded(row) == []
            assert problems(run, "so no edit: 1 file ")
        assert len(far_side.objects) == 1
        rot(path, dicom("1.1"))
        run = near_side.run()
        assert run.row("study/a") == first.row("study/a") | {"status": "already_uploaded"}
        assert (run.exit_code, audit(near_side.report_dir).faults) == (0, [])

    def test_file_is_sent_when_that_is_asked_for(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """--on-conflict upload: in place of what was stored."""
        path = near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        rot(path, dicom("1.1", "right"))
        assert near_side.run().exit_code == 1
        run = near_side.run(on_conflict="upload")
        assert (run.statuses, run.exit_code) == ({"study/a": "uploaded/replaced"}, 0)
        assert superseded(run.row("study/a")) == [first.row("study/a")["key"]]
        assert far_side.bodies[run.row("study/a")["key"]] == dicom("1.1", "right")

    def test_file_without_a_uid_is_altered_too(self, near_side: NearSide, dicom: Dicom) -> None:
        """DICOM, but of no instance any more."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.run()
        body = dicom("1.1")
        at = body.index(b"\x08\x00\x18\x00UI")
        length = int.from_bytes(body[at + 6 : at + 8], "little")
        rot(path, body[: at + 8] + b"\0" * length + body[at + 8 + length :])
        run = near_side.run()
        assert (run.statuses, run.exit_code) == ({"study/a": "changed/altered"}, 1)

    def test_copy_of_a_stored_file_is_altered_too(self, near_side: NearSide, dicom: Dicom) -> None:
        """A duplicate has the object of another: it is that one's key that its row has."""
        paths = [near_side.put(name, dicom("1.1")) for name in ("study/a", "study/b")]
        first = near_side.run()
        for path in paths:
            rot(path, dicom("1.1", "bit rot"))
        run = near_side.run()
        assert (set(run.statuses.values()), run.exit_code) == ({"changed/altered"}, 1)
        assert {row["key"] for row in run.rows.values()} == {first.row("study/a")["key"]}

    def test_file_that_holds_another_instance_is_an_edit(self, near_side: NearSide, dicom: Dicom) -> None:
        """Whoever moves files about keeps their times."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.run()
        rot(path, dicom("1.2"))
        assert near_side.run().statuses == {"study/a": "uploaded/replaced"}


class TestCtime:
    def test_that_alone_differs_is_read_once_and_kept(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A changed permission, a backup that resets atime: the summary counts these, once."""
        near_side.put("study/a", dicom("1.1"))
        path = near_side.put("study/b", dicom("1.2"))
        first = near_side.run()
        assert first.summary.problems == []
        path.chmod(0o600)
        run = near_side.run()
        assert run.row("study/b") == first.row("study/b") | {"status": "already_uploaded"}
        assert (len(problems(run, "read for their ctime alone: 1 file ")), run.exit_code) == (1, 0)
        again = near_side.run()
        assert (again.summary.problems, again.exit_code, len(far_side.objects)) == ([], 0, 2)

    def test_of_a_duplicate_is_kept_too(self, near_side: NearSide, dicom: Dicom) -> None:
        paths = [near_side.put(name, dicom("1.1")) for name in ("study/a", "study/b")]
        first = near_side.run()
        for path in paths:
            path.chmod(0o600)
        assert problems(near_side.run(), "read for their ctime alone: 2 files ")
        again = near_side.run()
        assert (again.summary.problems, again.exit_code) == ([], 0)
        assert sorted(again.statuses.values()) == ["already_uploaded", "duplicate"]
        assert {row["key"] for row in again.rows.values()} == {row["key"] for row in first.rows.values()}

    def test_is_nothing_to_go_by_where_it_is_not_trusted(self, near_side: NearSide, dicom: Dicom) -> None:
        """--no-trust-ctime: size and mtime alone say whether a file is passed over."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.run()
        rot(path, bytes(path.stat().st_size))
        run = near_side.run(trust_ctime=False)
        assert (run.statuses, run.summary.problems) == ({"study/a": "already_uploaded"}, [])
        assert near_side.run().statuses == {"study/a": "changed/damaged"}

    def test_and_not_the_inode_says_that_a_file_is_another(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """SMB and FUSE renew inodes; a new one with another ctime is read, and known."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.run()
        other = near_side.put("other", dicom("1.1"))
        times = path.stat()
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.rename(path)
        assert path.stat().st_ino != times.st_ino
        run = near_side.run()
        assert (run.statuses, len(far_side.objects)) == ({"study/a": "already_uploaded"}, 1)


class TestMtime:
    def test_no_older_than_the_read_is_doubted_the_next_time(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Other bytes may have come under the same mtime since, as git's index knows."""
        path = near_side.put("study/a", dicom("1.1"))
        os.utime(path, ns=(0, time.time_ns() + 60 * 10**9))  # the file server's clock, not ours
        near_side.run()
        rot(path, dicom("1.1", "same second"))
        assert near_side.run(trust_ctime=False).statuses == {"study/a": "changed/altered"}
        rot(path, dicom("1.1"))
        assert near_side.run(trust_ctime=False).exit_code == 0

    def test_older_than_the_read_is_believed_from_then_on(self, near_side: NearSide, dicom: Dicom) -> None:
        """A file that was read again, later than it was written, is not read a third time."""
        path = near_side.put("study/a", dicom("1.1"))
        written_ns = time.time_ns() - 18 * 10**8
        os.utime(path, ns=(0, written_ns))
        near_side.run()
        await_that(lambda: time.time_ns() > written_ns + 2 * 10**9)
        near_side.run()
        rot(path, bytes(path.stat().st_size))
        assert near_side.run(trust_ctime=False).statuses == {"study/a": "already_uploaded"}

    @pytest.mark.parametrize("options", [{}, {"min_age": 3600}])
    def test_out_of_range_is_no_sign_of_youth(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, options: dict[str, int]
    ) -> None:
        """Before 1970, SMB's 1601, and what no clock has said yet: sent, and known the next time."""
        times = {
            "1601": -11_644_473_600 * 10**9,
            "1969": -1,
            "in a year": time.time_ns() + 365 * DAY_NS,
            "3000": 32_503_680_000 * 10**9,
        }
        for number, (name, at_ns) in enumerate(times.items()):
            os.utime(near_side.put(f"study/{name}", dicom(f"1.{number}")), ns=(0, at_ns))
        run = near_side.run(**options)
        assert set(run.statuses.values()) == {"uploaded"}
        run = near_side.run(**options)
        assert (set(run.statuses.values()), run.exit_code) == ({"already_uploaded"}, 0)
        assert len(far_side.objects) == len(times)

    def test_a_little_ahead_is_young_as_clocks_differ(self, near_side: NearSide, dicom: Dicom) -> None:
        """A file server's clock may be ahead of ours by minutes."""
        path = near_side.put("study/a", dicom("1.1"))
        os.utime(path, ns=(0, time.time_ns() + 600 * 10**9))
        assert near_side.run(min_age=60).statuses == {"study/a": "not_attempted/too_young"}
