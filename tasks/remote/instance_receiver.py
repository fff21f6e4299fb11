"""The answer to WADO-RS for one instance, passed on as it comes: without its coding, out of its one part."""

import zlib
from collections.abc import Callable, Mapping
from typing import Final

from tasks.core.errors import Fault, FaultKind
from tasks.core.part_reader import PartReader, WrongPartsError, boundary_of

_ANY_HEADER: Final = 32 + zlib.MAX_WBITS  # zlib's or gzip's
_AT_ONCE_BYTES: Final = 1024 * 1024


class InstanceReceiver:
    """Of the one answer that is 2xx. Raises Fault for what is no DICOM instance, or not whole."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._parts: PartReader | None = None
        self._inflation: zlib._Decompress | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        """Multipart, or the instance alone; gzip or deflate, which nobody asked for, or as it is."""
        content_type = headers.get("content-type", "")
        boundary = boundary_of(content_type)
        is_alone = content_type.partition(";")[0].strip().lower() == "application/dicom"
        if not boundary and not is_alone:
            raise Fault(FaultKind.SERVER, "the DICOMweb server's answer to WADO-RS is no DICOM instance")
        self._parts = PartReader(boundary, self._write) if boundary else None
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding in ("gzip", "x-gzip", "deflate"):
            self._inflation = zlib.decompressobj(_ANY_HEADER)
        elif coding != "identity":
            raise Fault(FaultKind.SERVER, "the DICOMweb server's answer is coded as nobody asked")

    def write(self, data: bytes) -> None:
        """A piece, as it came."""
        if self._inflation is None:
            self._pass_on(data)
            return
        while data:
            try:
                self._pass_on(self._inflation.decompress(data, _AT_ONCE_BYTES))
            except zlib.error:
                raise _wrong("is not coded as it says") from None
            data = self._inflation.unconsumed_tail

    def finish(self) -> None:
        """Raises Fault unless what came is whole."""
        if self._inflation is not None:
            self._pass_on(self._inflation.flush())
            if not self._inflation.eof:
                raise _wrong("ends too early")
        if self._parts:
            try:
                self._parts.finish()
            except WrongPartsError as error:
                raise _wrong(str(error)) from None

    def _pass_on(self, data: bytes) -> None:
        if self._parts is None:
            self._write(data)
            return
        try:
            self._parts.feed(data)
        except WrongPartsError as error:
            raise _wrong(str(error)) from None


def _wrong(clause: str) -> Fault:
    return Fault(FaultKind.NETWORK, f"the DICOMweb server's answer to WADO-RS {clause}")
