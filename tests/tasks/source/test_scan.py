"""Scan: one row for each regular file and for each directory or link that can't be walked, in path order."""

import ctypes
import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.models import Listed, Reason, Status, StudyEntry, Unwalked
from tasks.source.scan import survey, walk_study

Scanned = dict[int, list[Listed | Unwalked]]


def scan(*study_dirs: Path | str, root: Path | None = None) -> Scanned:
    entries = [StudyEntry(number, str(study_dir)) for number, study_dir in enumerate(study_dirs, 1)]
    ownership = survey(entries, root)
    return {entry.study_no: list(walk_study(entry, ownership)) for entry in entries}


def tree(top: Path, *files: str) -> Path:
    """A directory with these files; a name that ends in '/' is an empty directory."""
    top.mkdir(parents=True, exist_ok=True)
    for name in files:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return top


def names(rows: Sequence[Listed | Unwalked], top: Path) -> list[str]:
    return [os.path.relpath(row.path, top) for row in rows]


def told(rows: Sequence[Listed | Unwalked], top: Path) -> list[tuple[str, Reason]]:
    """Each row's path and reason; a file has none."""
    return [
        (os.path.relpath(row.path, top), row.reason if isinstance(row, Unwalked) else Reason.NONE)
        for row in rows
    ]


def without_privileges(study_dir: Path) -> list[Listed | Unwalked]:
    """Scans in a thread that may not read what permissions deny, also when root runs the tests."""
    with ThreadPoolExecutor(1, initializer=_drop_file_capabilities) as thread:
        return thread.submit(scan, study_dir).result()[1]


def _drop_file_capabilities() -> None:
    """CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of this thread (capabilities(7)); a user has neither."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0, ctypes.get_errno()
    data[0] &= ~0b110
    assert libc.capset(header, data) == 0, ctypes.get_errno()


class TestFiles:
    def test_are_listed_with_their_size_and_times(self, tmp_path: Path) -> None:
        """From one stat; the path is the study directory's, then the file's place in it."""
        path = tree(tmp_path / "study", "series/image") / "series" / "image"
        os.utime(path, ns=(0, 1_234_567_890_123_456_789))
        times = 1_234_567_890_123_456_789, path.stat().st_ctime_ns
        assert scan(path.parents[1]) == {1: [Listed(1, 1, str(path), 12, *times)]}

    def test_come_in_the_order_of_whole_paths_and_are_numbered_in_it(self, tmp_path: Path) -> None:
        """Bytewise, so that 'a.x' comes before what lies in 'a/', and capitals before small letters."""
        top = tree(tmp_path / "s", "a/b", "a.x", "a0", "a/b.c/d", "a/b-", "Z", "é", "\udcff", "z/")
        found = scan(top)[1]
        assert names(found, top) == ["Z", "a.x", "a/b", "a/b-", "a/b.c/d", "a0", "é", "\udcff"]
        assert [row.file_no for row in found] == list(range(1, 9))

    def test_of_any_name_survive(self, tmp_path: Path) -> None:
        """Bytes that are not UTF-8, line ends, the characters that have a meaning elsewhere."""
        raw = [b"\n", b"\x01", b" ", b"%2F", b"\\", b"\xc3", b"\xff\xfe", b"a\xe2\x80\xae"]
        for name in raw:
            with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
                pass
        assert [os.fsencode(row.path).rpartition(b"/")[2] for row in scan(tmp_path)[1]] == sorted(raw)

    def test_that_share_an_inode_have_a_row_each(self, tmp_path: Path) -> None:
        """A hard link is a regular file like any other."""
        top = tree(tmp_path / "s", "a")
        os.link(top / "a", top / "b")
        assert names(scan(top)[1], top) == ["a", "b"]

    def test_alone_have_rows(self, tmp_path: Path) -> None:
        """FIFOs, sockets and devices are never opened and give none."""
        top = tree(tmp_path / "s", "file")
        os.mkfifo(top / "fifo")
        (top / "link").symlink_to("fifo")
        (top / "null").symlink_to(os.devnull)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(top / "socket"))
        assert told(scan(top, root=top)[1], top) == [("file", ""), ("null", Reason.LINK_OUTSIDE_ROOT)]

    def test_that_vanish_after_they_were_listed_have_a_row_that_says_so(self, tmp_path: Path) -> None:
        """Also when something else took their place."""
        top = tree(tmp_path / "s", "a", "b", "c")
        entry = StudyEntry(1, str(top))
        rows = walk_study(entry, survey([entry]))
        next(rows)
        (top / "b").unlink()
        (top / "c").unlink()
        (top / "c").mkdir()
        assert told(list(rows), top) == [("b", Reason.IO_ERROR), ("c", Reason.IO_ERROR)]

    def test_are_found_lazily(self, tmp_path: Path) -> None:
        """A directory is listed when its turn comes."""
        top = tree(tmp_path / "s", "a", "later/b")
        entry = StudyEntry(1, str(top))
        rows = walk_study(entry, survey([entry]))
        assert Path(next(rows).path).name == "a"
        (top / "later" / "c").write_bytes(b"")
        assert names(list(rows), top) == ["later/b", "later/c"]

    def test_deeper_than_the_systems_longest_path_end_in_a_row(
        self, deep: Callable[[str, int], Path]
    ) -> None:
        """Nothing is dropped without a word."""
        (row,) = scan(deep("d" * 200, 30))[1]
        assert isinstance(row, Unwalked)
        assert (row.status, row.reason, len(row.path) > 4000) == (Status.UNREADABLE, Reason.IO_ERROR, True)

    def test_deeper_than_pythons_stack_are_found(self, deep: Callable[[str, int], Path]) -> None:
        """The walk is no recursion."""
        top = deep("d", 1200)
        path = os.path.join(top, *["d"] * 1200, "file")
        with open(path, "wb"):
            pass
        assert [row.path for row in scan(top)[1]] == [path]


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Makes a directory of a directory of ... ; Python's own rmtree could not take it away."""
    top = tmp_path / "deep"

    def make(name: str, levels: int) -> Path:
        top.mkdir()
        handle = os.open(top, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=handle)
            below = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = below
        os.close(handle)
        return top

    yield make
    subprocess.run(["rm", "-rf", str(top)], check=True)


