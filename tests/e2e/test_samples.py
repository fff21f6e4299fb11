"""The demo's archive is what it claims to be, and its check sees through every kind of untrue report."""

import base64
import csv
import hashlib
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from awscrt.checksums import crc64nvme
from pydicom.data.data_manager import DATA_ROOT
from pydicom.errors import InvalidDicomError

from deployments.sandbox.demo_check import compare
from deployments.sandbox.samples import Expected, Pair, Planted, build
from tasks.core.errors import UsageError
from tasks.core.models import Reason, Status

SLICES = 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return build(tmp_path_factory.mktemp("samples") / "archive", SLICES)


def paths_of(planted: Planted, *statuses: Status) -> list[Path]:
    return [Path(path) for path, expected in planted.expected.items() if expected.status in statuses]


def the_one(planted: Planted, reason: Reason) -> Path:
    (path,) = (Path(path) for path, expected in planted.expected.items() if expected.reason is reason)
    return path


def header_of(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)


class TestArchive:
    def test_names_every_file_once(self, planted: Planted) -> None:
        """What lies in the study directories, and the directory that is not there, is what is expected."""
        root = planted.manifest.parent
        on_disk = {os.path.join(top, name) for top, _, names in os.walk(root) for name in names}
        twins = [path for pair in planted.pairs for path in pair.paths]
        assert len(set(twins)) == len(twins)
        assert not planted.expected.keys() & set(twins)
        named = {*planted.expected, *twins}
        assert named - on_disk == {str(path) for path in paths_of(planted, Status.MISSING)}
        assert on_disk - named == {str(planted.manifest)}

    def test_copies_real_files_byte_for_byte(self, planted: Planted) -> None:
        """All that is to be stored and was not generated is one of pydicom's files, unchanged."""
        real = {
            hashlib.sha256(path.read_bytes()).digest()
            for path in Path(DATA_ROOT, "test_files").rglob("*")
            if path.is_file()
        }
        copies = [
            path
            for path in paths_of(planted, Status.UPLOADED)
            if hashlib.sha256(path.read_bytes()).digest() in real
        ]
        generated = [
            path
            for path in paths_of(planted, Status.UPLOADED)
            if header_of(path).get("Manufacturer") == "Phantom"
        ]
        assert len(copies) > 100
        assert sorted(copies + generated) == sorted(paths_of(planted, Status.UPLOADED))

    def test_stores_each_instance_once(self, planted: Planted) -> None:
        """SOP Instance UIDs are those in the files, and none is to be stored twice."""
        stored = {path: header_of(path).SOPInstanceUID for path in paths_of(planted, Status.UPLOADED)}
        assert all(planted.expected[str(path)].sop_instance_uid == uid for path, uid in stored.items())
        uids = [*stored.values(), *(pair.sop_instance_uid for pair in planted.pairs)]
        assert len(set(uids)) == len(uids)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's broken files are read here as well
    def test_has_every_transfer_syntax_of_pydicoms_files(self, planted: Planted) -> None:
        """Also deflated, big endian and each compression, among the files that are certainly uploaded."""
        offered = set()
        for path in Path(DATA_ROOT, "test_files").rglob("*"):
            try:
                header = header_of(path) if path.is_file() else pydicom.Dataset()
            except InvalidDicomError:
                continue
            if "SOPInstanceUID" in header:
                offered.add(header.file_meta.TransferSyntaxUID)
        assert offered
        assert offered == {
            header_of(path).file_meta.TransferSyntaxUID for path in paths_of(planted, Status.UPLOADED)
        }

    def test_is_as_mixed_as_a_real_archive(self, planted: Planted) -> None:
        """Many modalities, no image at all, multi-frame files, private tags, no Study Instance UID."""
        headers = [header_of(path) for path in paths_of(planted, Status.UPLOADED)]
        modalities = {header.get("Modality") for header in headers}
        assert modalities >= {"CR", "CT", "ECG", "MR", "NM", "OT", "RTDOSE", "RTPLAN", "SR", "US"}
        assert any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers)
        assert any(tag.is_private for header in headers for tag in header.keys())  # noqa: SIM118
        assert any("StudyInstanceUID" not in header for header in headers)

    def test_refuses_a_folder_that_holds_something(self, tmp_path: Path) -> None:
        """Nothing is removed or mixed in: the operator is told to name another folder."""
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(UsageError, match="empty folder") as refused:
            build(tmp_path, SLICES)
        assert str(tmp_path) not in str(refused.value)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_is_the_same_each_time(self, planted: Planted, tmp_path: Path) -> None:
        """Two archives differ in nothing but where they are."""
        again = build(tmp_path / "again", SLICES)
        here, there = (str(archive.manifest.parent) for archive in (planted, again))
        assert again.expected == {
            path.replace(here, there, 1): expected for path, expected in planted.expected.items()
        }
        assert again.manifest.read_bytes() == planted.manifest.read_bytes()
        for path in paths_of(planted, Status.UPLOADED, Status.INVALID):
            assert Path(str(path).replace(here, there, 1)).read_bytes() == path.read_bytes()

    def test_may_go_to_another_process(self, planted: Planted) -> None:
        """What was planted is plain data."""
        assert pickle.loads(pickle.dumps(planted)) == planted


