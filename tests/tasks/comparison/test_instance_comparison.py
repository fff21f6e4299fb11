"""When two files hold the same instance, and what is said when they don't."""

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.comparison.instance_comparison import difference
from tests.odd_instances import instance

BASE = instance()
FIRST = b"\x08\0\x16\0UI"  # the head of its first element, and of its pixels
PIXELS = b"\xe0\x7f\x10\0OW\0\0"
JPEG = "1.2.840.10008.1.2.4.50"


def compared(one: bytes, other: bytes) -> str:
    """The same whichever is which."""
    there, back = difference(BytesIO(one), BytesIO(other)), difference(BytesIO(other), BytesIO(one))
    assert there == back
    return there


def changed(data: bytes, change: Callable[[Any], object] = lambda _: None, syntax: str = "") -> bytes:
    """Read by pydicom, changed, written anew."""
    found = pydicom.dcmread(BytesIO(data))
    change(found)
    if syntax:
        found.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    with warnings.catch_warnings(action="ignore"):
        pydicom.dcmwrite(
            file,
            found,
            implicit_vr=found.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian,
            little_endian=True,
        )
    return file.getvalue()


def with_sequences(undefined: bool) -> bytes:
    def change(found: Any) -> None:
        inner = Dataset()
        inner.CodeValue = "1"
        inner.is_undefined_length_sequence_item = undefined
        item = Dataset()
        item.ConceptCodeSequence = Sequence([inner])
        item["ConceptCodeSequence"].is_undefined_length = undefined
        item.is_undefined_length_sequence_item = undefined
        found.ProcedureCodeSequence = Sequence([item, Dataset()])
        found["ProcedureCodeSequence"].is_undefined_length = undefined
        found.ReferencedImageSequence = Sequence([])
        found["ReferencedImageSequence"].is_undefined_length = undefined

    return changed(BASE, change)


def encapsulated(frames: list[bytes], has_table: bool = True) -> bytes:
    def change(found: Any) -> None:
        found.NumberOfFrames = len(frames)
        found.PixelData = encapsulate(frames, has_bot=has_table)
        found["PixelData"].VR = "OB"
        found["PixelData"].is_undefined_length = True

    return changed(BASE, change, JPEG)


class TestTheSame:
    def test_bytes(self) -> None:
        assert compared(BASE, BASE) == ""

    def test_under_another_preamble_and_group_2(self) -> None:
        """Azure clears the preamble, most write their own implementation's name."""

        def change(found: Any) -> None:
            found.preamble = b"II*\0" * 32
            found.file_meta.ImplementationVersionName = "ANOTHER"
            found.file_meta.SourceApplicationEntityTitle = "PACS"

        assert compared(BASE, changed(BASE, change)) == ""

    def test_with_sequences_that_end_by_lengths_or_by_delimiters(self) -> None:
        one, other = with_sequences(undefined=True), with_sequences(undefined=False)
        assert one != other
        assert compared(one, other) == ""

    @pytest.mark.parametrize("undefined", [True, False])
    def test_without_vrs(self, undefined: bool) -> None:
        one = with_sequences(undefined)
        assert compared(one, changed(one, syntax=ImplicitVRLittleEndian)) == ""

    def test_deflated(self) -> None:
        deflated = changed(BASE, syntax=DeflatedExplicitVRLittleEndian)
        assert compared(BASE, deflated) == ""
        assert compared(deflated, changed(deflated, lambda found: setattr(found, "PatientID", "2"))) == (
            "data set (0010,0020)"
        )

    def test_with_group_lengths_and_padding(self) -> None:
        padded = changed(BASE, lambda found: found.add_new(0xFFFCFFFC, "OB", bytes(64)))
        counted = padded.replace(FIRST, b"\x08\0\0\0UL\4\0\x40\1\0\0" + FIRST)
        assert len(counted) == len(padded) + 12
        assert compared(BASE, counted) == ""

    def test_with_a_value_of_odd_length_that_was_padded(self) -> None:
        odd = BASE.replace(PIXELS, b"\x09\0\2\x10OB\0\0\3\0\0\x00123" + PIXELS)
        even = BASE.replace(PIXELS, b"\x09\0\2\x10OB\0\0\4\0\0\x00123\0" + PIXELS)
        assert compared(odd, even) == ""
        assert compared(odd, even.replace(b"123\0", b"1230")) == "data set (0009,1002)"

    def test_with_a_private_sequence_that_the_server_does_not_know(self) -> None:
        """It has VR UN then, and within it there are no VRs (PS3.5 6.2.2)."""
        begin, end = (
            b"\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff",
            b"\xfe\xff\r\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
        )
        known = b"\x09\0\2\x10SQ\0\0" + begin + b"\x10\0\x20\0LO\2\x0012" + end
        unknown = b"\x09\0\2\x10UN\0\0" + begin + b"\x10\0\x20\0\2\0\0\x0012" + end
        one, other = (BASE.replace(PIXELS, each + PIXELS) for each in (known, unknown))
        assert compared(one, other) == ""
        assert compared(one, other.replace(b"\2\0\0\x0012", b"\2\0\0\x0013")) == "data set (0009,1002)"

    def test_padded_otherwise(self) -> None:
        """A text by more spaces, a UID by one."""
        text = BASE.replace(b"PN\n\0Test^Case ", b"PN\f\0Test^Case   ")
        assert text != BASE
        assert compared(BASE, text) == ""
        assert compared(BASE, BASE.replace(b"5.1.4.1.1.2\0", b"5.1.4.1.1.2 ")) == ""

    def test_with_a_vr_that_the_server_knows(self) -> None:
        """Of a private element, or of pixels of 8 bits."""
        one = changed(BASE, lambda found: found.add_new(0x00091002, "UN", b"12"))
        assert compared(one, changed(BASE, lambda found: found.add_new(0x00091002, "LO", "12"))) == ""
        assert compared(BASE, changed(BASE, lambda found: setattr(found["PixelData"], "VR", "OB"))) == ""

    def test_with_another_table_of_offsets(self) -> None:
        frames = [b"\xff\xd8one\xff\xd9", b"\xff\xd8another\xff\xd9"]
        assert compared(encapsulated(frames), encapsulated(frames, has_table=False)) == ""

    @pytest.mark.parametrize("data", [b"", b"no DICOM", bytes(1000), BASE[:300], BASE[200:]])
    def test_bytes_that_are_no_data_set(self, data: bytes) -> None:
        assert compared(data, data) == ""


