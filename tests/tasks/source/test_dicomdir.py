"""A DICOMDIR is held against what lies beside it: what it lists and is absent has a row."""

import os
import shutil
from pathlib import Path
from struct import pack

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data.data_manager import DATA_ROOT

from tasks.core.models import Absence
from tasks.source.dicomdir import absent_files, file_ids
from tests.conftest import NearSide, instance

DISC = Path(DATA_ROOT, "test_files", "dicomdirtests")


def record(*components: str, in_use: int = 0xFFFF) -> bytes:
    """A directory record of a file, as far as it is looked at."""
    value = "\\".join(components).encode("latin-1")
    value += b" " * (len(value) % 2)
    flag = pack("<HH2sHH", 0x0004, 0x1410, b"US", 2, in_use)
    kind = pack("<HH2sH6s", 0x0004, 0x1430, b"CS", 6, b"IMAGE ")
    return flag + kind + pack("<HH2sH", 0x0004, 0x1500, b"CS", len(value)) + value


def dicomdir(*records: bytes) -> bytes:
    uid = pack("<HH2sH20s", 0x0002, 0x0002, b"UI", 20, b"1.2.840.10008.1.3.10")
    return (
        bytes(128) + b"DICM" + uid + pack("<HH2sHL", 0x0004, 0x1220, b"SQ", 0, 0xFFFFFFFF) + b"".join(records)
    )


class TestADisc:
    def test_without_some_of_its_files_is_not_complete(self, near_side: NearSide) -> None:
        """Each that is absent has a row where it would be; what else is there is sent."""
        near_side.put("study/DICOMDIR", dicomdir(record("A", "IM1"), record("A", "IM2"), record("Z", "IM3")))
        near_side.put("study/A/IM1", instance("1.1"))
        near_side.put("study/B", b"text")
        run = near_side.run()
        assert run.statuses == {
            "study/A/IM1": "uploaded",
            "study/A/IM2": "missing/not_found",
            "study/B": "not_dicom/text",
            "study/DICOMDIR": "not_dicom/dicomdir",
            "study/Z/IM3": "missing/not_found",
        }
        assert [row["path"] for row in run.rows.values()] == sorted(row["path"] for row in run.rows.values())
        assert run.row("study/A/IM2")["detail"] == Absence.LISTED
        assert (run.exit_code, run.summary.complete_studies) == (1, 0)

    def test_is_complete_once_they_are_there(self, near_side: NearSide) -> None:
        """The row goes, whatever the ledger has of it; so it does with the DICOMDIR."""
        index = near_side.put("study/DICOMDIR", dicomdir(record("IM1"), record("IM2")))
        near_side.put("study/IM1", instance("1.1"))
        assert near_side.run().exit_code == 1
        near_side.put("study/IM2", instance("1.2"))
        run = near_side.run()
        assert (run.exit_code, run.row("study/IM2")["status"]) == (0, "uploaded")
        index.write_bytes(dicomdir(record("IM1"), record("IM3")))
        assert near_side.run().row("study/IM3")["status"] == "missing"
        index.unlink()
        assert near_side.run().exit_code == 0

    def test_listed_by_two_indices_is_missed_once(self, near_side: NearSide) -> None:
        near_side.put("study/DICOMDIR", dicomdir(record("SUB", "IM1")))
        near_side.put("study/DICOMDIR.;1", dicomdir(record("SUB", "IM1"), record("SUB", "IM1")))
        near_side.put("study/SUB/dicomdir", dicomdir(record("IM1")))
        run = near_side.run()
        assert run.statuses["study/SUB/IM1"] == "missing/not_found"
        assert len(run.rows) == 4

    def test_that_an_earlier_run_saw_fail_has_one_row(self, near_side: NearSide) -> None:
        """Not another for the file that is gone since."""
        near_side.put("study/DICOMDIR", dicomdir(record("IM1")))
        path = near_side.put("study/IM1", instance("1.1")[:-40])
        assert near_side.run().statuses["study/IM1"] == "invalid/truncated"
        path.unlink()
        assert near_side.run().statuses == {
            "study/DICOMDIR": "not_dicom/dicomdir",
            "study/IM1": "missing/not_found",
        }

    @pytest.mark.parametrize(
        "name", ["DICOMDIR", "DICOMDIR-implicit", "DICOMDIR-bigEnd", "DICOMDIR-nooffset"]
    )
    def test_is_read_as_pydicom_reads_it(self, name: str) -> None:
        """Whatever its transfer syntax is, and whether its offsets lead anywhere."""
        index = pydicom.dcmread(DISC / name)
        listed = {
            tuple(record.ReferencedFileID)
            for record in index.DirectoryRecordSequence
            if record.get("ReferencedFileID")
        }
        found = {tuple(each.decode() for each in file_id) for file_id in file_ids((DISC / name).read_bytes())}
        assert found == listed
        assert len(listed) == 31

    def test_of_real_files_lacks_what_was_removed(self, tmp_path: Path) -> None:
        disc = tmp_path / "disc"
        shutil.copytree(DISC, disc)
        assert absent_files(bytes(disc), b"DICOMDIR") == []
        shutil.rmtree(disc / "98892001" / "CT5N")
        (disc / "77654033" / "CR1" / "6154").unlink()
        names = [
            str(Path(path.decode()).relative_to(disc)) for path in absent_files(bytes(disc), b"DICOMDIR")
        ]
        assert names[0] == "77654033/CR1/6154"
        assert {name.rpartition("/")[0] for name in names[1:]} == {"98892001/CT5N"}


