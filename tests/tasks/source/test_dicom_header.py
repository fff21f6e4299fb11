"""One file's header, and whether it is an instance: real files, cut ones, odd ones, hostile ones."""

import logging
import os
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from struct import pack

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.models import Header, Reason, Rejected, Status
from tasks.source.dicom_header import examine

DATA = Path(pydicom.__file__).parent / "data"
FILES = DATA / "test_files"

NOT_INSTANCES = {
    "charset_files/FileInfo.txt": Reason.TEXT,
    "charset_files/chrSQEncoding.dcm": Reason.NO_UID,
    "charset_files/chrSQEncoding1.dcm": Reason.NO_UID,
    "test_files/ExplVR_BigEndNoMeta.dcm": Reason.NO_PREAMBLE,
    "test_files/ExplVR_LitEndNoMeta.dcm": Reason.NO_PREAMBLE,
    "test_files/MR_truncated.dcm": Reason.TRUNCATED,
    "test_files/README.txt": Reason.TEXT,
    "test_files/UN_sequence.dcm": Reason.NO_UID,
    "test_files/crayons.icc": Reason.OTHER,
    "test_files/dicomdirtests/DICOMDIR": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-bigEnd": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-empty.dcm": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-implicit": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-nooffset": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-nopatient": Reason.DICOMDIR,
    "test_files/dicomdirtests/DICOMDIR-reordered": Reason.DICOMDIR,
    "test_files/dicomdirtests/README.txt": Reason.TEXT,
    "test_files/dicomdirtests/TINY_ALPHA/DICOMDIR": Reason.DICOMDIR,
    "test_files/dicomdirtests/TINY_ALPHA/README": Reason.TEXT,
    "test_files/empty_charset_LEI.dcm": Reason.NO_UID,
    "test_files/meta_missing_tsyntax.dcm": Reason.NO_UID,
    "test_files/nested_priv_SQ.dcm": Reason.NO_UID,
    "test_files/no_meta.dcm": Reason.NO_PREAMBLE,
    "test_files/no_meta_group_length.dcm": Reason.NO_UID,
    "test_files/priv_SQ.dcm": Reason.NO_UID,
    "test_files/rtplan.dump": Reason.TEXT,
    "test_files/rtplan_truncated.dcm": Reason.TRUNCATED,
    "test_files/rtstruct.dcm": Reason.NO_PREAMBLE,
    "test_files/rtstruct.dump": Reason.TEXT,
    "test_files/test1.json": Reason.TEXT,
    "test_files/test_PN.json": Reason.TEXT,
    "test_files/zipMR.gz": Reason.ARCHIVE,
}
SHIPPED = {
    path.relative_to(DATA).as_posix(): path
    for folder in (FILES, DATA / "charset_files")
    for path in sorted(folder.rglob("*"))
    if path.is_file()
}
INSTANCES = sorted(SHIPPED.keys() - NOT_INSTANCES)

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
MPEG = "1.2.840.10008.1.2.4.102"
UNDEFINED = 0xFFFFFFFF

TRUNCATED = (Status.INVALID, Reason.TRUNCATED)
MALFORMED = (Status.INVALID, Reason.MALFORMED)
INSTANCE = ("instance", "")


def verdict(content: bytes, name: str = "IM0001") -> tuple[str, str]:
    result = examine(BytesIO(content), len(content), name)
    return INSTANCE if isinstance(result, Header) else (result.status, result.reason)


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """An explicit little endian element."""
    length = len(value) if length is None else length
    head = pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    long = vr in {"OB", "OW", "SQ", "UN", "UT"}
    return head + (pack("<HL", 0, length) if long else pack("<H", length)) + value


def implicit(tag: int, value: bytes) -> bytes:
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(value: bytes) -> bytes:
    return implicit(0xFFFEE000, value)


OPEN_ITEM = pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
ITEM_END = implicit(0xFFFEE00D, b"")
SEQUENCE_END = implicit(0xFFFEE0DD, b"")


def part10(data_set: bytes, syntax: str = EXPLICIT, sop_class: str = "1.2.840.10008.5.1.4.1.1.7") -> bytes:
    meta = element(0x00020002, "UI", sop_class.encode())
    if syntax:
        meta += element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return bytes(128) + b"DICM" + element(0x00020000, "UL", pack("<L", len(meta))) + meta + data_set


