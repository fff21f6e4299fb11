"""What scanners, exporters and archives write that is wrong: it travels unchanged when nothing is missing.

Each case was reported in public against other software of this kind, or is a sibling of one. A whole run
sends a file of each; the row and the stored bytes decide.
"""

import gzip
import re
import zlib
from struct import pack

import pytest

from flows.cli.__main__ import execute
from tasks.core.errors import UsageError
from tasks.report.reader import read_report
from tests.conftest import NearSide
from tests.far_side import TOKEN, FarSide
from tests.odd_files import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMAGE,
    IMPLICIT,
    IMPLICIT_IDENTITY,
    IMPLICIT_PIXELS,
    ITEM,
    ITEM_END,
    JPEG,
    JPEG_XL,
    REST,
    RLE,
    SEQUENCE_END,
    SOP,
    UID,
    UNDEFINED,
    explicit,
    fragments,
    identity,
    implicit,
    padded,
    part10,
    pixels,
    size,
    uids,
)

WHOLE = identity() + size() + pixels()
DATA_SET = implicit(0x7FE00010, bytes(32))
SURPLUS = pack("<20h", *[-1, 20] * 10)  # -1, 20 reads as the tag FFFF,0014
SEQUENCE = 0x00081115
JPEG_FRAME = b"\xff\xd8 image \xff\xd9"
XL_FRAME = b"\xff\x0a image"
TWO_FRAMES = explicit(0x00280008, b"IS", b"2 ")
REFERENCE = ITEM + explicit(0x00081155, b"UI", padded("1.2.9"))
UNITS = explicit(0x00400007, b"LO", b"ab")
PATIENT = explicit(0x00100010, b"PN", b"Doe^Joan") + explicit(0x00100020, b"LO", b"12")
ICON = ITEM + size() + pixels() + ITEM_END + SEQUENCE_END
LAST_UIDS = len(implicit(0x0020000D, padded("1.2.3.5"))) * 2


def sequence(value: bytes, tag: int = SEQUENCE) -> bytes:
    return explicit(tag, b"SQ", value, length=UNDEFINED)


def raw_deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