class TestAFileId:
    @pytest.mark.parametrize(
        ("listed", "there"),
        [
            (("IMAGES", "IM1"), "images/im1"),
            (("images", "im1"), "IMAGES/IM1;1"),
            (("IMAGES", "IM1"), "IMAGES/IM1.;1"),
            (("IMAGES", "IM1"), "IMAGES/IM1.dcm"),
            (("IMAGES", "IM1.DCM"), "IMAGES/IM1"),
            (("IMAGES/IM1",), "IMAGES/IM1"),
            ((".", "IMAGES", "", "IM1 "), "IMAGES/IM1"),
            (("\xdcBER", "IM1"), "\udcdcBER/IM1"),
        ],
    )
    def test_is_found_as_media_are_copied(self, tmp_path: Path, listed: tuple[str, ...], there: str) -> None:
        """In another case, with a version or an extension or without one; in any bytes."""
        path = tmp_path / there
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        (tmp_path / "DICOMDIR").write_bytes(dicomdir(record(*listed)))
        assert absent_files(bytes(tmp_path), b"DICOMDIR") == []

    @pytest.mark.parametrize(
        "records",
        [
            record("..", "..", "etc", "IM1"),
            record("A", "..", "..", "IM1"),
            record(*["A"] * 17),
            record("IM1", in_use=0),
            record("IM\n1"),
            record("IM1")[:-2],
            record(""),
        ],
    )
    def test_that_names_no_file_of_the_disc_is_passed_over(self, tmp_path: Path, records: bytes) -> None:
        """It leads elsewhere, is not in use, or is cut."""
        (tmp_path / "DICOMDIR").write_bytes(dicomdir(records))
        assert absent_files(bytes(tmp_path), b"DICOMDIR") == []

    def test_in_a_directory_that_cannot_be_listed_is_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own row says why."""
        (tmp_path / "A").mkdir()
        (tmp_path / "DICOMDIR").write_bytes(dicomdir(record("A", "IM1"), record("A", "B", "IM2")))
        assert len(absent_files(bytes(tmp_path), b"DICOMDIR")) == 2
        listed = os.listdir

        def denied(path: bytes) -> list[bytes]:
            if path.endswith(b"/A"):
                raise PermissionError
            return listed(path)

        monkeypatch.setattr("tasks.source.dicomdir.os.listdir", denied)
        assert absent_files(bytes(tmp_path), b"DICOMDIR") == []

    @given(st.binary(max_size=400))
    def test_of_any_bytes_raises_nothing(self, content: bytes) -> None:
        """A hostile DICOMDIR ends like any other."""
        marks = dicomdir(record("A"), content, record("B"), content)
        assert all(b".." not in file_id for file_id in file_ids(marks))


def test_a_file_of_that_name_that_is_none_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(record("IM1"))
    assert absent_files(bytes(tmp_path), b"DICOMDIR") == []
    assert absent_files(bytes(tmp_path), b"none") == []
