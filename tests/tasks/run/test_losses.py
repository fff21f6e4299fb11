"""A loss is never exit code 0: files that are not any more what was stored, or never were stored."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.audit.check import audit
from tests.conftest import Dicom, NearSide, Row, Run, superseded
from tests.databases import PostgreSQL
from tests.far_side import FarSide, Step, always, s3_error

NAMED = (
    "key",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "sha256",
    "md5",
    "etag",
    "crc64nvme",
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def ledger(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
    """Everything here holds on both."""
    return "" if request.param == "sqlite" else postgresql.new_database()


def named(row: Row) -> dict[str, str]:
    """What a row says of the stored object."""
    return {name: row[name] for name in NAMED}


def problems(run: Run, words: str) -> list[str]:
    return [problem for problem in run.summary.problems if words in problem]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _body: b"",
    "zeros": lambda body: bytes(len(body)),
    "text": lambda _body: b"The patient moved.\n",
    "other": lambda _body: b"\x89PNG\r\n\x1a\n" + bytes(range(99)),
    "archive": lambda _body: b"PK\3\4rest",
    "truncated": lambda body: body[:-10],
    "no_preamble": lambda body: body[132:],
}


WHERE = [*(("sqlite", now) for now in DAMAGES), ("postgresql", "empty"), ("postgresql", "truncated")]


class TestStoredFile:
    @pytest.mark.parametrize(("ledger", "now"), WHERE, indirect=["ledger"])
    def test_that_is_no_whole_image_any_more_is_damaged_until_it_is_whole(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, now: str
    ) -> None:
        """Whatever run looks; the row names the stored object, which is nobody's superseded key."""
        body = dicom("1.1")
        near_side.put("study/IM1", body)
        near_side.put("study/IM2", dicom("1.2"))
        first = near_side.run()
        near_side.put("study/IM1", DAMAGES[now](body))
        for options in ({}, {"rehash": True}, {"on_conflict": "upload"}):
            run = near_side.run(**options)
            assert run.statuses == {"study/IM1": "changed/damaged", "study/IM2": "already_uploaded"}
            row = run.row("study/IM1")
            assert named(row) == named(first.row("study/IM1"))
            assert (row["detail"], superseded(row), run.exit_code) == (now, [], 1)
            assert problems(run, "damaged since their instances were stored: 1 file ")
        near_side.put("study/IM1", body)
        run = near_side.run()
        assert run.row("study/IM1") == first.row("study/IM1") | {"status": "already_uploaded"}
        assert (run.exit_code, run.summary.problems, len(far_side.objects)) == (0, [], 2)

    def test_that_was_edited_without_success_and_then_emptied_is_damaged(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Its key and UIDs are those of what is stored, not of what was looked at last."""
        near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        near_side.put("study/a", dicom("2.2", "another image"))
        far_side.script = always(Step.PUT, s3_error(400, "InvalidRequest"))
        failed = near_side.run()
        assert failed.statuses == {"study/a": "failed/refused"}
        assert first.row("study/a")["key"] not in superseded(failed.row("study/a"))
        assert problems(failed, "for their files hold something else now: 1 object")
        near_side.put("study/a", b"")
        near_side.run(min_age=3600)  # too young: another look that opens nothing
        run = near_side.run()
        assert run.statuses == {"study/a": "changed/damaged"}
        assert named(run.row("study/a")) == named(first.row("study/a"))
        assert superseded(run.row("study/a")) == superseded(failed.row("study/a"))
        near_side.put("study/a", dicom("1.1"))
        assert near_side.run().statuses == {"study/a": "already_uploaded"}
        assert audit(near_side.report_dir).faults == []

    def test_that_was_a_duplicate_names_the_object_that_it_shares(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Its instance is stored, be it from another path; whole again it is a duplicate again."""
        for name in ("study/a", "study/b"):
            near_side.put(name, dicom("1.1"))
        first = near_side.run()
        (copy,) = (name for name, status in first.statuses.items() if status == "duplicate")
        near_side.put(copy, b"")
        for _ in range(2):
            run = near_side.run()
            assert run.statuses[copy] == "changed/damaged"
            assert run.row(copy)["key"] == first.row(copy)["key"] != ""
            assert run.row(copy)["sop_instance_uid"] == first.row(copy)["sop_instance_uid"]
        near_side.put(copy, dicom("1.1"))
        assert near_side.run().statuses[copy] == "duplicate"

    def test_that_was_sent_beside_another_of_its_uid_is_known_again(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """--on-conflict upload gave it an object of its own: damaged, then whole, it has that one still."""
        bodies = {"study/a": dicom("1.1", "one"), "study/b": dicom("1.1", "other")}
        for name, body in bodies.items():
            near_side.put(name, body)
        first = near_side.run(on_conflict="upload")
        for name in bodies:
            near_side.put(name, b"")
        damaged = near_side.run()
        assert set(damaged.statuses.values()) == {"changed/damaged"}
        assert [damaged.row(name)["key"] for name in bodies] == [first.row(name)["key"] for name in bodies]
        for name, body in bodies.items():
            near_side.put(name, body)
        run = near_side.run()
        assert set(run.statuses.values()) == {"already_uploaded"}
        assert [run.row(name)["key"] for name in bodies] == [first.row(name)["key"] for name in bodies]
        assert len(far_side.objects) == 2

    @pytest.mark.parametrize("what", ["link to nothing", "no permission to open"])
    def test_that_can_not_be_read_names_the_stored_object(
        self, near_side: NearSide, dicom: Dicom, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also one that the scan itself can't read; it stays `unreadable`."""
        path = near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        if what == "link to nothing":
            path.unlink()
            path.symlink_to("/nowhere")
        else:
            near_side.put("study/a", dicom("1.1", "edited"))
            monkeypatch.setattr(os, "open", refusing(path))
        for _ in range(2):
            run = near_side.run()
            row = run.row("study/a")
            assert (row["status"], run.exit_code) == ("unreadable", 1)
            assert named(row) == named(first.row("study/a"))
            assert superseded(row) == []

    def test_that_holds_another_instance_now_leaves_the_first_its_object(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Which is not superseded, but the object of its instance: counted, in every run."""
        near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        near_side.put("study/a", dicom("1.2"))
        for status in ("uploaded/replaced", "already_uploaded"):
            run = near_side.run()
            assert (run.statuses, run.exit_code) == ({"study/a": status}, 0)
            assert first.row("study/a")["key"] not in superseded(run.row("study/a"))
            assert problems(run, "for their files hold something else now: 1 object")


class TestFileThatWasNeverStored:
    @pytest.mark.parametrize("size_bytes", [1, 132, 4096, 9 * 1024 * 1024])
    def test_of_zeros_is_truncated(self, near_side: NearSide, far_side: FarSide, size_bytes: int) -> None:
        """Whatever its size; `not_dicom` would be exit code 0."""
        near_side.put("study/IM1", bytes(size_bytes))
        for _ in range(2):
            run = near_side.run(on_conflict="upload")
            assert (run.statuses, run.exit_code) == ({"study/IM1": "invalid/truncated"}, 1)
            assert run.row("study/IM1")["detail"] == "zeros"
            assert problems(run, "never stored: 1 file ")
        assert far_side.objects == {}

    @pytest.mark.parametrize(
        ("empty", "image"), [("IM0001", "IM0002"), ("IM0003", "IM0002"), ("7.dcm", ".dcm")]
    )
    def test_that_is_empty_beside_an_image_of_its_name_is_truncated(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, empty: str, image: str
    ) -> None:
        """Digits aside; before or after it, and also where the image is settled without being opened."""
        near_side.put(f"study/{image}", dicom("1.1"))
        assert near_side.run().exit_code == 0
        near_side.put(f"study/{empty}", b"")
        for _ in range(2):
            run = near_side.run()
            assert run.statuses == {
                f"study/{empty}": "invalid/truncated",
                f"study/{image}": "already_uploaded",
            }
            assert (run.row(f"study/{empty}")["detail"], run.exit_code) == ("empty", 1)
            assert problems(run, "never stored: 1 file ")
        assert len(far_side.objects) == 1

    def test_that_is_empty_beside_no_image_of_its_name_is_none(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Neither another name's, nor another directory's, nor one that is empty too."""
        near_side.put("study/IM0002", dicom("1.1"))
        for name in ("lock", "IM", "deep/IM0001", "log1", "log2", "IM1.txt"):
            near_side.put(f"study/{name}", b"")
        near_side.put("study/log3", b"The patient moved.\n")
        run = near_side.run()
        del run.rows["study/IM"]  # which is the image's, digits aside
        expected = dict.fromkeys(run.rows, "not_dicom/empty")
        assert run.statuses == expected | {"study/IM0002": "uploaded", "study/log3": "not_dicom/text"}


def refusing(refused: Path) -> Callable[..., int]:
    """os.open, which may not open this file."""
    opens = os.open

    def call(path: object, *more: int, **named: int) -> int:
        if path == str(refused):
            raise PermissionError(13, "Permission denied")
        return opens(path, *more, **named)  # type: ignore[arg-type]

    return call