class TestManifest:
    @pytest.fixture
    def entries(self, planted: Planted) -> dict[str, dict[str, str]]:
        with planted.manifest.open(newline="") as file:
            return {entry["study_dir"]: entry for entry in csv.DictReader(file)}

    def test_lists_every_study_directory_and_one_that_is_not_there(
        self, planted: Planted, entries: dict[str, dict[str, str]]
    ) -> None:
        """Relative names, next to the manifest."""
        root = planted.manifest.parent
        (missing,) = paths_of(planted, Status.MISSING)
        assert planted.expected[str(missing)].reason is Reason.NOT_FOUND
        there = {path.name for path in root.iterdir() if path.is_dir()}
        assert there | {missing.name} == set(entries)
        assert missing.name not in there

    def test_says_nothing_untrue_of_a_study(
        self, planted: Planted, entries: dict[str, dict[str, str]]
    ) -> None:
        """A Study Instance UID is that of all its instances, and a good study has as many as it should."""
        uids: dict[str, list[str]] = {name: [] for name in entries}
        twins = [Path(path) for pair in planted.pairs for path in pair.paths]
        for path in [*paths_of(planted, Status.UPLOADED), *twins]:
            study_dir = path.relative_to(planted.manifest.parent).parts[0]
            uids[study_dir].append(str(header_of(path).get("StudyInstanceUID", "")))
        for name, entry in entries.items():
            assert not entry["study_instance_uid"] or set(uids[name]) <= {entry["study_instance_uid"]}
            assert len(uids[name]) <= int(entry["expected_instances"] or len(uids[name]))
        assert entries["CT_phantom"]["expected_instances"] == str(SLICES) == str(len(uids["CT_phantom"]))


class TestPhantom:
    def test_is_a_signed_16_bit_ct_with_private_tags(self, planted: Planted) -> None:
        """Slices of 512 by 512 with air, bone and brain in them, in one series, numbered from 1."""
        slices = [
            pydicom.dcmread(path)
            for path in paths_of(planted, Status.UPLOADED)
            if path.parent.name == "CT_phantom"
        ]
        assert [int(image.InstanceNumber) for image in slices] == list(range(1, SLICES + 1))
        assert len({image.SeriesInstanceUID for image in slices}) == 1
        for image in slices:
            assert image.private_block(0x0019, "DICOM-INGEST SAMPLES")[0x02].value == bytes(range(256))
            pixels = image.pixel_array
            assert pixels.shape == (512, 512)
            assert pixels.dtype == np.int16
            assert pixels.min() < -900
            assert pixels.max() > 1100