class TestAStudyDirectory:
    def test_that_is_not_there_is_missing(self, tmp_path: Path) -> None:
        """One row whose path is the directory; a link to nowhere, a path through a file are none."""
        tree(tmp_path, "file")
        (tmp_path / "link").symlink_to("nowhere")
        for name in ("none", "link", "file/x"):
            path = str(tmp_path / name)
            assert scan(path) == {1: [Unwalked(1, 1, path, Status.MISSING, Reason.NOT_FOUND)]}

    def test_that_is_a_file_is_missing(self, tmp_path: Path) -> None:
        """The file is not taken for a study."""
        path = str(tree(tmp_path, "file") / "file")
        assert scan(path) == {1: [Unwalked(1, 1, path, Status.MISSING, Reason.NOT_A_DIRECTORY)]}

    def test_that_is_a_link_to_itself_is_unreadable(self, tmp_path: Path) -> None:
        """It may be there; nobody can tell."""
        (tmp_path / "loop").symlink_to("loop")
        assert told(scan(tmp_path / "loop")[1], tmp_path) == [("loop", Reason.LINK_LOOP)]

    def test_that_is_empty_has_no_rows(self, tmp_path: Path) -> None:
        """Its row in studies.csv says zero files."""
        assert scan(tmp_path) == {1: []}

    def test_reached_through_a_link_keeps_the_name_it_was_given(self, tmp_path: Path) -> None:
        """The operator's own name for it, not the system's."""
        tree(tmp_path / "real", "file")
        (tmp_path / "link").symlink_to("real")
        assert [row.path for row in scan(tmp_path / "link")[1]] == [f"{tmp_path}/link/file"]

    def test_that_links_out_of_the_root_is_not_walked(self, tmp_path: Path) -> None:
        """Not even when the link was changed after the manifest was checked."""
        tree(tmp_path / "elsewhere", "file")
        root = tree(tmp_path / "root", "study/file")
        (root / "out").symlink_to("../elsewhere")
        found = scan(root / "out", root / "study", root=root)
        assert told(found[1], root) == [("out", Reason.LINK_OUTSIDE_ROOT)]
        assert told(found[2], root) == [("study/file", "")]

    def test_may_be_the_root_of_the_file_system(self) -> None:
        """Its paths start with one slash."""
        entry = StudyEntry(1, "/")
        assert not next(iter(walk_study(entry, survey([entry])))).path.startswith("//")


