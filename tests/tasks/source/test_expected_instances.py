"""What a scan expects of a study directory is what a run stores of it."""

import csv
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.cli.__main__ import execute
from tasks.core.models import Header, Listed, Reason, Rejected, Status, StudyEntry
from tasks.run.engine import ingest
from tasks.source.expected_instances import Counts, Expected, expectations
from tasks.source.file_content import MAX_PUT_BYTES, read_content
from tasks.source.header_reader import read_header
from tasks.source.manifest_reader import load_manifest
from tasks.source.manifest_writer import scan_manifest
from tasks.source.scan import survey, walk_study
from tasks.source.study_directories import StudyDir
from tests.conftest import Dicom, NearSide
from tests.deflated import deflated_zeros
from tests.far_side import FarSide

OTHER = Rejected(Status.NOT_DICOM, Reason.OTHER)


def expected(root: Path, out: Path | None = None) -> tuple[dict[str, StudyEntry], Counts]:
    """What a scanned manifest says of each study directory, by its name under the root."""
    out = out or root.parent / "scanned.csv"
    counts = scan_manifest([root], out)
    return {os.path.relpath(entry.study_dir, root): entry for entry in load_manifest(out)}, counts


def put(path: Path, body: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def of_study(uid: str, body: bytes) -> bytes:
    """With another Study Instance UID: `dicom` writes 1.2.3, of five characters and a pad byte."""
    assert len(uid) <= 6
    return body.replace(b"UI\x06\x001.2.3\0", b"UI\x06\x00" + uid.encode().ljust(6, b"\0"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


class TestAStudy:
    def test_is_counted_by_its_distinct_instances(self, root: Path, dicom: Dicom) -> None:
        """A copy counts once, with its bytes; of two files with one UID and other bytes the first by path."""
        first = put(root / "a" / "1", dicom("1.1"))
        put(root / "a" / "2", dicom("1.2"))
        put(root / "a" / "sub" / "copy of 1", first.read_bytes())
        put(root / "a" / "z", dicom("1.2", pixel_bytes=6400))
        entries, counts = expected(root)
        assert entries["a"].expected_instances == 2
        assert entries["a"].expected_bytes == 2 * len(first.read_bytes())
        assert (counts.files, counts.instances, counts.repeated) == (4, 2, 2)
        assert counts.size_bytes == entries["a"].expected_bytes

    def test_is_expected_whole_though_another_has_some_of_it(self, root: Path, dicom: Dicom) -> None:
        """A run says of a duplicate that it is stored in both."""
        put(root / "a" / "1", dicom("1.1"))
        put(root / "b" / "1", of_study("1.2.4", dicom("1.2")))
        put(root / "b" / "2", dicom("1.1"))
        entries, _ = expected(root)
        assert {name: entry.expected_instances for name, entry in entries.items()} == {"a": 1, "b": 2}

    def test_has_the_study_instance_uid_in_which_all_agree(self, root: Path, dicom: Dicom) -> None:
        """An instance without one agrees with none; what is no instance has no say."""
        put(root / "agree" / "1", dicom("1.1"))
        put(root / "agree" / "2", dicom("1.2"))
        put(root / "agree" / "cut", of_study("1.2.9", dicom("1.3"))[:-40])
        put(root / "differ" / "1", dicom("1.4"))
        put(root / "differ" / "2", of_study("1.2.4", dicom("1.5")))
        put(root / "without" / "1", of_study("", dicom("1.6")))
        put(root / "without" / "2", dicom("1.7"))
        put(root / "zeros" / "1", of_study("1.02.3", dicom("1.8")))
        entries, _ = expected(root)
        assert {name: entry.study_instance_uid for name, entry in entries.items()} == {
            "agree": "1.2.3",
            "differ": "",
            "without": "",
            "zeros": "1.02.3",
        }

    @pytest.mark.parametrize("uid", ["1..2", ".", "12", "1.2."])
    def test_has_none_that_no_manifest_may_have(self, root: Path, dicom: Dicom, uid: str) -> None:
        """The manifest that was written must load."""
        put(root / "a" / "1", of_study(uid, dicom("1.1")))
        entries, _ = expected(root)
        assert (entries["a"].study_instance_uid, entries["a"].expected_instances) == ("", 1)

    def test_without_an_image_expects_none(self, root: Path) -> None:
        """Zero is said: an image that comes later is one too many."""
        put(root / "a" / "notes.txt", b"text")
        entries, _ = expected(root)
        assert (entries["a"].expected_instances, entries["a"].expected_bytes) == (0, 0)


class TestNotCounted:
    def test_is_what_a_run_would_not_send(self, root: Path, dicom: Dicom) -> None:
        """No image, not whole, without a SOP Instance UID, too large; and how many there are."""
        put(root / "a" / "1", dicom("1.1"))
        put(root / "a" / "cut", dicom("1.2")[:-40])
        put(root / "a" / "notes.txt", b"text")
        put(root / "a" / "empty", b"")
        large = put(root / "a" / "large", dicom("1.3"))
        os.truncate(large, MAX_PUT_BYTES + 1)
        entries, counts = expected(root)
        assert entries["a"].expected_instances == counts.instances == 1
        assert (counts.files, counts.unsent, counts.unreadable) == (5, 4, 0)

    def test_is_what_cannot_be_read(self, root: Path, dicom: Dicom) -> None:
        """A file that is gone meanwhile, that is a FIFO by now, or a link that leads nowhere."""
        put(root / "a" / "1", dicom("1.1"))
        (root / "a" / "broken").symlink_to("nowhere")
        (root / "a" / "out").symlink_to("/etc/hostname")
        (root / "a" / "in").symlink_to("1")
        (root / "a" / "to another").symlink_to("../b")
        put(root / "b" / "1", of_study("1.2.4", dicom("1.2")))
        os.mkfifo(root / "fifo")
        assert read_header(str(root / "fifo"))[0] == read_header(str(root / "gone"))[0]
        assert read_header(str(root / "gone")) == (Rejected(Status.UNREADABLE, Reason.IO_ERROR), 0)
        _, counts = expected(root)
        assert (counts.instances, counts.unreadable, counts.unsent) == (2, 2, 0)

        def gone(path: str) -> tuple[Rejected, int]:
            return read_header(path + "gone")  # type: ignore[return-value]

        again = Counts()
        dirs = [StudyDir(str(root / "a"), is_whole=True), StudyDir(str(root / "gone"), is_whole=True)]
        found = list(expectations(dirs, [str(root)], is_own, again, gone))
        assert [each for _, each in found] == [Expected("", 0, 0)] * 2
        assert (again.files, again.unreadable) == (1, 4)

    def test_is_the_manifest_itself(self, root: Path, dicom: Dicom) -> None:
        """Written into the archive, beside what it needs meanwhile, and written again."""
        put(root / "a" / "1", dicom("1.1"))
        for _ in range(2):
            entries, counts = expected(root, root / "a" / "m.csv")
            assert list(entries) == ["a"]
            assert (counts.files, counts.unsent) == (1, 0)
        assert sorted(os.listdir(root / "a")) == ["1", "m.csv"]


def is_own(_path: str) -> bool:
    return False


class TestFilesAreRead:
    def test_as_a_run_reads_them(self, root: Path, dicom: Dicom) -> None:
        """The same header or rejection, however the file ends, and wherever the held part of it does."""
        body = dicom("1.1", pixel_bytes=1 << 16)
        bodies = [body, body[:-1], body[:300], body + bytes(100), body[132:], b"", b"text", bytes(9)]
        study_at = body.index(pack("<HH2s", 0x20, 0xD, b"UI"))
        private = pack("<HH2sHL", 0x19, 0x1001, b"OB", 0, 40_000) + bytes(40_000)
        long = body[:study_at] + private + body[study_at:]  # its Study Instance UID lies behind 40 KB
        bodies += [deflated_zeros(40 << 20), long, long[:-1], body[:32768], body[:32769], long[:32769]]
        for number, content in enumerate(bodies):
            path = str(put(root / f"{number}", content))
            found = read_content(path)
            theirs = found.header if not isinstance(found, Rejected) else (found.status, found.reason)
            ours, size_bytes = read_header(path)
            assert (ours if isinstance(ours, Header) else (ours.status, ours.reason)) == theirs
            assert size_bytes == len(content)

    def test_several_at_once(self, root: Path) -> None:
        """A share that answers after a while is asked for several files meanwhile."""
        together = threading.Barrier(4)

        def look(_path: str) -> tuple[Rejected, int]:
            together.wait(timeout=240)
            return OTHER, 0

        for number in range(8):
            put(root / "a" / str(number), b"")
        counts = Counts()
        list(expectations([StudyDir(str(root / "a"), is_whole=True)], [str(root)], is_own, counts, look))
        assert counts.unsent == 8

    def test_of_the_next_studies_too_but_of_few(self, root: Path) -> None:
        """Small studies keep all readers busy, and what was found is not taken into memory."""
        put(root / "1", b"text")
        taken: list[int] = []

        def study_dirs() -> Iterator[StudyDir]:
            for number in range(2000):
                taken.append(number)
                yield StudyDir(str(root), is_whole=True)

        ahead = [
            len(taken) - done
            for done, _ in enumerate(expectations(study_dirs(), [str(root)], is_own, Counts()), 1)
        ]
        assert len(ahead) == 2000
        assert 8 <= max(ahead) <= 64

    @pytest.mark.processes
    def test_in_bounded_memory(self, root: Path) -> None:
        """A file of 200 KB that inflates to 200 MiB, also when only a directory's UID is looked for."""
        put(root / "a" / "1", deflated_zeros(200 << 20))
        for write in ("write_manifest", "scan_manifest"):
            code = (
                "import re\nfrom pathlib import Path\n"
                f"from tasks.source.manifest_writer import {write}\n"
                f"{write}([Path({str(root)!r})], Path({str(root.parent / 'm.csv')!r}))\n"
                r"print(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])"
            )
            used = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            assert int(used.stdout) < 150 << 10, write

    @pytest.mark.processes
    def test_so_that_one_that_hangs_keeps_no_process(self, root: Path) -> None:
        """A dead share answers nobody: Ctrl-C ends the command all the same."""
        put(root / "a" / "1", b"text")
        code = (
            "import signal, sys, threading\n"
            "from tasks.source.expected_instances import Counts, expectations\n"
            "from tasks.source.study_directories import StudyDir\n"
            "def look(path):\n"
            "    signal.raise_signal(signal.SIGINT)\n"
            "    threading.Event().wait()\n"
            "dirs = [StudyDir(sys.argv[1], True)]\n"
            "list(expectations(dirs, [sys.argv[1]], lambda path: False, Counts(), look))\n"
        )
        command = [sys.executable, "-c", code, str(root / "a")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ended.stderr.endswith("KeyboardInterrupt\n")

    def test_or_the_defect_is_told(self, root: Path) -> None:
        """A reader that fails ends the scan: nobody waits for its answer."""

        def look(_path: str) -> tuple[Rejected, int]:
            raise ZeroDivisionError

        put(root / "a" / "1", b"")
        with pytest.raises(ZeroDivisionError):
            list(
                expectations([StudyDir(str(root / "a"), is_whole=True)], [str(root)], is_own, Counts(), look)
            )

    def test_and_the_readers_end_with_the_scan(self, root: Path) -> None:
        """Also when it is given up."""
        put(root / "a" / "1", b"")
        dirs = [StudyDir(str(root / "a"), is_whole=True)] * 200
        next(scan := expectations(iter(dirs), [str(root)], is_own, Counts()))
        readers = [thread for thread in threading.enumerate() if thread.name.startswith("reader-")]
        assert readers
        scan.close()
        for thread in readers:
            thread.join(60)
            assert not thread.is_alive()


class TestAgreesWithARun:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_on_whose_each_file_is(
        self, data: st.DataObject, dicom: Dicom, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever the tree and its links: walked by the whole manifest, each row has what was expected."""
        root = tmp_path_factory.mktemp("archive")
        steps = st.lists(st.sampled_from(["a", "b", "b.c", "\udcff"]), max_size=4)
        for number, places in enumerate(data.draw(st.lists(steps, max_size=8))):
            directory = root.joinpath(*places)
            directory.mkdir(parents=True, exist_ok=True)
            uid = data.draw(st.sampled_from(["", "1.1", "1.2"]))
            body = of_study(uid, dicom(f"1.{number % 5}")) if uid else b"text"
            (directory / str(number)).write_bytes(body)
            target = data.draw(st.sampled_from(["", "..", "a", "../b", "nowhere", "/etc"]))
            if target:
                (directory / f"link{number}").symlink_to(target)
        out = tmp_path_factory.mktemp("out") / "m.csv"
        counts = scan_manifest([root], out)
        entries = load_manifest(out) if counts.study_dirs else []
        ownership = survey(entries)
        for entry in entries:
            rows = [row for row in walk_study(entry, ownership) if isinstance(row, Listed)]
            assert (entry.expected_instances, entry.expected_bytes) == stored(rows)

    def test_so_that_each_study_is_complete(self, near_side: NearSide, dicom: Dicom) -> None:
        """Files beside studies, twins across studies, texts, a study in series, one within another."""
        for number in range(3):
            near_side.put(f"p/a/s1/{number}", dicom(f"1.1.{number}"))
            near_side.put(f"p/a/s2/{number}", dicom(f"1.2.{number}"))
            near_side.put(f"p/b/{number}", of_study("1.2.4", dicom(f"1.3.{number}")))
        near_side.put("p/b/twin", dicom("1.1.1"))
        near_side.put("p/loose", of_study("1.2.5", dicom("1.4")))
        near_side.put("p/a/notes.txt", b"text")
        near_side.put("q/notes.txt", b"text")
        manifest = near_side.directory / "manifest.csv"
        scan_manifest([near_side.archive / "p"], manifest)
        assert ingest(load_manifest(manifest), near_side.settings()).exit_code == 0
        studies = studies_csv(near_side.report_dir)
        assert [os.path.basename(row["study_dir"]) for row in studies] == ["a", "b", "p"]
        assert [(row["expected"], row["stored"], row["complete"]) for row in studies] == [
            ("6", "6", "true"),
            ("4", "4", "true"),
            ("1", "1", "true"),
        ]

    @pytest.mark.parametrize("in_environment", [False, True])
    def test_on_what_is_accepted(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        monkeypatch: pytest.MonkeyPatch,
        in_environment: bool,
    ) -> None:
        """A file that --accept has sent is expected where the scan has the same option, or setting."""
        near_side.put("study/1", dicom("1.1"))
        near_side.put("study/2", dicom("1.2")[132:])
        near_side.put("study/3", b"text")
        manifest = near_side.directory / "manifest.csv"
        command = ["manifest", str(near_side.archive), "-o", str(manifest), "--scan"]
        for accept, complete in (("", "false"), ("truncated", "false"), ("no_preamble", "true")):
            if in_environment:
                monkeypatch.setenv("DICOM_INGEST_ACCEPT", accept)
            assert execute(command if in_environment else [*command, "--accept", accept]) == 0
            ingest(load_manifest(manifest), near_side.settings(accept="no_preamble"))
            (study,) = studies_csv(near_side.report_dir)
            assert (study["stored"], study["complete"]) == ("2", complete)


def stored(rows: Iterable[Listed]) -> tuple[int, int]:
    """Distinct instances that a run would store of these files, and their bytes."""
    sizes: dict[str, int] = {}
    for row in rows:
        content = read_content(row.path)
        if not isinstance(content, Rejected):
            sizes.setdefault(content.header.sop_instance_uid, content.size_bytes)
            content.close()
    return len(sizes), sum(sizes.values())


def studies_csv(report_dir: Path) -> list[dict[str, str]]:
    with (report_dir / "studies.csv").open(newline="") as file:
        return list(csv.DictReader(file))