IDENTITY = (
    element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0")
    + element(0x00080018, "UI", b"1.2.3.4\0")
    + element(0x0020000D, "UI", b"1.2.3.5\0")
    + element(0x0020000E, "UI", b"1.2.3.6\0")
)
IMAGE = IDENTITY + element(0x00280010, "US", pack("<H", 4)) + element(0x00280011, "US", pack("<H", 4))
PIXELS = element(0x7FE00010, "OW", bytes(range(1, 33)))


def encapsulated(*fragments: bytes) -> bytes:
    items = item(b"") + b"".join(map(item, fragments)) + SEQUENCE_END
    return element(0x7FE00010, "OB", items, UNDEFINED)


def frames(number: int) -> bytes:
    return IDENTITY + element(0x00280008, "IS", b"%d " % number) + IMAGE[len(IDENTITY) :]


class TestShippedFiles:
    """Every file in pydicom's wheel."""

    @pytest.mark.parametrize("name", INSTANCES)
    def test_an_instance_has_the_uids_and_the_modality_that_pydicom_reads(self, name: str):
        """Ours and pydicom's full reader agree on each of them."""
        content = SHIPPED[name].read_bytes()
        header = examine(BytesIO(content), len(content), SHIPPED[name].name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pydicom warns of, ours passes over in silence
            dataset = pydicom.dcmread(BytesIO(content))
        assert header == Header(
            dataset.SOPInstanceUID,
            dataset.get("StudyInstanceUID") or "",
            dataset.get("SeriesInstanceUID") or "",
            dataset.get("SOPClassUID") or "",
            dataset.file_meta.get("TransferSyntaxUID") or "",
            dataset.get("Modality") or "",
        )

    @pytest.mark.parametrize(("name", "reason"), NOT_INSTANCES.items())
    def test_every_other_file_has_its_reason(self, name: str, reason: Reason):
        """Rejections carry the reason that the report shows."""
        content = SHIPPED[name].read_bytes()
        assert verdict(content, SHIPPED[name].name)[1] == reason

    def test_a_rejected_file_keeps_the_uids_that_were_read(self):
        """A truncated file is named by its UID in the report."""
        content = (FILES / "MR_truncated.dcm").read_bytes()
        result = examine(BytesIO(content), len(content), "x")
        assert isinstance(result, Rejected)
        assert result.header is not None
        assert result.header.sop_instance_uid == "1.3.6.1.4.1.5962.1.1.4.1.1.20040826185059.5457"


class TestNotDicom:
    """What lies about in archives."""

    @pytest.mark.parametrize(
        ("content", "name", "reason"),
        [
            (b"", "IM1", Reason.EMPTY),
            (b"", ".DS_Store", Reason.EMPTY),
            (b"\0\0\0\1Bud1", ".DS_Store", Reason.SYSTEM_FILE),
            (b"\0\5\x16\7", "._IM1.dcm", Reason.SYSTEM_FILE),
            (b"\xd0\xcf\x11\xe0", "Thumbs.db", Reason.SYSTEM_FILE),
            (b"[.ShellClassInfo]", "Desktop.ini", Reason.SYSTEM_FILE),
            (b"PK\3\4rest", "a", Reason.ARCHIVE),
            (b"PK\5\6rest", "a", Reason.ARCHIVE),
            (b"\x1f\x8b\x08rest", "a", Reason.ARCHIVE),
            (b"7z\xbc\xaf\x27\x1crest", "a", Reason.ARCHIVE),
            (b"Rar!\x1a\7\1\0rest", "a", Reason.ARCHIVE),
            (b"BZh91AY&SY", "a", Reason.ARCHIVE),
            (b"\xfd7zXZ\0rest", "a", Reason.ARCHIVE),
            (b"\x28\xb5\x2f\xfdrest", "a", Reason.ARCHIVE),
            (b"study/im1".ljust(257, b"\0") + b"ustar\0" + bytes(249), "a", Reason.ARCHIVE),
            (b"Patient list\r\n\tone\n", "a.dcm", Reason.TEXT),
            ("\ufeffM\u00fcnchen".encode(), "a", Reason.TEXT),
            ("\u00e9".encode() * 3000, "a", Reason.TEXT),
            ("x\u00e9".encode() * 3001, "a", Reason.TEXT),
            (b"M\xfcnchen", "a", Reason.OTHER),
            (bytes(5000) + b"1", "a", Reason.OTHER),
            (bytes(5000), "Thumbs.db", Reason.SYSTEM_FILE),
            (b"\x89PNG\r\n\x1a\n" + bytes(99), "a", Reason.OTHER),
            (b"\x08\x00\x05", "a", Reason.OTHER),
        ],
    )
    def test_it_is_told_apart(self, content: bytes, name: str, reason: Reason):
        """By content first, and by name only for the operating systems' own files."""
        assert verdict(content, name) == (Status.NOT_DICOM, reason)

    def test_a_dicomdir_is_known_by_its_class(self):
        """Whatever its name, and also when it is cut."""
        content = part10(IDENTITY, sop_class="1.2.840.10008.1.3.10")
        assert verdict(content, "INDEX") == (Status.NOT_DICOM, Reason.DICOMDIR)
        assert verdict(content[:-3], "INDEX") == (Status.NOT_DICOM, Reason.DICOMDIR)

    def test_a_dicom_file_under_a_system_name_is_an_instance(self):
        """The prefix beats the name."""
        assert verdict(part10(IMAGE + PIXELS), "._IM1") == INSTANCE


class TestInvalid:
    """DICOM that cannot be stored."""

    @pytest.mark.parametrize(
        "content",
        [
            IMAGE + PIXELS,
            b"DICM" + part10(IMAGE + PIXELS)[132:],
            part10(IMAGE + PIXELS)[132:],
            b"\0" + IMAGE + PIXELS,
            part10(IMAGE + PIXELS).replace(b"DICM", b"dicm"),
            bytes(128) + IMAGE + PIXELS,
        ],
    )
    def test_a_data_set_without_its_preamble_is_still_dicom(self, content: bytes):
        """Whether preamble, prefix or all file meta information is missing or damaged."""
        result = examine(BytesIO(content), len(content), "IM1")
        assert isinstance(result, Rejected)
        assert (result.status, result.reason) == (Status.INVALID, Reason.NO_PREAMBLE)
        assert result.header is not None
        assert result.header.sop_instance_uid == "1.2.3.4"

    @pytest.mark.parametrize("uid", [b"", b"\0\0", b"  "])
    def test_an_empty_sop_instance_uid_is_none(self, uid: bytes):
        """Padding alone is no UID."""
        assert verdict(part10(element(0x00080018, "UI", uid))) == (Status.INVALID, Reason.NO_UID)

    def test_a_data_set_without_sop_instance_uid_has_none(self):
        """The one in the file meta information does not count, nor does one within a sequence."""
        nested = element(0x00081115, "SQ", OPEN_ITEM + IDENTITY + ITEM_END + SEQUENCE_END, UNDEFINED)
        assert verdict(part10(b"")) == (Status.INVALID, Reason.NO_UID)
        assert verdict(part10(nested)) == (Status.INVALID, Reason.NO_UID)

    @pytest.mark.parametrize("tag", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E])
    @pytest.mark.parametrize("uid", [b"1.2.A", b"DOE^JANE", b"1.2\\1.3", b"1.2\0003", b"1" * 65, b"1" * 5000])
    def test_a_uid_that_is_none_is_malformed(self, tag: int, uid: bytes):
        """It is not kept either: it may be anything, a patient's name too."""
        content = part10(IDENTITY + element(tag, "UI", uid))
        result = examine(BytesIO(content), len(content), "IM1")
        assert isinstance(result, Rejected)
        assert (result.status, result.reason) == MALFORMED
        assert uid.decode() not in repr(result)

    @pytest.mark.parametrize("uid", [b"1.2.03", b"1.2.3 ", b"1.2.3\0", b"1.2.3\0\0 ", b"1" * 64])
    def test_padding_and_leading_zeros_of_a_uid_are_tolerated(self, uid: bytes):
        """Real devices write both."""
        assert verdict(part10(element(0x00080018, "UI", uid))) == INSTANCE