class TestPlanted:
    def test_no_images_are_what_they_are_called(self, planted: Planted) -> None:
        """DICOMDIR, nothing at all, text, .DS_Store and a zip archive."""
        assert header_of(the_one(planted, Reason.DICOMDIR)).file_meta.MediaStorageSOPClassUID == (
            "1.2.840.10008.1.3.10"
        )
        assert the_one(planted, Reason.EMPTY).read_bytes() == b""
        assert the_one(planted, Reason.TEXT).read_text("ascii").rstrip("\n").isprintable()
        assert the_one(planted, Reason.SYSTEM_FILE).name == ".DS_Store"
        with zipfile.ZipFile(the_one(planted, Reason.ARCHIVE)) as packed:
            assert packed.testzip() is None

    def test_cut_files_end_before_their_own_lengths_say(self, planted: Planted) -> None:
        """One in its header behind the SOP Instance UID, one in native pixel data, one in encapsulated."""
        cut = [path for path, expected in planted.expected.items() if expected.reason is Reason.TRUNCATED]
        header, native, encapsulated = (Path(path) for path in cut)
        read = pydicom.dcmread(header, force=True)
        assert read.SOPInstanceUID == planted.expected[str(header)].sop_instance_uid
        assert "PatientID" in read
        assert "Rows" not in read
        read = pydicom.dcmread(native)
        assert 0 < len(read.PixelData) < read.Rows * read.Columns * 2
        assert "PixelData" not in header_of(encapsulated)
        assert not encapsulated.read_bytes().endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
        with pytest.raises(Exception, match=r"(?i)end of file|unexpected|delimiter"):
            pydicom.dcmread(encapsulated)

    def test_a_data_set_without_preamble_is_one(self, planted: Planted) -> None:
        """It has no DICM prefix, and its elements parse all the same."""
        path = the_one(planted, Reason.NO_PREAMBLE)
        with pytest.raises(InvalidDicomError):
            pydicom.dcmread(path)
        read = pydicom.dcmread(path, force=True)
        assert read.SOPInstanceUID == planted.expected[str(path)].sop_instance_uid

    def test_twins_share_their_uid_and_only_the_duplicate_its_bytes(self, planted: Planted) -> None:
        """An exact duplicate has the same bytes at another path; a conflict has other bytes."""
        same_bytes = {}
        for pair in planted.pairs:
            first, second = map(Path, pair.paths)
            assert header_of(first).SOPInstanceUID == header_of(second).SOPInstanceUID
            assert header_of(first).SOPInstanceUID == pair.sop_instance_uid
            same_bytes[pair.loser] = first.read_bytes() == second.read_bytes()
        assert same_bytes == {Status.DUPLICATE: True, Status.CONFLICT: False}

    def test_a_broken_link_points_nowhere(self, planted: Planted) -> None:
        """It is a link, and what it points to is not there."""
        path = the_one(planted, Reason.BROKEN_LINK)
        assert path.is_symlink()
        assert not path.exists()

    def test_a_name_is_not_utf_8(self, planted: Planted) -> None:
        """Its bytes survive in the path, as the operating system would open it."""
        odd = [path for path in paths_of(planted, Status.UPLOADED) if b"\xe4" in os.fsencode(path)]
        assert [os.fsencode(path.name) for path in odd] == ([b"Sch\xe4del.dcm"] if takes_any_name() else [])


def takes_any_name() -> bool:
    return sys.platform == "linux"


class TestPermissions:
    READS = '''
import subprocess, sys
from deployments.sandbox.privileges import drop_dac_capabilities
print(drop_dac_capabilities(), drop_dac_capabilities(), flush=True)
reads = """
try:
    open(sys.argv[1]).close()
    print("read", flush=True)
except PermissionError:
    print("refused", flush=True)
"""
exec(reads)
subprocess.run([sys.executable, "-c", "import sys" + reads, sys.argv[1]], check=True)
'''

    def test_mode_000_bites_whoever_runs_it(self, planted: Planted) -> None:
        """Also root, once it let go of its capabilities, and the programs that it starts then."""
        path = the_one(planted, Reason.PERMISSION)
        root = Path(__file__).parents[2]
        ran = subprocess.run(
            [sys.executable, "-c", self.READS, path], cwd=root, capture_output=True, text=True, check=True
        )
        assert ran.stdout.split() == ["True", "True", "refused", "refused"]


@dataclass
class Told:
    """A report, and the bucket that it speaks of."""

    bucket: Path
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    more_rows: list[dict[str, str]] = field(default_factory=list)

    def upload(self, path: str, uid: str) -> dict[str, str]:
        body = Path(path).read_bytes()
        key = f"{len(self.rows)}.dcm"
        (self.bucket / key).write_bytes(body)
        return row(
            path,
            Expected(Status.UPLOADED, Reason.NONE, uid),
            key=key,
            size_bytes=str(len(body)),
            sha256=hashlib.sha256(body).hexdigest(),
            md5=hashlib.md5(body).hexdigest(),
            crc64nvme=base64.b64encode(crc64nvme(body).to_bytes(8, "big")).decode(),
        )

    def disagreements(self, planted: Planted) -> list[str]:
        keys = {path.name for path in self.bucket.iterdir()}
        rows = [*self.rows.values(), *self.more_rows]
        return compare(planted, rows, lambda key: self.bucket / key, keys)