ODD_VRS = (b"--", b"  ", b"??", b"lo", b"\0\0", b"ZZ", b"\xff\xfe", b"4\x12")
TRAVELS = {
    **{f"VR {vr!r}": part10(SOP + explicit(0x00091001, vr, b"abcd") + IMAGE) for vr in ODD_VRS},
    **{
        f"VR {vr!r}, long": part10(SOP + explicit(0x00091001, vr, b"abcd", long=True) + IMAGE)
        for vr in ODD_VRS
    },
    **{
        f"VR {vr!r} of pixels": part10(identity() + size() + explicit(0x7FE00010, vr, b"abcd" * 8, long=True))
        for vr in ODD_VRS
    },
    "VR ?? first": part10(explicit(0x00080008, b"??", b"ORIGINAL") + SOP + IMAGE),
    "VR ?? throughout": part10(
        SOP + b"".join(explicit(0x00091000 | number, b"??", b"abcd") for number in range(1, 12)) + IMAGE
    ),
    **{
        f"VR {vr!r} first, twice{', long' * long}": part10(
            b"".join(explicit(tag, vr, value, long=long) for tag, value in uids()[:2]) + IMAGE
        )
        for vr in ODD_VRS
        for long in (False, True)
    },
    **{
        f"VR {vr!r} alone": part10(
            b"".join(explicit(tag, vr, value) for tag, value in uids())
            + explicit(0x00280010, vr, b"\4\0")
            + explicit(0x7FE00010, vr, bytes(32))
        )
        for vr in (b"--", b"  ", b"??", b"lo")
    },
    "VR -- within an item": part10(
        SOP
        + sequence(ITEM + explicit(0x00080008, b"--", b"ab") + identity() + ITEM_END + SEQUENCE_END)
        + IMAGE
    ),
    "UN with a short length": part10(SOP + explicit(0x00091001, b"UN", b"abcd", long=False) + IMAGE),
    "LO with a long length": part10(SOP + explicit(0x00091001, b"LO", b"abcd", long=True) + IMAGE),
    "an explicit element among implicit ones": part10(
        IMPLICIT_IDENTITY + explicit(0x00280010, b"US", b"\4\0") + IMPLICIT_PIXELS, IMPLICIT
    ),
    "a sequence closed as an item": part10(SOP + sequence(ITEM + identity() + ITEM_END + ITEM_END) + IMAGE),
    "an inner sequence closed as an item": part10(
        SOP
        + sequence(
            ITEM + sequence(ITEM + identity() + ITEM_END + ITEM_END, 0x0008114A) + ITEM_END + SEQUENCE_END
        )
        + IMAGE
    ),
    "an item closed as a sequence": part10(SOP + sequence(ITEM + identity() + SEQUENCE_END) + IMAGE),
    "a sequence closed by nothing": part10(SOP + sequence(ITEM + identity() + ITEM_END) + IMAGE),
    "neither item nor sequence closed": part10(SOP + sequence(ITEM + identity()) + IMAGE),
    **{
        f"neither item nor sequence closed, {name}": part10(SOP + value + IMAGE)
        for name, value in {
            "and greater tags behind it": sequence(REFERENCE),
            "of two items": sequence(REFERENCE * 2),
            "nor those in it": sequence(REFERENCE + sequence(REFERENCE, 0x0008114A)),
            "of a creator's own": sequence(REFERENCE, 0x00091001),
            "twice": sequence(REFERENCE) + sequence(ITEM + UNITS, 0x00181001),
        }.items()
    },
    "neither item nor sequence closed, right before the rows": part10(
        SOP + REST + sequence(ITEM + UNITS, 0x00209222) + size() + pixels()
    ),
    "neither item nor sequence closed, right before the pixels": part10(
        SOP + REST + size() + sequence(ITEM + UNITS, 0x00400275) + pixels()
    ),
    "neither item nor sequence closed, and an icon behind it": part10(
        SOP + REST + size() + sequence(ITEM + UNITS, 0x00400275) + sequence(ICON, 0x00880200) + pixels()
    ),
    "neither item nor sequence of an icon closed": part10(
        SOP + REST + size() + sequence(ITEM + size() + pixels(), 0x00880200) + pixels()
    ),
    "neither item nor sequence closed, implicit": part10(
        IMPLICIT_IDENTITY[:-LAST_UIDS]
        + implicit(SEQUENCE, ITEM + implicit(0x00081155, b"1.22"), length=UNDEFINED)
        + IMPLICIT_IDENTITY[-LAST_UIDS:]
        + IMPLICIT_PIXELS,
        IMPLICIT,
    ),
    "neither item nor sequence closed, in a report": part10(
        SOP + sequence(REFERENCE) + PATIENT + REST + sequence(implicit(0xFFFEE000, UNITS), 0x0040A730)
    ),
    "no item, closed as one": part10(SOP + sequence(ITEM_END) + IMAGE),
    "no item, closed by nothing": part10(SOP + sequence(b"") + IMAGE),
    **{
        f"an inner sequence, {name}": part10(
            SOP + sequence(ITEM + sequence(value, 0x0008114A) + ITEM_END + SEQUENCE_END) + IMAGE
        )
        for name, value in {
            "no item, closed as one": ITEM_END,
            "no item, closed by nothing": b"",
            "an item with a length, closed as one": implicit(0xFFFEE000, identity()) + ITEM_END,
            "an item with a length, closed by nothing": implicit(0xFFFEE000, identity()),
        }.items()
    },
    "a sequence longer than the file": part10(
        SOP + explicit(SEQUENCE, b"SQ", ITEM + identity() + ITEM_END, length=0x7FFFFFF0) + IMAGE
    ),
    "an item longer than the file": part10(
        SOP + sequence(implicit(0xFFFEE000, identity() + ITEM_END, length=0x7FFFFFF0) + SEQUENCE_END) + IMAGE
    ),
    "little endian, big by name": part10(WHOLE, BIG_ENDIAN),
    "implicit little endian, big by name": part10(IMPLICIT_IDENTITY + IMPLICIT_PIXELS, BIG_ENDIAN),
    "big endian, little by name": part10(identity(">") + size(">") + pixels(">"), EXPLICIT),
    "deflated with a zlib header": part10(zlib.compress(WHOLE), DEFLATED),
    "deflated with a gzip header": part10(gzip.compress(WHOLE), DEFLATED),
    "not deflated, though by name": part10(WHOLE, DEFLATED),
    "deflated, though not by name": part10(raw_deflate(WHOLE), EXPLICIT),
    "JPIP, deflated": part10(raw_deflate(identity() + size()), "1.2.840.10008.1.2.4.95"),
    "surplus pixels": part10(WHOLE + SURPLUS),
    "surplus pixels, implicit": part10(IMPLICIT_IDENTITY + IMPLICIT_PIXELS + SURPLUS, IMPLICIT),
    "other surplus, implicit": part10(
        IMPLICIT_IDENTITY + IMPLICIT_PIXELS + pack("<20h", *[-3, 20, 900, 0] * 5), IMPLICIT
    ),
    "two surplus bytes": part10(IMPLICIT_IDENTITY + IMPLICIT_PIXELS + b"\xff\xff", IMPLICIT),
    "no delimiter after a padded frame": part10(
        WHOLE[:0] + identity() + size() + fragments(JPEG_FRAME.ljust(32, b"\0")), JPEG
    ),
    **{
        f"no delimiter after a frame padded with {name}": part10(
            identity() + TWO_FRAMES + size() + fragments(JPEG_FRAME + padding, JPEG_FRAME + padding), JPEG
        )
        for name, padding in {
            "FF": b"\xff" * 20,
            "blanks": b" " * 20,
            "zeros and FF": bytes(5) + b"\xff" * 5,
            "a hundred kilobytes of FF": b"\xff" * 100_000,
            "another byte": b"\x01" + b"\xaa" * 31,
        }.items()
    },
    "a frame padded with a kilobyte": part10(
        identity() + size() + fragments(JPEG_FRAME.ljust(1024, b"\0")), JPEG
    ),
    **{
        f"{len(surplus)} surplus bytes in place of the delimiter": part10(
            identity() + size() + fragments(JPEG_FRAME) + surplus, JPEG
        )
        for surplus in (b"\1", b"\xfa\xff\1", b"\r\n\x1a\0\0\0\0")
    },
    **{
        f"JPEG by its bytes, {syntax!r} by name, without delimiter": part10(
            identity() + size() + fragments(b"\xff\xd8\xff image", b"the rest \xff\xd9\xff"), syntax
        )
        for syntax in (EXPLICIT, "1.2.3.4.5", JPEG_XL, "")
    },
    "deflated frames without delimiter": part10(
        identity() + TWO_FRAMES + size() + fragments(b"abcd", b"efgh"), "1.2.840.10008.1.2.8.1"
    ),
    "garbage in place of the delimiter": part10(
        identity() + size() + fragments(JPEG_FRAME) + b"garbage!" * 3, JPEG
    ),
    "JPEG XL without delimiter": part10(
        identity() + TWO_FRAMES + size() + fragments(XL_FRAME + b"\0", XL_FRAME + b"\0"), JPEG_XL
    ),
    "a pad byte not counted": part10(SOP + explicit(0x00081030, b"LO", b"abc") + b"\0" + IMAGE),
    "pad bytes not counted, implicit": part10(
        implicit(0x00080018, UID.encode()) + b"\0" + implicit(0x0020000D, b"1.2.5") + b"\0" + IMPLICIT_PIXELS,
        IMPLICIT,
    ),
    "a pad byte of the transfer syntax not counted": part10(
        WHOLE, meta=explicit(0x00020010, b"UI", EXPLICIT.encode()) + b"\0"
    ),
    "white space around UIDs": part10(
        identity(sop=b"\t1.2.3.4\r\n") + size() + pixels(),
        meta=explicit(0x00020010, b"UI", b" \v" + EXPLICIT.encode() + b"\xa0\0"),
    ),
    **{
        f"white space {blank!r} around UIDs": part10(
            identity(sop=blank + b"1.2.3.4" + blank) + size() + fragments(JPEG_FRAME),
            meta=explicit(0x00020010, b"UI", blank + JPEG.encode() + blank),
        )
        for blank in ("\u00a0".encode(), "\ufeff".encode(), "\u3000".encode(), b"\x1f ", b"\x85\0")
    },
    "identity behind the pixels": part10(size() + pixels() + identity()),
    "an image that says it is a DICOMDIR": part10(
        WHOLE, meta=explicit(0x00020002, b"UI", padded("1.2.840.10008.1.3.10"))
    ),
}