def element_starts(content: bytes) -> set[int]:
    """Where the elements of file meta information and data set start, as pydicom reads them."""
    dataset = pydicom.dcmread(BytesIO(content))
    starts = set()
    for group in (dataset.file_meta, dataset):
        for tag in list(group.keys()):
            found = group.get_item(tag)
            tell = getattr(found, "value_tell", None) or getattr(found, "file_tell", 0)
            starts |= {tell - 8, tell - 12}
    return starts


ONE_PER_SYNTAX = [
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_expb.dcm",
    "MR_small_padded.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG-lossy.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_2frame.dcm",
    "693_J2KI.dcm",
    "rtdose.dcm",
    "rtplan.dcm",
]


class TestCutFiles:
    """A file that ends before its own lengths say."""

    @pytest.mark.parametrize("name", ONE_PER_SYNTAX)
    def test_a_cut_anywhere_within_an_element_is_found(self, name: str):
        """But for a missing final delimiter after whole pixel data, and the cut between two elements."""
        content = (FILES / name).read_bytes()
        invisible = element_starts(content)
        delimiter = content.rfind(b"\xfe\xff\xdd\xe0\0\0\0\0")
        step = max(1, len(content) // 400)
        for end in {*range(140, len(content), step), *range(len(content) - 300, len(content))}:
            if end not in invisible and end != delimiter:
                assert verdict(content[:end]) == TRUNCATED, end

    def test_a_cut_deflated_stream_is_found(self):
        """The stream knows its end; what lies behind that is padding."""
        content = (FILES / "image_dfl.dcm").read_bytes()
        meta = content.find(DEFLATED.encode()) + 22
        assert {verdict(content[:end]) for end in range(meta + 1, len(content) - 8, 11)} == {TRUNCATED}
        assert verdict(content[:-8]) == INSTANCE

    def test_a_data_set_cut_before_it_was_deflated_is_found(self):
        """Its lengths say so."""
        assert verdict(part10(deflate((IMAGE + PIXELS)[:-2]), DEFLATED)) == TRUNCATED

    def test_frames_lost_between_two_fragments_are_found(self):
        """The number of frames and their end markers tell a cut from a missing final delimiter."""
        frame = [b"\xff\xd8 one ", b"end\xff\xd9\0"]
        whole = part10(frames(3) + encapsulated(*frame, *frame, *frame), JPEG)
        assert verdict(whole) == INSTANCE
        assert verdict(whole[:-8]) == INSTANCE
        ends = [
            whole.rfind(b"\xfe\xff\x00\xe0", 0, end) for end in range(len(whole) - 8, len(whole) - 90, -1)
        ]
        assert {verdict(whole[:end]) for end in ends} == {TRUNCATED}

    def test_rle_has_a_fragment_for_each_frame(self):
        """So a missing final delimiter is told from a missing frame."""
        frame = pack("<16L", 1, 64, *([0] * 14)) + b"\x01\x00\x01\x00"
        assert verdict(part10(frames(2) + encapsulated(frame, frame), RLE)[:-8]) == INSTANCE
        assert verdict(part10(frames(3) + encapsulated(frame, frame), RLE)[:-8]) == TRUNCATED

    def test_video_without_its_delimiter_is_not_known_to_be_whole(self):
        """Nothing marks its end, so it is not sent."""
        assert verdict(part10(frames(2) + encapsulated(b"video 12"), MPEG)) == INSTANCE
        assert verdict(part10(frames(2) + encapsulated(b"video 12"), MPEG)[:-8]) == TRUNCATED

    def test_a_sequence_before_the_pixels_needs_its_delimiter(self):
        """Otherwise an image without pixels would pass."""
        sequence = element(0x00081115, "SQ", item(b""), UNDEFINED)
        late = element(0x00400555, "SQ", item(b""), UNDEFINED)
        assert verdict(part10(element(0x00080018, "UI", b"1.23") + sequence)) == TRUNCATED
        assert verdict(part10(IMAGE + late)) == TRUNCATED

    def test_an_element_after_the_pixels_is_checked_too(self):
        """Data set trailing padding, signatures, and private groups beyond the pixel data."""
        private = element(0x7FE10010, "LO", b"VENDOR") + element(0x7FE11001, "OB", bytes(50))
        for trailer in (element(0xFFFCFFFC, "OB", bytes(50)), private):
            whole = part10(IMAGE + PIXELS + trailer)
            assert verdict(whole) == INSTANCE
            assert {verdict(whole[:-cut]) for cut in range(1, 57)} == {TRUNCATED}

    def test_private_data_after_the_pixels_of_an_implicit_data_set_is_checked(self):
        """Ultrasound volumes are kept there."""
        data_set = implicit(0x00080018, b"1.23") + implicit(0x7FE00010, bytes(8))
        whole = part10(data_set + implicit(0x7FE10010, b"VENDOR") + implicit(0x7FE11001, bytes(50)), IMPLICIT)
        assert verdict(whole) == INSTANCE
        assert verdict(whole[:-1]) == TRUNCATED

    def test_a_block_of_zeros_in_place_of_the_rest_is_a_cut(self):
        """A copy that was interrupted after the file got its full size."""
        whole = part10(IMAGE + PIXELS)
        assert verdict(whole[:-44] + bytes(44)) == TRUNCATED


def deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


class TestOddities:
    """What real devices write is no reason to refuse."""

    JPEG_FRAME = b"\xff\xd8 image \xff\xd9"

    @pytest.mark.parametrize(
        ("name", "content"),
        {
            "zero padding": part10(IMAGE + PIXELS + bytes(512)),
            "one zero": part10(IMAGE + PIXELS + b"\0"),
            "garbage": part10(IMAGE + PIXELS + b"\xff\xee\x12garbage, not an element\x01\x02"),
            "short garbage": part10(IMAGE + PIXELS + b"xyz"),
            "data set trailing padding": part10(IMAGE + PIXELS + element(0xFFFCFFFC, "OB", bytes(100))),
            "padding after fragments": part10(IMAGE + encapsulated(JPEG_FRAME) + bytes(100), JPEG),
            "no delimiter": part10(IMAGE + encapsulated(JPEG_FRAME), JPEG)[:-8],
            "zeros for a delimiter": part10(IMAGE + encapsulated(JPEG_FRAME), JPEG)[:-8] + bytes(64),
            "image end padded with FF": part10(IMAGE + encapsulated(JPEG_FRAME + b"\xff"), JPEG)[:-8],
            "no delimiter of a last sequence": part10(
                IDENTITY + element(0x0040A730, "SQ", OPEN_ITEM + IDENTITY + ITEM_END, UNDEFINED)
            ),
            "padding after a report": part10(IDENTITY + element(0x0040A730, "SQ", item(b"")) + bytes(64)),
            "odd lengths": part10(
                IMAGE + element(0x00291010, "OB", b"abc") + element(0x7FE00010, "OB", b"abc")
            ),
            "odd fragment": part10(IMAGE + encapsulated(JPEG_FRAME[:-2] + b" \xff\xd9"), JPEG),
            "wrong group length": part10(IMAGE + PIXELS)[:140] + pack("<L", 7) + part10(IMAGE + PIXELS)[144:],
            "no transfer syntax": part10(IMAGE + PIXELS, syntax=""),
            "no file meta information": bytes(128) + b"DICM" + IMAGE + PIXELS,
            "implicit though explicit by name": part10(implicit(0x00080018, b"1.23"), EXPLICIT),
            "explicit though implicit by name": part10(IMAGE + PIXELS, IMPLICIT),
            "an implicit element among explicit ones": part10(
                IDENTITY + implicit(0x00290010, b"X" * 4) + IMAGE[len(IDENTITY) :] + PIXELS
            ),
            "unknown VR": part10(IDENTITY + element(0x00290010, "ZZ", b"abcd") + PIXELS),
            "elements out of order": part10(IMAGE[len(IDENTITY) :] + IDENTITY + PIXELS),
            "a stray item delimiter": part10(IDENTITY + ITEM_END + IMAGE[len(IDENTITY) :] + PIXELS),
            "a stray sequence delimiter": part10(IDENTITY + SEQUENCE_END + IMAGE[len(IDENTITY) :] + PIXELS),
            "a command set": part10(implicit(0x00000000, bytes(4)) + implicit(0x00000002, b"1.2\0") + IMAGE),
            "deflated": part10(deflate(IMAGE + PIXELS), DEFLATED),
            "deflated and padded": part10(deflate(IMAGE + PIXELS) + b"\0", DEFLATED),
            "an unknown character set": part10(element(0x00080005, "CS", b"DOE^JANE") + IMAGE + PIXELS),
            "a private transfer syntax": part10(IMAGE + PIXELS, "1.2.840.113619.5.2"),
        }.items(),
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_it_is_an_instance(self, name: str, content: bytes):
        """Each of these is sent as it is."""
        assert verdict(content) == INSTANCE

    def test_nothing_is_logged_and_nothing_is_warned_of(self, caplog: pytest.LogCaptureFixture):
        """pydicom would name a character set, a file, a value; warnings fail this test by themselves."""
        odd = element(0x00080005, "CS", b"DOE^JANE") + IMAGE + element(0x00291010, "ZZ", b"DOE^JANE")
        with caplog.at_level(logging.DEBUG):
            assert verdict(part10(odd, IMPLICIT)) == INSTANCE
        assert not caplog.records

    def test_the_last_of_two_equal_elements_counts(self):
        """As in pydicom."""
        content = part10(IDENTITY + element(0x00080018, "UI", b"1.2.3.9\0"))
        header = examine(BytesIO(content), len(content), "IM1")
        assert isinstance(header, Header)
        assert header.sop_instance_uid == "1.2.3.9"


class TestModality:
    """What stands there says nothing about whether a file is sent."""

    @pytest.mark.parametrize(
        ("value", "modality"),
        [
            (b"CT", "CT"),
            (b" MR ", "MR"),
            (b"OT\0", "OT"),
            (b"RTPLAN", "RTPLAN"),
            (b"ct", "ct"),
            (b"", ""),
            (b"\0\0", ""),
            (b"CT\\MR", ""),
            (b"DOE^JANE", ""),
            (b"=1+1", ""),
            (b"A" * 17, ""),
            (b"\xff\xfe", ""),
            (b"A" * 1025, ""),
            (b"A" * 60_000, ""),
        ],
    )
    def test_is_a_code_string_or_not_known(self, value: bytes, modality: str):
        """PS3.5 6.2; a value of any length is passed over, and the file is an instance all the same."""
        content = part10(element(0x00080060, "CS", value) + IMAGE + PIXELS)
        file = CountingFile(content)
        header = examine(file, len(content), "IM1")
        assert isinstance(header, Header)
        assert (header.sop_instance_uid, header.modality) == ("1.2.3.4", modality)
        assert file.bytes_read < 4000

    def test_that_ends_too_early_is_a_cut(self):
        content = part10(IMAGE + element(0x00080060, "CS", b"CT", 4000))
        assert verdict(content) == MALFORMED
        assert verdict(part10(element(0x00080060, "CS", b"CT", 4000))) == TRUNCATED

    def test_of_undefined_length_is_jumped_over(self):
        """Nonsense of a kind that was an instance before, and is."""
        odd = element(0x00080060, "UN", OPEN_ITEM + ITEM_END + SEQUENCE_END, UNDEFINED)
        content = part10(odd + IMAGE + PIXELS)
        header = examine(BytesIO(content), len(content), "IM1")
        assert isinstance(header, Header)
        assert (header.sop_instance_uid, header.modality) == ("1.2.3.4", "")

    def test_alone_makes_no_header(self):
        """A file that holds nothing else has no SOP Instance UID to be known by."""
        content = part10(element(0x00080060, "CS", b"CT"), syntax="")
        rejected = examine(BytesIO(content), len(content), "IM1")
        assert rejected == Rejected(Status.INVALID, Reason.NO_UID)


OPEN_SEQUENCE = element(0x00081115, "SQ", b"", UNDEFINED)


class TestHostileFiles:
    """Files made to hurt get one verdict, in bounded time and memory."""

    @pytest.mark.parametrize(
        ("name", "case"),
        {
            "huge kept value": (part10(pack("<HHL", 8, 0x18, 0xFFFFFFF0) + b"1.2", IMPLICIT), MALFORMED),
            "huge skipped value": (part10(pack("<HHL", 8, 0x20, 0xFFFFFFF0) + b"1.2", IMPLICIT), TRUNCATED),
            "huge meta value": (part10(b"")[:132] + element(0x00020102, "OB", b"", 0xFFFFFFF0), TRUNCATED),
            "deep nesting": (part10(IDENTITY + (OPEN_SEQUENCE + OPEN_ITEM) * 100_000), MALFORMED),
            "deep nesting of UN": (
                part10(IDENTITY + (element(0x00091010, "UN", b"", UNDEFINED) + OPEN_ITEM) * 100_000),
                MALFORMED,
            ),
            "undefined length without items": (
                part10(IDENTITY + element(0x00081115, "SQ", b"not an item at all", UNDEFINED)),
                MALFORMED,
            ),
            "an item larger than the file": (
                part10(
                    IMAGE + element(0x7FE00010, "OB", pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFF0), UNDEFINED)
                ),
                TRUNCATED,
            ),
            "a UID of undefined length": (part10(element(0x00080018, "UI", b"") + OPEN_SEQUENCE), TRUNCATED),
            "no deflated stream": (part10(b"\xff" * 5000, DEFLATED), MALFORMED),
            "only the prefix": (bytes(128) + b"DICM", (Status.INVALID, Reason.NO_UID)),
        }.items(),
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_it_is_refused(self, name: str, case: tuple[bytes, tuple[str, str]]):
        """With the reason that is nearest."""
        content, expected = case
        assert verdict(content) == expected

    def test_endless_elements_end(self):
        """The work is bounded by a count, not by the file's size."""
        started = time.monotonic()
        assert verdict(part10(IDENTITY + element(0x00080020, "DA", b"") * 600_000)) == MALFORMED
        assert time.monotonic() - started < 300

    def test_a_deflate_bomb_is_malformed(self):
        """Gigabytes in a megabyte: inflated in pieces, up to a bound, and kept nowhere."""
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        block = deflater.compress(bytes(16 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
        assert verdict(part10(block * 100, DEFLATED)) == MALFORMED

    def test_a_large_deflated_image_is_an_instance(self):
        """Only its head is kept; the stream's end says that it is whole."""
        pixels = element(0x7FE00010, "OW", bytes(20 << 20))
        content = part10(deflate(IMAGE + pixels + element(0xFFFCFFFC, "OB", bytes(10))), DEFLATED)
        assert verdict(content) == INSTANCE
        assert verdict(content[:-3]) == TRUNCATED

    @settings(deadline=None)
    @given(st.binary(max_size=300))
    def test_random_bytes_get_a_verdict(self, content: bytes):
        """With or without the prefix, deflated or not, as meta or as data set."""
        for wrapped in (content, bytes(128) + b"DICM" + content, part10(content), part10(content, DEFLATED)):
            assert isinstance(examine(BytesIO(wrapped), len(wrapped), "x"), Header | Rejected)

    @settings(deadline=None)
    @given(st.data())
    def test_damaged_files_get_a_verdict(self, data: st.DataObject):
        """A few bytes of a real file changed at random."""
        name = data.draw(
            st.sampled_from(["liver_1frame.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "image_dfl.dcm"])
        )
        content = bytearray((FILES / name).read_bytes()[:4000])
        for place in data.draw(st.lists(st.integers(132, min(3999, len(content) - 1)), max_size=8)):
            content[place] = data.draw(st.sampled_from([0, 1, 0x41, 0x7F, 0xE0, 0xFE, 0xFF]))
        assert isinstance(examine(BytesIO(bytes(content)), len(content), "x"), Header | Rejected)


class CountingFile(BytesIO):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.bytes_read += len(content)
        return content


class TestCost:
    """The header is read, and no more."""

    def test_pixels_are_not_read(self):
        """Neither native nor encapsulated ones."""
        frame = b"\xff\xd8" + bytes(1 << 20) + b"\xff\xd9"
        for content in (
            part10(IMAGE + element(0x7FE00010, "OW", bytes(1 << 20))),
            part10(IMAGE + encapsulated(frame), JPEG),
            part10(IMAGE + encapsulated(frame), JPEG)[:-8],
        ):
            file = CountingFile(content)
            assert isinstance(examine(file, len(content), "IM1"), Header)
            assert file.bytes_read < 4000

    def test_an_open_file_of_gigabytes_is_examined_in_no_time(self, tmp_path: Path):
        """Through its own handle, by arithmetic; one byte less and it is truncated."""
        head = part10(IMAGE + element(0x7FE00010, "OW", b"", 4_000_000_000))
        path = tmp_path / "large"
        path.write_bytes(head)
        for size_bytes, expected in (
            (len(head) + 4_000_000_000, Header),
            (len(head) + 3_999_999_999, Rejected),
        ):
            os.truncate(path, size_bytes)
            with path.open("rb") as file:
                assert isinstance(examine(file, size_bytes, path.name), expected)

    def test_many_threads_read_at_once(self):
        """Nothing is shared between them."""
        contents = [SHIPPED[name].read_bytes() for name in INSTANCES[:40]] * 3
        alone = [examine(BytesIO(content), len(content), "x") for content in contents]
        with ThreadPoolExecutor(30) as pool:
            together = list(pool.map(lambda content: examine(BytesIO(content), len(content), "x"), contents))
        assert together == alone

    def test_a_read_error_is_the_callers(self):
        """It is about the file, not about its content."""

        class BrokenFile(BytesIO):
            def seek(self, offset: int, whence: int = 0, /) -> int:
                raise OSError(5, "Input/output error")

        content = part10(IMAGE + PIXELS)
        with pytest.raises(OSError, match="Input/output"):
            examine(BrokenFile(content), len(content), "IM1")