class TestDiffers:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda found: setattr(found, "PatientName", "Other^Case"), "data set (0010,0010)"),
            (lambda found: setattr(found, "PatientName", "Test^Cas"), "data set (0010,0010)"),
            (lambda found: found.pop("PatientName"), "data set (0010,0010)"),
            (lambda found: setattr(found, "StudyDate", "20200101"), "data set (0008,0020)"),
            (lambda found: found.pop(0x00091001), "data set (0009,1001)"),
            (lambda found: found.add_new(0x00091002, "OB", b"12"), "data set (0009,1002)"),
            (lambda found: found.add_new(0x7FE10010, "OB", b"12"), "data set (7FE1,0010)"),
            (lambda found: setattr(found, "PixelData", bytes(127) + b"\1"), "pixel data"),
            (lambda found: setattr(found, "PixelData", bytes(126)), "pixel data"),
            (lambda found: found.pop("PixelData"), "pixel data"),
        ],
    )
    def test_and_where(self, change: Callable[[Any], object], said: str) -> None:
        assert compared(BASE, changed(BASE, change)) == said

    def test_in_both(self) -> None:
        def change(found: Any) -> None:
            found.PatientID = "2"
            found.PixelData = bytes(127) + b"\1"

        assert compared(BASE, changed(BASE, change)) == "data set and pixel data (0010,0020)"

    def test_within_an_item(self) -> None:
        def change(found: Any) -> None:
            found.ProcedureCodeSequence[0].ConceptCodeSequence[0].CodeValue = "2"

        one = with_sequences(undefined=True)
        assert compared(one, changed(with_sequences(undefined=False), change)) == "data set (0008,1032)"

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_in_the_number_of_items(self, count: int) -> None:
        def change(found: Any) -> None:
            items = [found.ProcedureCodeSequence[0], Dataset(), Dataset()]
            found.ProcedureCodeSequence = Sequence(items[:count])

        assert compared(with_sequences(undefined=True), changed(with_sequences(undefined=False), change)) == (
            "data set (0008,1032)"
        )

    def test_in_one_fragment(self) -> None:
        one, other = (
            [b"\xff\xd8one\xff\xd9", b"\xff\xd8two\xff\xd9"],
            [b"\xff\xd8one\xff\xd9", b"\xff\xd8too\xff\xd9"],
        )
        assert compared(encapsulated(one), encapsulated(other)) == "pixel data"
        assert compared(encapsulated(one), encapsulated(one[:1] * 2)) == "pixel data"

    def test_in_a_fragment_that_is_lost(self) -> None:
        frames = [b"\xff\xd8one\xff\xd9", b"\xff\xd8two\xff\xd9"]
        whole = encapsulated(frames)
        assert compared(whole, whole.replace(encapsulated(frames)[-22:-8], b"")) != ""

    def test_in_what_it_is_encoded_by(self) -> None:
        """The pixels can't be compared then: whoever wants to asks for the syntax in which it was sent."""
        assert compared(BASE, encapsulated([b"\xff\xd8\xff\xd9"])) == "transfer syntax"

    def test_by_a_binary_value_that_ends_otherwise(self) -> None:
        """Zeros behind a text say nothing; behind numbers they do."""
        one = changed(BASE, lambda found: found.add_new(0x00091002, "OB", b"1\0"))
        other = changed(BASE, lambda found: found.add_new(0x00091002, "OB", b"1 "))
        assert compared(one, other) == "data set (0009,1002)"

    @pytest.mark.parametrize(
        "other", [b"", b"no DICOM", BASE[:300], BASE[:-1], BASE + b"rubbish", BASE[200:]]
    )
    def test_from_what_is_no_data_set_or_half_of_one(self, other: bytes) -> None:
        assert compared(BASE, other) != ""


def test_large_instances_are_never_held() -> None:
    """Read piece by piece, wherever the difference is."""

    class Counting(BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.most = max(self.most, len(data))
            return data

    pixels = bytes(5_000_000)
    one, other = (Counting(instance(pixels=each)) for each in (pixels, pixels[:-1] + b"\1"))
    assert difference(one, other) == "pixel data"
    assert max(one.most, other.most) <= 1 << 20


def test_no_change_of_a_byte_behind_group_2_is_overlooked() -> None:
    """But of the two that are reserved behind a VR with a long length."""
    start, reserved = BASE.index(FIRST), BASE.index(PIXELS) + 6
    overlooked = []
    for at in range(start, len(BASE)):
        other = bytearray(BASE)
        other[at] ^= 0x11
        if not difference(BytesIO(BASE), BytesIO(bytes(other))):
            overlooked.append(at)
    assert overlooked == [reserved, reserved + 1]


@given(st.binary(max_size=300))
def test_any_bytes_are_compared(data: bytes) -> None:
    assert difference(BytesIO(BASE), BytesIO(data))
    assert not difference(BytesIO(data), BytesIO(data))
    assert not difference(BytesIO(BASE[:132] + data), BytesIO(BASE[:132] + data))