class TestADirectory:
    def test_that_cannot_be_listed_has_a_row_and_the_rest_is_walked(self, tmp_path: Path) -> None:
        """It stands where its files would."""
        top = tree(tmp_path / "s", "a", "closed/x", "z")
        (top / "closed").chmod(0)
        assert told(without_privileges(top), top) == [("a", ""), ("closed", Reason.PERMISSION), ("z", "")]
        assert told(without_privileges(top / "closed"), top) == [("closed", Reason.PERMISSION)]
        (top / "closed").chmod(stat.S_IRWXU)

    def test_whose_files_cannot_be_reached_has_a_row_for_each(self, tmp_path: Path) -> None:
        """Listed, but without the right to enter."""
        top = tree(tmp_path / "s", "dim/x", "dim/y")
        (top / "dim").chmod(stat.S_IRUSR)
        assert told(without_privileges(top), top) == [
            ("dim/x", Reason.PERMISSION),
            ("dim/y", Reason.PERMISSION),
        ]
        (top / "dim").chmod(stat.S_IRWXU)

    def test_that_breaks_off_while_it_is_listed_has_a_row_beside_its_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a failing disk still gave is not lost."""
        top = tree(tmp_path / "s", "a")
        listing = os.scandir

        class Failing:
            def __init__(self, path: bytes) -> None:
                self.entries = listing(path)

            def __enter__(self) -> "Failing":
                return self

            def __exit__(self, *_: object) -> None:
                self.entries.close()

            def __iter__(self) -> "Failing":
                return self

            def __next__(self) -> "os.DirEntry[bytes]":
                for entry in self.entries:
                    return entry
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "scandir", Failing)
        assert told(scan(top)[1], top) == [(".", Reason.IO_ERROR), ("a", "")]


class TestStudyDirectoriesThatOverlap:
    def test_give_each_file_to_the_first_entry(self, tmp_path: Path) -> None:
        """The outer one first: the inner one has nothing left, and the overlap is told."""
        a = tree(tmp_path / "a", "1", "b/2")
        assert {no: names(rows, a) for no, rows in scan(a, a / "b").items()} == {1: ["1", "b/2"], 2: []}
        assert overlaps(a, a / "b") == {2: 1}

    def test_leave_the_inner_one_its_files_when_it_comes_first(self, tmp_path: Path) -> None:
        """The outer one goes around it."""
        a = tree(tmp_path / "a", "1", "b/2", "b.c/3")
        assert {no: names(rows, a) for no, rows in scan(a / "b", a).items()} == {
            1: ["b/2"],
            2: ["1", "b.c/3"],
        }
        assert overlaps(a / "b", a) == {2: 1}

    def test_may_be_nested_many_times(self, tmp_path: Path) -> None:
        """Each file is the earliest entry's that holds it."""
        a = tree(tmp_path / "a", "1", "b/2", "b/c/3", "b/c/d/4")
        found = scan(a / "b" / "c", a, a / "b", a / "b" / "c" / "d")
        assert {no: names(rows, a) for no, rows in found.items()} == {
            1: ["b/c/3", "b/c/d/4"],
            2: ["1", "b/2"],
            3: [],
            4: [],
        }
        assert overlaps(a / "b" / "c", a, a / "b", a / "b" / "c" / "d") == {2: 1, 3: 1, 4: 1}

    def test_are_known_under_two_names(self, tmp_path: Path) -> None:
        """Through a link, the same directory is the same."""
        tree(tmp_path / "a", "1")
        (tmp_path / "b").symlink_to("a")
        assert {no: names(rows, tmp_path) for no, rows in scan(tmp_path / "b", tmp_path / "a").items()} == {
            1: ["b/1"],
            2: [],
        }
        assert overlaps(tmp_path / "b", tmp_path / "a") == {2: 1}

    def test_are_not_those_with_names_that_start_alike(self, tmp_path: Path) -> None:
        """/a/b and /a/b2 are neighbours."""
        assert overlaps(tree(tmp_path / "b"), tree(tmp_path / "b2")) == {}

    def test_do_not_hide_that_one_is_missing(self, tmp_path: Path) -> None:
        """It has its row, though it would lie in another."""
        assert told(scan(tmp_path, tmp_path / "none")[2], tmp_path) == [("none", Reason.NOT_FOUND)]


