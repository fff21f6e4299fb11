"""A manifest is taken whole or refused whole, with every fault by row and column and no cell quoted."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import ManifestError, Problem
from tasks.core.escape import escape
from tasks.core.manifest import COLUMNS, MAX_CELL_CHARS, PathRules, check
from tasks.core.models import StudyEntry

SECRET = "Doe^Jane"


def entries(*rows: Mapping[str, str], rules: PathRules | None = None) -> list[StudyEntry]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return check(columns, list(enumerate(rows, 1)), rules or PathRules("/archive"))


def faults(*rows: Mapping[str, str], rules: PathRules | None = None) -> list[tuple[int, str]]:
    with pytest.raises(ManifestError) as refused:
        entries(*rows, rules=rules)
    return [(problem.row, problem.column) for problem in refused.value.problems]


def header_faults(columns: Sequence[str]) -> str:
    with pytest.raises(ManifestError) as refused:
        check(columns, [], PathRules("/archive"))
    return "\n".join(map(str, refused.value.problems))


class TestAManifestThatIsTaken:
    def test_gives_one_entry_a_row_with_its_values(self) -> None:
        """Every known column becomes a field, every other one is kept as it came."""
        row = {
            "study_dir": "a",
            "study_instance_uid": "1.2.840.0.5",
            "expected_instances": "12",
            "expected_bytes": "123456789012345",
            "priority": "-3",
            "label": "Study ä 7",
            "site": "north",
        }
        assert entries(row) == [
            StudyEntry(
                1, "/archive/a", "1.2.840.0.5", 12, -3, "Study ä 7", (("site", "north"),), 123456789012345
            )
        ]

    def test_needs_no_more_than_a_directory(self) -> None:
        """Empty optional cells are the same as none."""
        empty = dict.fromkeys(COLUMNS, "") | {"study_dir": "/x"}
        assert entries(empty) == entries({"study_dir": "/x"}) == [StudyEntry(1, "/x")]

    def test_counts_whole_numbers_as_pandas_writes_them_in_a_column_with_gaps(self) -> None:
        """12.0 is twelve."""
        row = {"study_dir": "a", "expected_instances": " 12.0 ", "expected_bytes": "123456789012345.0"}
        assert (entries(row)[0].expected_instances, entries(row)[0].expected_bytes) == (12, 123456789012345)

    def test_has_uids_with_leading_zeros_as_files_have(self) -> None:
        """DICOM forbids them; some devices write them, and their files are sent as they are."""
        assert entries({"study_dir": "a", "study_instance_uid": "1.02.00"})[0].study_instance_uid == "1.02.00"

    @pytest.mark.parametrize(
        ("cell", "path"),
        [
            ("a/./b//c/", "/archive/a/b/c"),
            ("../x", "/x"),
            ("/y/../z", "/z"),
            ("//y", "/y"),
            (".", "/archive"),
            (" a ", "/archive/ a "),
            (r"a\x0ab\\c", "/archive/a\nb\\c"),
            (r"caf\xe9", "/archive/caf\udce9"),
        ],
    )
    def test_makes_study_dirs_absolute_normal_and_unescaped(self, cell: str, path: str) -> None:
        """Relative ones start at the manifest's folder; `..` is taken as text."""
        assert entries({"study_dir": cell})[0].study_dir == path

    def test_takes_relative_directories_from_the_root_if_there_is_one(self) -> None:
        """The manifest's folder no longer matters then."""
        assert entries({"study_dir": "a"}, rules=PathRules("/lists", "/data/"))[0].study_dir == "/data/a"

    @given(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & {0, 0x2F}))
    def test_reads_back_every_file_name_that_was_written_escaped(self, name: bytes) -> None:
        """Bytes that are not UTF-8, control and formula characters come back exactly."""
        path = "/archive/x" + name.decode("utf-8", "surrogateescape")
        assert entries({"study_dir": escape(path), "note": escape(path)}) == [
            StudyEntry(1, path, extra=(("note", path),))
        ]


class TestAHeaderIsRefused:
    def test_without_study_dir(self) -> None:
        """The fault names the column that is missing."""
        assert "study_dir: there is no such column" in header_faults(["path"])

    @pytest.mark.parametrize(
        ("header", "named"), [("study_dir;label", "semicolons"), ("study_dir\tlabel", "tabs")]
    )
    def test_that_is_separated_otherwise_and_says_by_what(self, header: str, named: str) -> None:
        """Spreadsheets in many countries write semicolons."""
        assert f"separated by {named}" in header_faults([header])

    def test_with_a_column_twice(self) -> None:
        """A known column by name, any other by its place: without a header that would be data."""
        said = header_faults(["study_dir", SECRET, "study_dir", SECRET])
        assert "study_dir: the header has this column twice" in said
        assert "column 4: the header has this column twice" in said
        assert SECRET not in said

    @pytest.mark.parametrize("name", ["", "a\nb", "x\udcff", "n" * 201])
    def test_with_a_column_name_that_cannot_be_carried_on(self, name: str) -> None:
        """studies.csv will have these columns."""
        assert "column 2" in header_faults(["study_dir", name])

    def test_when_there_is_none(self) -> None:
        """An empty file is a fault, no empty success."""
        assert header_faults([]) == "it is empty"

    def test_when_no_row_follows(self) -> None:
        """A header alone is as empty."""
        assert header_faults(["study_dir"]) == "it has no rows"