def row(path: str, expected: Expected, **cells: str) -> dict[str, str]:
    empty = dict.fromkeys(
        ("key", "superseded_keys", "size_bytes", "sha256", "md5", "crc64nvme", "same_uid_path"), ""
    )
    outcome = {"status": str(expected.status), "reason": str(expected.reason)}
    return {**empty, "path": path, **outcome, "sop_instance_uid": expected.sop_instance_uid, **cells}


def tell(planted: Planted, bucket: Path, winner: int) -> Told:
    """A true report, in which the first or the second twin of each pair won."""
    told = Told(bucket)
    for path, expected in planted.expected.items():
        stored = expected.status is Status.UPLOADED
        told.rows[path] = told.upload(path, expected.sop_instance_uid) if stored else row(path, expected)
    for pair in planted.pairs:
        won, lost = pair.paths[winner], pair.paths[1 - winner]
        told.rows[won] = told.upload(won, pair.sop_instance_uid)
        key = told.rows[won]["key"] if pair.loser is Status.DUPLICATE else ""
        loser = Expected(pair.loser, Reason.NONE, pair.sop_instance_uid)
        told.rows[lost] = row(lost, loser, key=key, same_uid_path=won)
    return told


@pytest.fixture
def told(planted: Planted, tmp_path: Path) -> Told:
    return tell(planted, tmp_path, winner=1)


def victim(planted: Planted) -> str:
    return str(paths_of(planted, Status.UPLOADED)[0])


def twins_of(planted: Planted, loser: Status) -> Pair:
    (pair,) = (pair for pair in planted.pairs if pair.loser is loser)
    return pair


def forget_a_row(told: Told, planted: Planted) -> None:
    (told.bucket / told.rows.pop(victim(planted))["key"]).unlink()


def forget_the_missing_directory(told: Told, planted: Planted) -> None:
    del told.rows[str(the_one(planted, Reason.NOT_FOUND))]


def invent_a_row(told: Told, planted: Planted) -> None:
    told.more_rows.append(row("/not/planted.dcm", Expected(Status.NOT_DICOM, Reason.TEXT)))


def name_a_file_twice(told: Told, planted: Planted) -> None:
    told.more_rows.append(dict(told.rows[str(the_one(planted, Reason.TEXT))]))


def tell_another_status(told: Told, planted: Planted) -> None:
    told.rows[str(the_one(planted, Reason.PERMISSION))]["status"] = "not_dicom"


def tell_another_reason(told: Told, planted: Planted) -> None:
    told.rows[str(the_one(planted, Reason.EMPTY))]["reason"] = "text"


