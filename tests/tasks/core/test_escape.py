"""The one escape for text that comes from outside: reversible, and harmless wherever it is read."""

import csv
import io
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.escape import escape, unescape

# Paths as the operating system has them: any bytes but NUL, decoded as Python does (PEP 383).
paths = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"x")))
pieces = ["\\", "x", "41", "\\x41", "=", "+", "-", "@", "\n", "\udcff", "é", "\u202e", "a"]
tricky = st.lists(st.sampled_from(pieces), max_size=12).map("".join)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class TestEscape:
    @given(paths | tricky | texts)
    def test_is_undone_by_unescape(self, text: str) -> None:
        """To the byte, whatever a path is made of."""
        assert os.fsencode(unescape(escape(text))) == os.fsencode(text)

    @given(paths | tricky | texts)
    def test_leaves_nothing_that_acts(self, text: str) -> None:
        """No control or formatting character, no line end, no lone surrogate; no formula at its start."""
        written = escape(text)
        assert not {unicodedata.category(char) for char in written} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert written[:1] not in ("=", "+", "-", "@")
        assert len(written.splitlines()) <= 1
        written.encode("utf-8")

    @given(paths | tricky | texts, paths | tricky | texts)
    def test_keeps_apart_what_differs(self, one: str, other: str) -> None:
        """Two files never share a name in the report."""
        assert (escape(one) == escape(other)) == (one == other)

    @given(paths | tricky | texts)
    def test_survives_a_csv_file(self, text: str) -> None:
        """As the report is written and read."""
        file = io.StringIO(newline="")
        csv.writer(file).writerow([escape(text), "next"])
        file.seek(0)
        assert [list(map(unescape, line)) for line in csv.reader(file)] == [[text, "next"]]

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("", ""),
            ("/archive/Müller/IM 1 (2)=3+4-5@6.dcm", "/archive/Müller/IM 1 (2)=3+4-5@6.dcm"),
            ("漢字 😀", "漢字 😀"),
            ("a\\b", "a\\\\b"),
            ("\\x41", "\\\\x41"),
            ("a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f"),
            ("\udcff.dcm", "\\xff.dcm"),
            ("a\u202eb", "a\\xe2\\x80\\xaeb"),
            ("a\u2028b", "a\\xe2\\x80\\xa8b"),
            ("=1+1", "\\x3d1+1"),
            ("+1", "\\x2b1"),
            ("-1", "\\x2d1"),
            ("@x", "\\x40x"),
        ],
    )
    def test_writes(self, text: str, written: str) -> None:
        """What is plain stays as it is."""
        assert escape(text) == written


class TestUnescape:
    @pytest.mark.parametrize("text", ["a\\b", "\\", "\\x4", "\\xzz", "C:\\data", "\\X41"])
    def test_leaves_a_lone_backslash_alone(self, text: str) -> None:
        """Whoever writes a manifest by hand need not know of the escape."""
        assert unescape(text) == text

    @given(paths | tricky | texts)
    def test_takes_any_text(self, text: str) -> None:
        """Nothing in a manifest's cell makes it fail, and what comes out can be a path."""
        os.fsencode(unescape(text))


class TestMembers:
    """The path of an archive's member has a NUL between the archive's and the member's name."""

    @given(st.lists(st.sampled_from(["!", "\0", ".zip", ".GZ", "\\", "x21", "a", "\u0130", "="]), max_size=9))
    def test_keep_their_path(self, pieces: list[str]) -> None:
        """Whatever stands around it; and none is the path of a file."""
        text = "".join(pieces)
        assert unescape(escape(text)) == text
        assert "\0" not in escape(text)

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("/s/a.zip\0dir/IM1", "/s/a.zip!dir/IM1"),
            ("/s/a.zip!dir", "/s/a.zip\\x21dir"),
            ("/s/a.zip\0b.gz!c", "/s/a.zip!b.gz\\x21c"),
            ("/s!/a.TGZ\0", "/s!/a.TGZ!"),
            ("/s/a.zip\0name\x002", "/s/a.zip!name\\!2"),
            ("/s/what!", "/s/what!"),
        ],
    )
    def test_are_written_with_a_mark(self, text: str, written: str) -> None:
        assert escape(text) == written