class TestARowIsRefused:
    @pytest.mark.parametrize("cell", ["", "  ", r"a\x00b", "a\0b"])
    def test_without_a_directory_that_could_be(self, cell: str) -> None:
        """No text or a NUL, also an escaped one."""
        assert faults({"study_dir": cell}) == [(1, "study_dir")]

    @pytest.mark.parametrize("twin", ["a", "./a/", "b/../a", "/archive/a", r"\x61"])
    def test_with_the_directory_of_an_earlier_row(self, twin: str) -> None:
        """However it is spelt; the fault says which row."""
        with pytest.raises(ManifestError, match="row 2, study_dir: is the same directory as in row 1"):
            entries({"study_dir": "a"}, {"study_dir": twin})

    @pytest.mark.parametrize("cell", ["/data2/a", "..", "a/../../data2", "/"])
    def test_with_a_directory_outside_the_root(self, cell: str) -> None:
        """A name that only starts like the root's is outside, too."""
        assert faults({"study_dir": cell}, rules=PathRules("/lists", "/data")) == [(1, "study_dir")]

    def test_with_a_directory_that_links_out_of_the_root(self) -> None:
        """Links are resolved on both sides: a root that is a link itself is no fault."""
        links = {"/data": "/mnt/1", "/data/in": "/mnt/1/in", "/data/out": "/home/x"}
        rules = PathRules("/lists", "/data", links.__getitem__)
        assert entries({"study_dir": "in"}, rules=rules)[0].study_dir == "/data/in"
        assert faults({"study_dir": "out"}, rules=rules) == [(1, "study_dir")]

    @pytest.mark.parametrize(
        "uid",
        [
            "1",
            "1.",
            ".1",
            "1..2",
            "1.2a",
            "1.2 ",
            "1.٣",
            "1." + "2" * 63,
            "1.2\n",
            "-1.2",
            "1.2.840\0",
        ],
    )
    def test_with_a_malformed_uid(self, uid: str) -> None:
        """DICOM PS3.5 9.1: numbers joined by dots, at most 64 characters."""
        assert faults({"study_dir": "a", "study_instance_uid": uid}) == [(1, "study_instance_uid")]

    @pytest.mark.parametrize("count", ["-1", "1.5", "twelve", "1e3", "1_000", "٣", "0x1", "9" * 10])
    def test_with_a_count_that_is_none(self, count: str) -> None:
        """Negative, broken or no number at all."""
        assert faults({"study_dir": "a", "expected_instances": count}) == [(1, "expected_instances")]

    @pytest.mark.parametrize("size", ["-1", "1.5", "1 MB", "1e9", "9" * 16])
    def test_with_bytes_that_are_none(self, size: str) -> None:
        """Fifteen digits are a petabyte, more is a mistake; no other column has so many."""
        assert faults({"study_dir": "a", "expected_bytes": size}) == [(1, "expected_bytes")]
        assert entries({"study_dir": "a", "expected_bytes": "9" * 15})[0].expected_bytes == 10**15 - 1
        assert faults({"study_dir": "a", "priority": "9" * 10}) == [(1, "priority")]

    def test_with_a_priority_that_is_no_number(self) -> None:
        """Negative ones are fine, words are not."""
        assert faults({"study_dir": "a", "priority": "high"}) == [(1, "priority")]

    @pytest.mark.parametrize("label", ["x" * 201, "a\nb", r"a\x1bb", "a\u202eb", r"\xff"])
    def test_with_a_label_that_no_screen_should_show(self, label: str) -> None:
        """Too long, or with control, invisible or undecodable characters, escaped or not."""
        assert faults({"study_dir": "a", "label": label}) == [(1, "label")]

    @pytest.mark.parametrize("cell", ["\ud800", "\udcff", "x" * (MAX_CELL_CHARS + 1)])
    @pytest.mark.parametrize("column", [*COLUMNS, "note"])
    def test_with_bad_encoding_or_endless_text_in_any_cell(self, column: str, cell: str) -> None:
        """Half a surrogate pair is what is left of bytes that are not UTF-8."""
        shown = column if column in COLUMNS else "column 2"
        assert faults({"study_dir": "a"} | {column: cell}) == [(1, shown)]


def test_every_fault_is_told_at_once_in_order_and_no_cell_is_quoted() -> None:
    """Faults of the header, of the reader and of each cell stand together."""
    with pytest.raises(ManifestError) as refused:
        check(
            ["study_dir", "priority", "priority"],
            [
                (1, {"study_dir": "", "priority": SECRET}),
                Problem(2, "", "the header has 3 cells, this row 7"),
                (3, {"study_dir": f"/{SECRET}", "study_instance_uid": SECRET, "expected_instances": SECRET}),
                (4, {"study_dir": f"/{SECRET}"}),
            ],
            PathRules("/archive"),
        )
    told = [(problem.row, problem.column) for problem in refused.value.problems]
    assert told == [
        (0, "priority"),
        (1, "study_dir"),
        (1, "priority"),
        (2, ""),
        (3, "study_instance_uid"),
        (3, "expected_instances"),
        (4, "study_dir"),
    ]
    assert SECRET not in str(refused.value)


def test_a_missing_column_is_told_once_and_the_rows_are_checked_all_the_same() -> None:
    """Not once for every row."""
    assert faults({"label": "x"}, {"label": "a\nb"}) == [(0, "study_dir"), (2, "label")]