def tell_another_uid(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["sop_instance_uid"] = "1.2.3"


def tell_no_uid(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["sop_instance_uid"] = ""


def store_both_twins(told: Told, planted: Planted) -> None:
    lost, _ = twins_of(planted, Status.CONFLICT).paths
    told.rows[lost] = told.upload(lost, told.rows[lost]["sop_instance_uid"])


def store_no_twin(told: Told, planted: Planted) -> None:
    _, won = twins_of(planted, Status.CONFLICT).paths
    (told.bucket / told.rows[won]["key"]).unlink()
    told.rows[won].update(status="conflict", key="")


def give_the_duplicate_another_key(told: Told, planted: Planted) -> None:
    lost, _ = twins_of(planted, Status.DUPLICATE).paths
    told.rows[lost]["key"] = told.rows[victim(planted)]["key"]


def name_no_file_for_the_conflict(told: Told, planted: Planted) -> None:
    lost, _ = twins_of(planted, Status.CONFLICT).paths
    told.rows[lost]["same_uid_path"] = ""


def name_a_file_where_none_is(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["same_uid_path"] = "/a/b"


def give_a_key_to_what_was_not_sent(told: Told, planted: Planted) -> None:
    told.rows[str(the_one(planted, Reason.NO_PREAMBLE))]["key"] = "0.dcm"


def change_an_object(told: Told, planted: Planted) -> None:
    stored = told.bucket / told.rows[victim(planted)]["key"]
    stored.write_bytes(stored.read_bytes()[:-1] + b"\xff")


def lose_an_object(told: Told, planted: Planted) -> None:
    (told.bucket / told.rows[victim(planted)]["key"]).unlink()


def share_a_key(told: Told, planted: Planted) -> None:
    first, second = (told.rows[str(path)] for path in paths_of(planted, Status.UPLOADED)[:2])
    (told.bucket / second["key"]).unlink()
    second["key"] = first["key"]


def leave_an_object_behind(told: Told, planted: Planted) -> None:
    (told.bucket / "left-over").write_bytes(b"")


def tell_another_sha256(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["sha256"] = "0" * 64


def tell_another_md5(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["md5"] = "0" * 32


def tell_another_crc(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["crc64nvme"] = "AAAAAAAAAAA="


def tell_another_size(told: Told, planted: Planted) -> None:
    told.rows[victim(planted)]["size_bytes"] = "1"


def claim_that_a_missing_directory_was_uploaded(told: Told, planted: Planted) -> None:
    told.rows[str(the_one(planted, Reason.NOT_FOUND))].update(status="uploaded", reason="", key="0.dcm")


class TestCheck:
    @pytest.mark.parametrize("winner", [0, 1])
    def test_finds_nothing_wrong_with_a_true_report(
        self, planted: Planted, tmp_path: Path, winner: int
    ) -> None:
        """Either twin may have won."""
        assert tell(planted, tmp_path, winner).disagreements(planted) == []

    def test_accepts_that_a_broken_header_was_not_read(self, planted: Planted, told: Told) -> None:
        """An invalid file's SOP Instance UID is true, or is not known."""
        told.rows[str(the_one(planted, Reason.NO_PREAMBLE))]["sop_instance_uid"] = ""
        assert told.disagreements(planted) == []

    def test_accepts_an_object_under_a_superseded_key(self, planted: Planted, told: Told) -> None:
        """An object left by a retry is accounted for, one of several."""
        (told.bucket / "old-2").write_bytes(b"half")
        told.rows[victim(planted)]["superseded_keys"] = "old-1;old-2"
        assert told.disagreements(planted) == []

    @pytest.mark.parametrize(
        ("lie", "sentence"),
        [
            (forget_a_row, "was planted, and has 0 rows"),
            (forget_the_missing_directory, "was planted, and has 0 rows"),
            (invent_a_row, "has a row, and was not planted"),
            (name_a_file_twice, "was planted, and has 2 rows"),
            (tell_another_status, r"is not_dicom \(permission\), and should be unreadable \(permission\)"),
            (tell_another_reason, r"is not_dicom \(text\), and should be not_dicom \(empty\)"),
            (tell_another_uid, "has another SOP Instance UID"),
            (tell_no_uid, "has another SOP Instance UID"),
            (store_both_twins, "is uploaded, and should be conflict"),
            (store_no_twin, "is conflict, and should be uploaded"),
            (give_the_duplicate_another_key, "names another key"),
            (name_no_file_for_the_conflict, "does not name the file that has its SOP Instance UID"),
            (name_a_file_where_none_is, "names another file"),
            (give_a_key_to_what_was_not_sent, "has a key, and is invalid"),
            (change_an_object, "is not what its object holds"),
            (lose_an_object, "its key is not in the bucket"),
            (share_a_key, "are uploaded under one key"),
            (leave_an_object_behind, "The object left-over is in the bucket, and no row names it"),
            (tell_another_sha256, "has another sha256"),
            (tell_another_md5, "has another md5"),
            (tell_another_crc, "has another crc64nvme"),
            (tell_another_size, "has another size_bytes"),
            (claim_that_a_missing_directory_was_uploaded, "can't be read"),
        ],
    )
    def test_notices(
        self, planted: Planted, told: Told, lie: Callable[[Told, Planted], None], sentence: str
    ) -> None:
        """Each kind of lie is told in a sentence of its own."""
        lie(told, planted)
        assert [said for said in told.disagreements(planted) if re.search(sentence, said)]

    def test_names_any_file_in_text_that_can_be_printed(self, planted: Planted, told: Told) -> None:
        """A name that is not UTF-8 is escaped."""
        told.rows.clear()
        assert "\n".join(told.disagreements(planted)).encode("utf-8")