def overlaps(*study_dirs: Path) -> dict[int, int]:
    return dict(survey([StudyEntry(number, str(path)) for number, path in enumerate(study_dirs, 1)]).overlaps)


class TestALink:
    def test_to_a_file_that_an_entry_names_has_a_row(self, tmp_path: Path) -> None:
        """The entry is no directory, so nobody walks it: the file would be in no row."""
        tree(tmp_path, "a/x", "f")
        (tmp_path / "a" / "link").symlink_to(tmp_path / "f")
        missing = [("../f", Reason.NOT_A_DIRECTORY)]
        found = scan(tmp_path / "a", tmp_path / "f")
        assert told(found[1], tmp_path / "a") == [("link", Reason.LINK_OUTSIDE_ROOT), ("x", Reason.NONE)]
        assert told(found[2], tmp_path / "a") == missing
        found = scan(tmp_path / "f", tmp_path / "a", root=tmp_path)
        assert told(found[2], tmp_path / "a") == [("link", Reason.NONE), ("x", Reason.NONE)]
        assert told(found[1], tmp_path / "a") == missing

    def test_into_a_study_directory_has_no_row(self, tmp_path: Path) -> None:
        """To a file or a directory, of this study or another: the target has its own."""
        a, b = tree(tmp_path / "a", "1", "d/2"), tree(tmp_path / "b", "3")
        for name, target in {"file": a / "1", "dir": a / "d", "whole": a, "own": b / "3"}.items():
            (b / name).symlink_to(target)
        assert {no: names(rows, tmp_path) for no, rows in scan(a, b).items()} == {
            1: ["a/1", "a/d/2"],
            2: ["b/3"],
        }

    def test_out_of_what_is_allowed_is_not_followed(self, tmp_path: Path) -> None:
        """Without a root, no further than the study directories; with one, no further than that."""
        root = tree(tmp_path / "root", "s/1", "pool/2")
        tree(tmp_path / "elsewhere", "3")
        (root / "s" / "out").symlink_to("../../elsewhere")
        (root / "s" / "pool").symlink_to("../pool")
        (root / "s" / "up").symlink_to("..")
        outside = Reason.LINK_OUTSIDE_ROOT
        assert told(scan(root / "s")[1], root) == [
            ("s/1", ""),
            ("s/out", outside),
            ("s/pool", outside),
            ("s/up", outside),
        ]
        assert told(scan(root / "s", root=root)[1], root) == [
            ("s/1", ""),
            ("s/out", outside),
            ("s/pool/2", ""),
            ("s/up", Reason.LINK_LOOP),
        ]

    def test_that_is_broken_or_loops_has_a_row(self, tmp_path: Path) -> None:
        """To nowhere, to itself, in a circle, to a directory that it lies in."""
        top = tree(tmp_path / "s", "file", "d/e/")
        links = {
            "nowhere": "none",
            "through": "file/x",
            "self": "self",
            "x": "y",
            "y": "x",
            "d/e/up": "../../d",
        }
        for name, target in links.items():
            (top / name).symlink_to(target)
        (top / "here").symlink_to(".")
        assert told(scan(top)[1], top) == [
            ("d/e/up", Reason.LINK_LOOP),
            ("file", ""),
            ("here", Reason.LINK_LOOP),
            ("nowhere", Reason.BROKEN_LINK),
            ("self", Reason.LINK_LOOP),
            ("through", Reason.BROKEN_LINK),
            ("x", Reason.LINK_LOOP),
            ("y", Reason.LINK_LOOP),
        ]

    def test_into_the_root_but_no_study_is_followed_in_its_place(self, tmp_path: Path) -> None:
        """Files keep the link's name, and its place in the order; their size is the target's."""
        root = tree(tmp_path / "root", "s/a", "s/z", "pool/deep/2", "pool/3")
        (root / "s" / "m").symlink_to("../pool/deep")
        (root / "s" / "m.x").symlink_to("../pool/3")
        found = scan(root / "s", root=root)[1]
        assert names(found, root) == ["s/a", "s/m.x", "s/m/2", "s/z"]
        assert isinstance(found[1], Listed)
        assert found[1].size_bytes == len("pool/3")

    def test_to_what_this_study_already_followed_has_no_row(self, tmp_path: Path) -> None:
        """The same target twice, a part of it, and a whole of which a part came before."""
        root = tree(tmp_path / "root", "s/", "pool/x/1", "pool/x/2", "pool/y/3", "pool/y/z/4")
        for name, target in {"a": "x", "b": "x", "c": "x/1", "d": "y/3", "e": "y/z", "f": "y"}.items():
            (root / "s" / name).symlink_to(f"../pool/{target}")
        found = names(scan(root / "s", root=root)[1], root)
        assert found == ["s/a/1", "s/a/2", "s/d", "s/e/4"]

    def test_followed_does_not_lead_into_another_study(self, tmp_path: Path) -> None:
        """Nor round in a circle: targets that link to each other are walked once."""
        root = tree(tmp_path / "root", "s/1", "pool/study/2", "pool/3", "other/4")
        (root / "s" / "pool").symlink_to("../pool")
        (root / "pool" / "next").symlink_to("../other")
        (root / "other" / "back").symlink_to("../pool")
        found = scan(root / "s", root / "pool" / "study", root=root)
        assert names(found[1], root) == ["s/1", "s/pool/3", "s/pool/next/4"]
        assert names(found[2], root) == ["pool/study/2"]


