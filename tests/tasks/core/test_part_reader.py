"""The one part of a multipart answer, however it is cut on its way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.part_reader import PartReader, WrongPartsError, boundary_of

BOUNDARY = "b0"
BEGIN, END = b"--b0\r\nContent-Type: application/dicom\r\n\r\n", b"\r\n--b0--\r\n"


def read(body: bytes, *cuts: int) -> bytes:
    """What is passed on of a body that comes in pieces."""
    out = bytearray()
    reader = PartReader(BOUNDARY, out.extend)
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in pairwise(edges):
        reader.feed(body[begin:end])
    reader.finish()
    return bytes(out)


@given(
    st.binary(max_size=60) | st.text("\r\n-b0 ", max_size=60).map(str.encode), st.lists(st.integers(0, 200))
)
def test_a_part_is_passed_on_whole_wherever_it_is_cut(data: bytes, cuts: list[int]) -> None:
    """Also when it holds the beginnings of a delimiter."""
    if b"\r\n--b0" not in b"\r\n" + data + b"\r\n":
        assert read(BEGIN + data + END, *cuts) == data


@given(st.binary(max_size=60), st.integers(1, 9))
def test_one_that_ends_too_early_is_noticed(data: bytes, missing: int) -> None:
    """Up to the two hyphens that end it; a line end behind them says nothing."""
    with pytest.raises(WrongPartsError):
        read((BEGIN + data + END)[: -missing - 2])


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"preamble\r\n" + BEGIN + b"x" + END, b"x"),
        (BEGIN + b"x" + END + b"epilogue", b"x"),
        (b"--b0\r\n\r\nx" + END, b"x"),
        (b"--b0 \t\r\ncontent-TYPE:application/dicom;transfer-syntax=1.2\r\nA: b\r\n\r\nx" + END, b"x"),
        (BEGIN + END, b""),
    ],
)
def test_what_may_stand_around_it(body: bytes, data: bytes) -> None:
    assert read(body) == data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no multipart",
        b"--b0--\r\n",
        b"--b0x\r\n\r\ndata" + END,
        BEGIN + b"x\r\n" + BEGIN + b"y" + END,
        b"--b0\r\nContent-Type: text/html\r\n\r\nx" + END,
        b"x" * 100_000,
        b"--b0" + b" " * 100_000,
        b"--b0\r\nA: " + b"x" * 100_000,
    ],
)
def test_what_is_none(body: bytes) -> None:
    with pytest.raises(WrongPartsError):
        read(body)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/related; boundary=b0", "b0"),
        ('Multipart/Related;type="application/dicom";boundary="b 0"', "b 0"),
        ('multipart/related; boundary=b0; type="application/dicom"', "b0"),
        ('multipart/related; start="<a;boundary=x>"; Boundary=b0', "b0"),
        ("multipart/related", ""),
        ("multipart/related; boundary=", ""),
        (f"multipart/related; boundary={'b' * 71}", ""),
        ("multipart/mixed; boundary=b0", ""),
        ("application/dicom; boundary=b0", ""),
        ("", ""),
    ],
)
def test_the_boundary_is_the_headers(content_type: str, boundary: str) -> None:
    assert boundary_of(content_type) == boundary
