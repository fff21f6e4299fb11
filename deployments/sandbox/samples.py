"""Sample studies for the demo: real DICOM files, a generated CT study, and what real archives hold besides.

The real ones are the files that pydicom ships, copied byte for byte. What is expected of each file is written
down where it is planted, from what was planted: the code that the demo checks takes no part in it.
"""

import contextlib
import csv
import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pydicom
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from deployments.sandbox.phantom import phantom, phantom_study_uid
from tasks.core.errors import UsageError
from tasks.core.models import Reason, Status

MANIFEST_COLUMNS: Final = ("study_dir", "study_instance_uid", "expected_instances", "label", "priority")

# Study directory: files below pydicom's test_files. Where some share a SOP Instance UID, one of them is here.
_REAL_STUDIES: Final[dict[str, tuple[str, ...]]] = {
    "CR_cervical_spine": ("dicomdirtests/77654033/CR*/*",),
    "CT_head": ("dicomdirtests/77654033/CT2/*",),
    "CT_two_series": ("dicomdirtests/98892001/CT*/*",),
    "CT_without_pixels": ("dicomdirtests/TINY_ALPHA/PT*/ST*/SE*/IM*",),
    "CT_private_tags": ("CT_small.dcm",),
    "CT_jpeg2000": ("693_J2KI.dcm",),
    "CT_jpeg2000_lossless": ("J2K_pixelrep_mismatch.dcm",),
    "MR_carotids": ("dicomdirtests/98892003/MR1/15820", "dicomdirtests/98892003/MR2/15970"),
    "MR_brain": ("dicomdirtests/98892003/MR1/4919", "dicomdirtests/98892003/MR2/[45]*"),
    "MR_brain_mra": (
        "dicomdirtests/98892003/MR1/5641",
        "dicomdirtests/98892003/MR2/6*",
        "dicomdirtests/98892003/MR700/*",
    ),
    "MR_jpeg_ls": ("MR_small_jpeg_ls_lossless.dcm",),
    "MR_overlay": ("examples_overlay.dcm",),
    "NM_compressed": ("JPEG2000.dcm", "JPGExtended.dcm"),
    "US_big_endian": ("ExplVR_BigEnd.dcm",),
    "US_colour": ("examples_jpeg2k.dcm", "examples_rgb_color.dcm"),
    "US_multi_frame": ("examples_ybr_color.dcm",),
    "US_palette": ("examples_palette.dcm",),
    "ECG_waveform": ("waveform_ecg.dcm",),
    "SR_basic_text": ("reportsi.dcm",),
    "SR_nested": ("test-SR.dcm",),
    "RTPLAN": ("rtplan.dcm",),
    "RTDOSE_multi_frame_rle": ("rtdose_rle.dcm",),
    "OT_deflated": ("image_dfl.dcm",),
    "SC_encodings": (
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s[24].dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ),
    "SC_text": ("GDCMJ2K_TextGBR.dcm",),
    "SC_implicit": ("SC_rgb_jpeg_dcmd.dcm",),
    "SC_slide_tile": ("SC_jpeg_no_color_transform.dcm",),
    "SC_slide_tile_app14": ("SC_rgb_jpeg_app14_dcmd.dcm",),
    "SC_without_study_uid": ("JPEGLSNearLossless_*.dcm", "SC_rgb_jls_lossy_*.dcm"),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What the report must say of one path; the UID is empty for what is no instance or can't be read."""

    status: Status
    reason: Reason = Reason.NONE
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two paths with one SOP Instance UID. Uploads are parallel: either is uploaded, the other is `loser`."""

    paths: tuple[str, str]
    loser: Status
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Planted:
    """The archive as it was planted: each path that the report must name is in `expected` or in a pair.

    Plain data: it may go to another process. Paths are absolute, as the operating system would open them.
    """

    manifest: Path
    expected: dict[str, Expected]
    pairs: tuple[Pair, ...]
    without_study: frozenset[str] = frozenset()  # paths of images that say of no study that they are its


def build(root: Path, ct_slices: int = 300) -> Planted:
    """Writes the archive and its `manifest.csv` under `root`, which must be empty or not there yet.

    The same files each time, to the byte. A UsageError is raised for a folder that holds something, and when
    pydicom came without its files. Nothing is downloaded.
    """
    archive = _Archive(_empty(root))
    _plant_phantom(archive, ct_slices)
    for name in _REAL_STUDIES:
        _plant_real(archive, name)
    _plant_no_images(archive)
    _plant_cut(archive)
    _plant_no_preamble(archive)
    _plant_pairs(archive)
    _plant_out_of_reach(archive)
    return archive.finish()


def _empty(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise UsageError("The sample studies need an empty folder: name one that is empty or not there yet.")
    return root.resolve()


@dataclass(slots=True)
class _Archive:
    root: Path
    expected: dict[str, Expected] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    entries: list[dict[str, str | int]] = field(default_factory=list)
    without_study: set[str] = field(default_factory=set)

    def add_study(self, name: str, uid: str = "", instances: int | None = None, priority: int = 0) -> None:
        """Adds a manifest row; `instances` is how many the study has in truth, None where nobody knows."""
        known = "" if instances is None else instances
        cells = (name, uid, known, name.lower().replace("_", "-"), priority)
        self.entries.append(dict(zip(MANIFEST_COLUMNS, cells, strict=True)))

    def put(self, name: str, body: bytes) -> str:
        """Writes a file of which nothing is expected yet. Gives its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return str(path)

    def plant(self, name: str, body: bytes, expected: Expected) -> None:
        self.expected[self.put(name, body)] = expected

    def finish(self) -> Planted:
        """Writes the manifest."""
        manifest = self.root / "manifest.csv"
        with manifest.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, MANIFEST_COLUMNS)
            writer.writeheader()
            writer.writerows(self.entries)
        return Planted(manifest, self.expected, tuple(self.pairs), frozenset(self.without_study))