STEPS = st.lists(st.sampled_from(["a", "b", "a.b", "A", "\udcff"]), max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    files=st.lists(STEPS, max_size=12),
    links=st.lists(st.tuples(STEPS, STEPS), max_size=4),
    studies=st.lists(STEPS, min_size=1, max_size=5),
    has_root=st.booleans(),
)
def test_every_file_has_one_row_in_order_whatever_overlaps_and_links(
    files: list[list[str]],
    links: list[tuple[list[str], list[str]]],
    studies: list[list[str]],
    has_root: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every regular file in some study directory comes up exactly once, and each study in path order."""
    top = tmp_path_factory.mktemp("top")
    for steps in files:
        tree(top.joinpath(*steps), "file", "b-file")
    for number, (steps, target) in enumerate(links):
        tree(top.joinpath(*steps))
        top.joinpath(*steps, f"link{number}").symlink_to(top.joinpath(*target))
    study_dirs = [top.joinpath("a", *steps) for steps in studies]
    expected = {
        os.path.join(place, name)
        for study_dir in study_dirs
        for place, _, files_there in os.walk(study_dir)
        for name in files_there
        if not os.path.islink(os.path.join(place, name))
    }
    found = scan(*study_dirs, root=top if has_root else None)
    listed = [row.path for rows in found.values() for row in rows if isinstance(row, Listed)]
    inside = [path for path in listed if os.path.realpath(path) in expected]
    assert sorted(inside) == sorted(expected)
    assert inside == [path for path in listed if os.path.realpath(path) == path]
    for rows in found.values():
        paths = [os.fsencode(row.path) for row in rows if isinstance(row, Listed)]
        assert paths == sorted(paths)
        assert len({os.path.realpath(path) for path in paths}) == len(paths)
        assert [row.file_no for row in rows] == list(range(1, len(rows) + 1))
