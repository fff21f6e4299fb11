"""DICOM instances made for a test: small ones of one study, or one with pixels of a size."""

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498.17"


def instance(
    number: int = 1, *, study_number: int = 1, pixels: bytes = bytes(128), **values: object
) -> bytes:
    """One of a study; the same arguments give the same bytes. `values`: more elements, by keyword."""
    found = Dataset()
    found.SOPClassUID = CTImageStorage
    found.SOPInstanceUID = f"{ROOT}.{study_number}.1.{number}"
    found.StudyInstanceUID = f"{ROOT}.{study_number}"
    found.SeriesInstanceUID = f"{ROOT}.{study_number}.1"
    found.PatientName, found.PatientID, found.Modality = "Test^Case", "case-1", "CT"
    rows = 8 if len(pixels) < 500_000 else 4000
    found.Rows, found.Columns = rows, len(pixels) // (2 * rows)
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation, found.SamplesPerPixel = 15, 0, 1
    found.PhotometricInterpretation = "MONOCHROME2"
    found.InstanceNumber = number
    found.add_new(0x00091001, "LO", "private creator's own")
    found.add_new(0x00090010, "LO", "DICOM-INGEST")
    for name, value in values.items():
        setattr(found, name, value)
    found.add_new(0x7FE00010, "OW", pixels)
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    file = BytesIO()
    pydicom.dcmwrite(file, found, enforce_file_format=True)
    return file.getvalue()


def study(count: int, study_number: int = 1) -> list[bytes]:
    """So many instances of it."""
    return [instance(number, study_number=study_number) for number in range(1, count + 1)]