CUT = {
    "VR --": part10(SOP + explicit(0x00091001, b"--", b"abcd") + IMAGE)[:-3],
    "nested delimiters": TRAVELS["an inner sequence closed as an item"][:-1],
    "neither item nor sequence closed": TRAVELS["neither item nor sequence closed"][:-1],
    # That a sequence has ended of which nothing is closed, only the data set's own elements tell. Without any
    # it is as DCMTK and pydicom say, who read neither kind: cut within an item.
    "a report within an item": part10(SOP + PATIENT + REST + sequence(ITEM + UNITS, 0x0040A730)),
    "an image within an item": part10(SOP + sequence(REFERENCE)),
    "an icon": part10(SOP + REST + size() + sequence(ITEM + size() + pixels(), 0x00880200)),
    "a related series": part10(
        SOP + sequence(ITEM + REST + sequence(implicit(0xFFFEE000, UNITS), 0x0040A170), 0x00081250)
    ),
    "pixels behind a sequence of which nothing is closed": part10(SOP + sequence(REFERENCE) + IMAGE)[:-1],
    "a frame that is filled up with FF": part10(
        identity() + size() + fragments(JPEG_FRAME[:-2] + b"\xff" * 20), JPEG
    ),
    "a frame behind the picture in it": part10(
        identity() + size() + fragments(b"\xff\xd8" + JPEG_FRAME + b" image" + b"\xff" * 20), JPEG
    ),
    "little endian, big by name": part10(WHOLE, BIG_ENDIAN)[:-1],
    "deflated with a zlib header": part10(zlib.compress(WHOLE), DEFLATED)[:-6],
    "deflated with a gzip header": part10(gzip.compress(WHOLE), DEFLATED)[:-12],
    "a private group behind the pixels": part10(
        WHOLE + explicit(0x7FE10010, b"LO", b"VENDOR") + explicit(0x7FE11001, b"OB", bytes(50))
    )[:-1],
    "one behind the pixels, implicit": part10(
        IMPLICIT_IDENTITY
        + IMPLICIT_PIXELS
        + implicit(0x7FE10010, b"VENDOR")
        + implicit(0x7FE11001, bytes(50)),
        IMPLICIT,
    )[:-1],
    "a fragment": part10(identity() + size() + fragments(JPEG_FRAME.ljust(32, b"\0")), JPEG)[:-24],
    "a delimiter": part10(identity() + size() + fragments(JPEG_FRAME) + SEQUENCE_END, JPEG)[:-5],
    "deflated frames": part10(identity() + TWO_FRAMES + size() + fragments(b"abcd"), "1.2.840.10008.1.2.8.1"),
    "no frame": part10(identity() + size() + fragments(), RLE),
    "a lost frame": part10(identity() + TWO_FRAMES + size() + fragments(JPEG_FRAME.ljust(32, b"\0")), JPEG),
    "a lost frame of JPEG XL": part10(
        identity() + TWO_FRAMES + size() + fragments(XL_FRAME + b"\0"), JPEG_XL
    ),
    "a copy filled up with zeros": part10(
        identity() + size() + fragments(bytes(range(1, 40)) + bytes(25)), RLE
    )
    + bytes(64),
    "pad bytes not counted, implicit": TRAVELS["pad bytes not counted, implicit"][:-1],
}