def _stored(uid: str) -> Expected:
    return Expected(Status.UPLOADED, Reason.NONE, uid)


def _plant_real(archive: _Archive, name: str) -> None:
    studies = set()
    sources = [source for pattern in _REAL_STUDIES[name] for source in _pydicom_files(pattern)]
    for source in sources:
        body = source.read_bytes()
        header = _header(body)
        path = Path(name, *source.relative_to(_test_files()).parts[-2:])  # the folder of a series is kept
        archive.plant(str(path), body, _stored(str(header.SOPInstanceUID)))
        studies.add(study := str(header.get("StudyInstanceUID", "")))
        if not study:
            archive.without_study.add(str(archive.root / path))
    archive.add_study(name, studies.pop() if len(studies) == 1 else "", len(sources))


def _test_files() -> Path:
    return Path(DATA_ROOT, "test_files")


def _pydicom_files(pattern: str) -> list[Path]:
    found = sorted(_test_files().glob(pattern))
    if not found:
        raise UsageError("pydicom came without its sample files: install the dependencies again.")
    return found


def _pydicom_bytes(name: str) -> bytes:
    return _pydicom_files(name)[0].read_bytes()


def _header(body: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(body), stop_before_pixels=True, force=True)


def _plant_phantom(archive: _Archive, slices: int) -> None:
    name = "CT_phantom"
    for number, (uid, body) in enumerate(phantom(name, slices), start=1):
        archive.plant(f"{name}/IM{number:04}.dcm", body, _stored(uid))
    archive.add_study(name, phantom_study_uid(name), slices, priority=10)


def _plant_no_images(archive: _Archive) -> None:
    """What lies about in good studies, and leaves them complete."""
    dicomdir = _index_of(_pydicom_bytes("dicomdirtests/DICOMDIR"), "77654033", "CR")
    store = b"\0\0\0\1Bud1\0\0\x10\0\0\0\x08\0\0\0\x10\0" + bytes(4078)
    planted = {
        "CR_cervical_spine/DICOMDIR": (dicomdir, Reason.DICOMDIR),
        "CT_head/notes.txt": (b"Series 3 was repeated: the patient moved.\n", Reason.TEXT),
        "CT_phantom/.DS_Store": (store, Reason.SYSTEM_FILE),
        "MR_brain/export.zip": (_zipped(_pydicom_bytes("CT_small.dcm")), Reason.ARCHIVE),
        "MR_carotids/IM0001.tmp": (b"", Reason.EMPTY),
    }
    for path, (body, reason) in planted.items():
        archive.plant(path, body, Expected(Status.NOT_DICOM, reason))


def _index_of(dicomdir: bytes, patient: str, modality: str) -> bytes:
    """The index of a disc, of which these series alone were copied: the other records are not in use."""
    index = pydicom.dcmread(io.BytesIO(dicomdir))
    for record in index.DirectoryRecordSequence:
        file_id = list(record.get("ReferencedFileID", []))
        if file_id[:1] == [patient] and file_id[1].startswith(modality):
            record.ReferencedFileID = file_id[1:]
        elif file_id:
            record.RecordInUseFlag = 0
    written = io.BytesIO()
    index.save_as(written)
    return written.getvalue()


