"""A generated CT study: a head that never was, the same to the byte each time."""

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def phantom_study_uid(study: str) -> str:
    """The Study Instance UID of the generated study of that name; the same each time."""
    return generate_uid(entropy_srcs=[study])


def phantom(study: str, slices: int) -> Iterator[tuple[str, bytes]]:
    """SOP Instance UID and file of each slice, 512 by 512, signed 16 bit."""
    dataset = _phantom_header(study)
    pixels = _Head(slices)
    for index in range(slices):
        uid = generate_uid(entropy_srcs=[study, "instance", str(index)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-128, -128, index]
        dataset.SliceLocation = index
        dataset.PixelData = pixels.at(index).tobytes()
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield uid, file.getvalue()


def _phantom_header(study: str) -> Dataset:
    """All but what differs from slice to slice (PS3.3 A.3.3, CT Image IOD)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID = phantom_study_uid(study)
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[study, "frame of reference"])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.Manufacturer, dataset.SeriesNumber = "CT", "Phantom", 1
    dataset.PatientName, dataset.PatientID = "Phantom^Head", "PHANTOM"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
    dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.StudyDescription = "1", "", study
    dataset.KVP, dataset.SliceThickness, dataset.PixelSpacing = "120", "1", [0.5, 0.5]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = _Head.SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "HU"
    dataset.WindowCenter, dataset.WindowWidth = "40", "80"
    private = dataset.private_block(0x0019, "DICOM-INGEST SAMPLES", create=True)
    private.add_new(0x01, "LO", "kept byte for byte")
    private.add_new(0x02, "OB", bytes(range(256)))
    return dataset


class _Head:
    """A skull with a brain, two ventricles and noise, in Hounsfield units, widest in its middle slice."""

    SIDE: Final = 512

    def __init__(self, slices: int) -> None:
        across = np.linspace(-1, 1, self.SIDE, dtype=np.float32)
        x, y = np.meshgrid(across, across)
        self._slices = slices
        self._radius = np.hypot(x, y / 1.2)
        self._to_ventricle = np.hypot((np.abs(x) - 0.12) * 2.5, y)
        self._noise = np.random.default_rng(seed=2).normal(0, 8, x.shape).astype(np.int16)

    def at(self, index: int) -> npt.NDArray[np.int16]:
        size = 0.4 + 0.35 * np.sin(np.pi * (index + 0.5) / self._slices)
        image = np.where(self._radius < size, np.int16(1200), np.int16(-1000))
        image[self._radius < 0.92 * size] = 35
        image[self._to_ventricle < 0.3 * size] = 5
        image += np.roll(self._noise, index * 7919)
        return image.astype("<i2", copy=False)