RECORDS = b"".join(
    (
        explicit(0x00041130, b"CS", b"CD"),
        explicit(0x00041200, b"UL", bytes(4)),
        explicit(0x00041202, b"UL", bytes(4)),
        explicit(0x00041212, b"US", bytes(2)),
        explicit(0x00041220, b"SQ"),
    )
)
ACR_NEMA = b"".join(
    (
        implicit(0x00080000, pack("<L", 64)),
        implicit(0x00080010, b"ACR-NEMA 2.0"),
        implicit(0x00080060, b"CT"),
        implicit(0x00280010, pack("<H", 4)),
        implicit(0x7FE00010, bytes(32)),
    )
)
HELD_BACK = {
    "a DICOMDIR without class": (
        part10(RECORDS, meta=explicit(0x00020010, b"UI", padded(EXPLICIT))),
        "not_dicom/dicomdir",
    ),
    "a DICOMDIR without file meta": (bytes(128) + b"DICM" + RECORDS, "not_dicom/dicomdir"),
    "a DICOMDIR without preamble": (RECORDS, "not_dicom/dicomdir"),
    "ACR-NEMA": (ACR_NEMA, "invalid/no_preamble"),
    "a data set without UIDs": (
        explicit(0x00080008, b"CS", b"ORIGINAL") + explicit(0x00080060, b"CS", b"CT") + size() + pixels(),
        "invalid/no_preamble",
    ),
    "ACR-NEMA, big endian": (
        implicit(0x00080010, b"ACR-NEMA 2.0", order=">") + implicit(0x00080060, b"CT", order=">"),
        "invalid/no_preamble",
    ),
    "a data set that begins with the patient": (
        explicit(0x00100010, b"PN", b"Doe^Jane") + explicit(0x00100020, b"LO", b"12") + size() + pixels(),
        "invalid/no_preamble",
    ),
    "a data set of pixels alone": (size() + pixels(), "invalid/no_preamble"),
    "a command's length before ACR-NEMA": (implicit(0, bytes(4)) + ACR_NEMA, "invalid/no_preamble"),
    "two elements that are no image": (
        explicit(0x00100010, b"PN", b"Doe^Jane") + explicit(0x00100020, b"LO", b"12"),
        "not_dicom/other",
    ),
    "three bytes of a tag": (b"\x08\x00\x05", "not_dicom/other"),
    "a file in a file": (bytes(128) + b"DICM" + part10(WHOLE), "invalid/malformed"),
    "a UID of dots": (part10(identity(sop=b"....") + size() + pixels()), "invalid/malformed"),
    "a UID with an empty component": (part10(identity(sop=b"1..2") + size() + pixels()), "invalid/malformed"),
    "zeros in the middle": (part10(SOP + REST + bytes(64) + size() + pixels()), "invalid/malformed"),
}