def _zipped(body: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("IM0001.dcm", (2020, 1, 1, 0, 0, 0)), body)
    return packed.getvalue()


def _plant_cut(archive: _Archive) -> None:
    """Copies that were interrupted: in a header, in native and in encapsulated pixel data."""
    name = "CT_interrupted_copy"
    (whole, body), (cut_early, early), (cut_late, late) = phantom(name, 3)
    archive.plant(f"{name}/IM0001.dcm", body, _stored(whole))
    archive.plant(f"{name}/IM0002.dcm", _cut(early, "SeriesInstanceUID"), _truncated(cut_early))
    archive.plant(f"{name}/IM0003.dcm", _cut(late, "PixelData"), _truncated(cut_late))
    archive.add_study(name, phantom_study_uid(name), 3)

    name = "SC_interrupted_copy"
    coded = _pydicom_bytes("SC_rgb_jpeg_lossy_gdcm.dcm")
    header = _header(coded)
    archive.plant(f"{name}/IM0001.dcm", coded[: len(coded) * 3 // 4], _truncated(str(header.SOPInstanceUID)))
    archive.add_study(name, str(header.StudyInstanceUID), 1)


def _truncated(uid: str) -> Expected:
    return Expected(Status.INVALID, Reason.TRUNCATED, uid)


def _cut(body: bytes, keyword: str) -> bytes:
    """The file up to the middle of one element's value."""
    element = pydicom.dcmread(io.BytesIO(body)).get_item(keyword)
    assert isinstance(element, RawDataElement)
    return body[: element.value_tell + element.length // 2]


def _plant_no_preamble(archive: _Archive) -> None:
    body = _pydicom_bytes("rtstruct.dcm")
    header = _header(body)
    expected = Expected(Status.INVALID, Reason.NO_PREAMBLE, str(header.SOPInstanceUID))
    archive.plant("RTSTRUCT_without_preamble/rtstruct.dcm", body, expected)
    archive.add_study("RTSTRUCT_without_preamble", str(header.StudyInstanceUID), 1)


def _plant_pairs(archive: _Archive) -> None:
    """An exact copy on another disk, and an instance that was converted and kept its SOP Instance UID."""
    copy = archive.put("Old_disk/copy of IM0001.dcm", _pydicom_bytes("CT_small.dcm"))
    original = str(archive.root / "CT_private_tags" / "CT_small.dcm")
    uid = archive.expected.pop(original).sop_instance_uid
    archive.pairs.append(Pair((original, copy), Status.DUPLICATE, uid))

    body = _pydicom_bytes("liver_1frame.dcm")
    header = _header(body)
    segmented = archive.put("SEG_liver/liver.dcm", body)
    converted = archive.put("Old_disk/liver_converted.dcm", _pydicom_bytes("liver_expb_1frame.dcm"))
    archive.pairs.append(Pair((segmented, converted), Status.CONFLICT, str(header.SOPInstanceUID)))
    archive.add_study("SEG_liver", str(header.StudyInstanceUID), 1)


def _plant_out_of_reach(archive: _Archive) -> None:
    """Mode 000 binds root only without its capabilities: see privileges.py."""
    name = "Old_disk"
    (odd, odd_body), (_, body) = phantom(name, 2)
    archive.plant(f"{name}/no_permission.dcm", body, Expected(Status.UNREADABLE, Reason.PERMISSION))
    (archive.root / name / "no_permission.dcm").chmod(0)

    link = archive.root / name / "IM0003.dcm"
    link.symlink_to("gone.dcm")
    archive.expected[str(link)] = Expected(Status.UNREADABLE, Reason.BROKEN_LINK)

    with contextlib.suppress(OSError):  # macOS refuses names that are not UTF-8: no archive there has any
        archive.plant(os.fsdecode(f"{name}/Sch\xe4del.dcm".encode("latin-1")), odd_body, _stored(odd))
    archive.add_study(name)

    moved = archive.root / "MR_moved_away"
    archive.expected[str(moved)] = Expected(Status.MISSING, Reason.NOT_FOUND)
    archive.add_study(moved.name, generate_uid(entropy_srcs=[moved.name]), 12)