class TestOddFile:
    def test_that_lacks_nothing_is_stored_as_it_is(self, near_side: NearSide, far_side: FarSide) -> None:
        """Byte for byte, with its SOP Instance UID in its row; all have the same one, so each is sent."""
        for name, content in TRAVELS.items():
            near_side.put(f"study/{name}", content)
        run = near_side.run(on_conflict="upload", parallel=1)
        stored = {name: far_side.objects.get(row["key"]) for name, row in run.rows.items()}
        assert {name: status for name, status in run.statuses.items() if status != "uploaded"} == {}
        assert stored == {f"study/{name}": [content] for name, content in TRAVELS.items()}
        assert {row["sop_instance_uid"] for row in run.rows.values()} == {UID}
        assert run.exit_code == 0

    def test_that_is_cut_is_truncated(
        self, near_side: NearSide, far_side: FarSide, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With the UID that was read, and what it ends within; the log says to what, and what to do."""
        for name, content in CUT.items():
            near_side.put(f"study/{name}", content)
        run = near_side.run()
        assert {name: status for name, status in run.statuses.items() if status != "invalid/truncated"} == {}
        assert len(run.rows) == len(CUT)
        assert {row["sop_instance_uid"] for row in run.rows.values()} == {UID}
        assert (run.exit_code, far_side.objects) == (1, {})
        said = re.compile(
            r"study 1 file \d+ is held back \(truncated, (it ends .*)\): copy it again from its source, "
        )
        found = [match[1] for match in map(said.match, caplog.messages) if match]
        assert sorted(found) == sorted(row["detail"] for row in run.rows.values())
        assert sum("or --accept truncated" in message for message in caplog.messages) >= len(CUT)

    def test_that_is_cut_within_a_reference_does_not_have_its_uids(self, near_side: NearSide) -> None:
        """The study of a related series is another one."""
        near_side.put("study/IM1", CUT["a related series"])
        row = near_side.run().row("study/IM1")
        assert (row["study_instance_uid"], row["series_instance_uid"]) == ("", "")

    @pytest.mark.parametrize("name", HELD_BACK)
    def test_that_is_not_sent_has_the_true_reason(
        self, near_side: NearSide, far_side: FarSide, name: str
    ) -> None:
        """An image is never `not_dicom`, which ends in exit code 0."""
        content, status = HELD_BACK[name]
        near_side.put("study/IM1", content)
        near_side.put("study/IM2", TRAVELS["surplus pixels"])
        run = near_side.run()
        assert run.statuses == {"study/IM1": status, "study/IM2": "uploaded"}
        assert run.exit_code == (0 if status.startswith("not_dicom") else 1)
        assert len(far_side.objects) == 1


CUT_IMAGE, ODD_UID = part10(WHOLE)[:-3], part10(WHOLE.replace(padded("1.2.3.5"), b"Doe^Joan"))
WITHOUT_PREAMBLE = part10(WHOLE)[132:]
ACCEPTED = {"truncated": CUT_IMAGE, "malformed": ODD_UID, "no_preamble": WITHOUT_PREAMBLE}
ALL = ",".join(ACCEPTED)


class TestAcceptedFile:
    """`--accept`: an operator has sent what would be held back."""

    @pytest.mark.parametrize("reason", ACCEPTED)
    def test_is_sent_as_it_is(self, near_side: NearSide, far_side: FarSide, reason: str) -> None:
        """With the reason in its row; without the option it is held back."""
        near_side.put("study/IM1", ACCEPTED[reason])
        run = near_side.run()
        assert (run.statuses, run.exit_code) == ({"study/IM1": f"invalid/{reason}"}, 1)
        others = ",".join(ACCEPTED.keys() - {reason})
        assert near_side.run(accept=others).statuses == run.statuses
        run = near_side.run(accept=reason)
        row = run.row("study/IM1")
        assert (run.statuses, run.exit_code) == ({"study/IM1": f"uploaded/{reason}"}, 0)
        assert far_side.objects == {row["key"]: [ACCEPTED[reason]]}
        assert (row["sop_instance_uid"], run.summary.complete_studies) == (UID, 1)
        assert any(
            problem.startswith("sent though") and "1 file" in problem for problem in run.summary.problems
        )

    @pytest.mark.parametrize("reason", ACCEPTED)
    def test_that_is_stored_is_not_sent_again(
        self, near_side: NearSide, far_side: FarSide, reason: str
    ) -> None:
        """Nor is it damaged, when a run without the option reads it anew."""
        near_side.put("study/IM1", ACCEPTED[reason])
        near_side.run(accept=ALL)
        for options in ({}, {"rehash": True}, {"rehash": True, "accept": ALL}):
            run = near_side.run(**options)
            assert (run.statuses, run.exit_code) == ({"study/IM1": "already_uploaded"}, 0)
        assert len(far_side.objects) == 1

    @pytest.mark.parametrize("reason", ["malformed", "no_preamble"])
    def test_with_other_bytes_than_are_stored_of_its_path_is_replaced(
        self, near_side: NearSide, far_side: FarSide, reason: str
    ) -> None:
        """Which wins over the reason."""
        near_side.put("study/IM1", part10(WHOLE + bytes(8)))
        near_side.run()
        near_side.put("study/IM1", ACCEPTED[reason])
        assert near_side.run().statuses == {"study/IM1": "changed/damaged"}
        run = near_side.run(accept=ALL)
        assert (run.statuses, run.exit_code) == ({"study/IM1": "uploaded/replaced"}, 0)
        assert far_side.objects[run.row("study/IM1")["key"]] == [ACCEPTED[reason]]

    def test_that_is_less_of_what_is_stored_is_damaged_all_the_same(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """A truncated copy never takes the place of what the store has more of; a longer one does."""
        near_side.put("study/IM1", CUT_IMAGE)
        near_side.run(accept=ALL)
        near_side.put("study/IM1", CUT_IMAGE[:-5])
        assert near_side.run(accept=ALL).statuses == {"study/IM1": "changed/damaged"}
        near_side.put("study/IM1", part10(WHOLE)[:-1])
        assert near_side.run(accept=ALL).statuses == {"study/IM1": "uploaded/replaced"}
        near_side.put("study/IM1", part10(WHOLE))
        assert near_side.run().statuses == {"study/IM1": "uploaded/replaced"}

    def test_may_be_a_duplicate_or_a_conflict(self, near_side: NearSide, far_side: FarSide) -> None:
        near_side.put("study/IM1", CUT_IMAGE)
        near_side.put("study/IM2", CUT_IMAGE)
        near_side.put("study/IM3", CUT_IMAGE[:-1])
        statuses = near_side.run(accept="truncated").statuses
        assert sorted(statuses.values()) in (
            ["conflict", "duplicate", "uploaded/truncated"],
            ["conflict", "conflict", "uploaded/truncated"],
        )
        assert len(far_side.objects) == 1

    @pytest.mark.parametrize(
        ("content", "status"),
        [
            (bytes(500), "invalid/truncated"),
            (CUT["one behind the pixels, implicit"][:200], "invalid/truncated"),
            (ACR_NEMA, "invalid/no_preamble"),
            (part10(REST + size() + pixels()), "invalid/no_uid"),
            (part10(identity(sop=b"1..2") + size() + pixels()), "invalid/malformed"),
            (b"a text", "not_dicom/text"),
            (WITHOUT_PREAMBLE[:-3], "uploaded/truncated"),
        ],
    )
    def test_has_a_sop_instance_uid(
        self, near_side: NearSide, far_side: FarSide, content: bytes, status: str
    ) -> None:
        """By which it is claimed; without one nothing is sent."""
        near_side.put("study/IM1", content)
        near_side.put("study/other", part10(WHOLE.replace(padded(UID), padded("1.2.3.9"))))
        assert near_side.run(accept=ALL).statuses == {"study/IM1": status, "study/other": "uploaded"}

    def test_needs_each_of_its_reasons_to_be_accepted(self, near_side: NearSide, far_side: FarSide) -> None:
        """One that is cut and has no preamble is neither by one word alone."""
        near_side.put("study/IM1", WITHOUT_PREAMBLE[:-3])
        for accept in ("truncated", "no_preamble"):
            assert near_side.run(accept=accept).statuses == {"study/IM1": "invalid/truncated"}
        assert near_side.run(accept="truncated,no_preamble").statuses == {"study/IM1": "uploaded/truncated"}

    def test_may_be_too_large_to_hold(self, near_side: NearSide, far_side: FarSide) -> None:
        """It is streamed as any other."""
        large = part10(identity() + size() + explicit(0x7FE00010, b"OW", bytes(9 << 20)))[:-7]
        near_side.put("study/IM1", large)
        run = near_side.run(accept="truncated")
        assert run.statuses == {"study/IM1": "uploaded/truncated"}
        assert far_side.objects == {run.row("study/IM1")["key"]: [large]}

    @pytest.mark.parametrize("accept", ["no_uid", "truncated;malformed", "all", "not_dicom,truncated"])
    def test_is_for_one_of_three_reasons(self, near_side: NearSide, accept: str) -> None:
        with pytest.raises(UsageError, match="malformed, no_preamble, truncated"):
            near_side.settings(accept=accept)


def test_a_command_sends_odd_files_and_those_that_are_accepted(
    near_side: NearSide, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dicom-ingest upload --accept`, and its report."""
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    near_side.put("study/IM1", TRAVELS["a sequence closed as an item"])
    near_side.put("study/IM2", CUT_IMAGE.replace(padded(UID), padded("1.2.3.9")))
    command = [
        "upload",
        "-u",
        far_side.url,
        "-p",
        str(near_side.archive),
        "--report-dir",
        str(near_side.report_dir),
    ]
    assert execute(command) == 1
    assert execute([*command, "--accept", "malformed,no_preamble,truncated"]) == 0
    rows = {row["path"][-3:]: (row["status"], row["reason"]) for row in read_report(near_side.report_dir)}
    assert rows == {"IM1": ("already_uploaded", ""), "IM2": ("uploaded", "truncated")}
