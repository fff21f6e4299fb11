"""`manifest --scan` as a person types it: what it says, and how a run bears it out."""

import csv
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack

import pytest

from deployments.sandbox.samples import Planted, build
from flows.cli.__main__ import execute
from flows.cli.manifest_progress import scan_sentences, sentence, show_lines
from tasks.report.reader import read_report
from tasks.source.expected_instances import Counts
from tests.conftest import Dicom, Objects, Plant
from tests.deflated import deflated_zeros

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).parents[3]
SLICES = 5
STORED = ("uploaded", "duplicate")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestMemory:
    @pytest.mark.processes
    @pytest.mark.parametrize("arguments", [["-o", "m.csv"], ["--scan", "-o", "m.parquet"]])
    def test_is_bounded_whatever_the_files_are(self, here: Path, arguments: list[str]) -> None:
        """In 900 MB of address space: files that are large once they are read, several at once."""
        (here / "archive").mkdir()
        for number, body in enumerate(4 * [deflated_zeros(16 << 20)] + swollen_sequences()):
            for twin in "ab":
                (here / "archive" / f"{number}{twin}").write_bytes(body)
        program = (
            "import resource, sys\n"
            "resource.setrlimit(resource.RLIMIT_AS, (900_000_000, 900_000_000))\n"
            "from flows.cli.__main__ import main\n"
            "main()\n"
        )
        command = [sys.executable, "-c", program, "manifest", "archive", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, done.stderr
        assert "1 study directory found" in done.stderr


def swollen_sequences() -> list[bytes]:
    """Files of 900 KB with as many items and elements as go into that, which fill GBs when they are kept."""
    uid = pack("<HH2sH", 8, 0x18, b"UI", 4) + b"1.7\0"
    items = 110_000 * pack("<HHL", 0xFFFE, 0xE000, 0)
    nested = 100 * (
        pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    )
    elements = b"".join(pack("<HH2sH", 9, number & 0xFFFF, b"LO", 0) for number in range(110_000))
    sequence = pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    nested = 45_000 * (sequence + pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF))
    data_sets = [
        uid + sequence + items + pack("<HHL", 0xFFFE, 0xE0DD, 0),
        uid + pack("<HH2sHL", 8, 0x1140, b"SQ", 0, len(items)) + items,
        uid + nested,
        uid + elements,
    ]
    syntax = pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    return [bytes(128) + b"DICM" + syntax + data_set for data_set in data_sets]


class TestScannedAndRun:
    @pytest.fixture
    def planted(self, here: Path) -> Planted:
        return build(here / "archive", SLICES)

    def test_the_samples_are_stored_as_expected(
        self,
        planted: Planted,
        here: Path,
        prefect_server: Path,
        at_sandbox: None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Instances and bytes of each study; complete is each that can be. A conflict is stored once."""
        assert execute(["manifest", "archive", "--scan", "-o", "scanned.csv"]) == 0
        scanned = rows_of(here / "scanned.csv")
        told = capsys.readouterr().err.splitlines()
        assert told[0] == f"{len(scanned)} study directories found, and written to scanned.csv"
        assert told[1].startswith(
            f"Expected: {sum(int(row['expected_instances']) for row in scanned)} instances"
        )
        assert re.fullmatch(
            r"Not counted: \d+ files that would not be sent \(.*\); .* can't be read .*", told[2]
        )
        assert execute(["run", "scanned.csv"]) == 1

        conflicts: Counter[str] = Counter()
        sizes: dict[str, dict[str, int]] = {}
        for row in read_report(here / "report"):
            conflicts[row["study_no"]] += row["status"] == "conflict"
            if row["status"] in STORED:
                sizes.setdefault(row["study_no"], {})[row["sop_instance_uid"]] = int(row["size_bytes"])
        studies = rows_of(here / "report" / "studies.csv")
        assert len(studies) == len(scanned) > 30
        for study, row in zip(studies, scanned, strict=True):
            number, lost = study["study_no"], conflicts[study["study_no"]]
            assert int(study["expected"]) == int(row["expected_instances"]) == int(study["stored"]) + lost
            assert lost or int(row["expected_bytes"]) == sum(sizes.get(number, {}).values())
            failed, stored = int(study["failed"]), int(study["stored"])
            assert study["complete"] == (str(not failed).lower() if failed or stored else "")
        assert sum(study["complete"] == "true" for study in studies) >= 30

    def test_the_samples_agree_with_who_planted_them(self, planted: Planted, here: Path) -> None:
        """Study Instance UIDs and counts, of the studies in which all can be sent."""
        execute(["manifest", "archive", "--scan", "-o", "scanned.jsonl"])
        execute(["manifest", "archive", "--scan", "-o", "scanned.csv"])
        scanned = {Path(row["study_dir"]).name: row for row in rows_of(here / "scanned.csv")}
        agreed = 0
        for row in rows_of(planted.manifest):
            found = scanned.get(row["study_dir"])
            if found and row["expected_instances"] == found["expected_instances"]:
                assert found["study_instance_uid"] == row["study_instance_uid"]
                agreed += 1
        assert agreed >= 30


def test_a_report_in_the_archive_is_no_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run leaves it out: a row of it would be refused. A directory of that name with none in it is one."""
    for name in ("a/1.txt", "report/2.txt"):
        (here / name).parent.mkdir()
        (here / name).write_text("no image")
    assert execute(["manifest", ".", "-o", "m.csv"]) == 0
    assert [Path(row["study_dir"]).name for row in rows_of(here / "m.csv")] == ["a", "report"]
    (here / "report" / "2.txt").rename(here / "report" / "audit.jsonl")
    assert execute(["manifest", ".", "-o", "m.csv"]) == 0
    assert [Path(row["study_dir"]).name for row in rows_of(here / "m.csv")] == ["a"]


class TestWhatIsSaid:
    def test_within_five_seconds_and_then_every_half_minute(self) -> None:
        """Of directories first, then of files and of the time that is left."""
        counts = Counts(study_dirs=1200)
        pauses: list[float] = []
        said: list[str] = []

        def wait(pause_s: float) -> bool:
            pauses.append(pause_s)
            counts.finding = len(pauses) < 2
            return len(pauses) > 3

        show_lines(counts, wait, lambda line, *_, **__: said.append(line))
        assert pauses[0] < 5
        assert pauses[1:] == [30.0] * 3
        assert said[0] == "1,200 study directories found, still looking"
        assert said[1].startswith("0 of 1,200 study directories scanned, 0 files read")
        assert len(said) == 3

    @pytest.mark.parametrize(
        ("counts", "scanning_s", "said"),
        [
            (Counts(study_dirs=1), 0, "1 study directory found, still looking"),
            (Counts(1, finding=False, files=1), 9, "0 of 1 study directory scanned, 1 file read"),
            (
                Counts(1000, finding=False, scanned=250, files=5000),
                100,
                "250 of 1,000 study directories scanned, 5,000 files read, 50 files/s, about 5 min left",
            ),
            (
                Counts(100, finding=False, scanned=1, files=10),
                600,
                "1 of 100 study directories scanned, 10 files read, 0 files/s, about 16 h 30 min left",
            ),
        ],
    )
    def test_in_words(self, counts: Counts, scanning_s: float, said: str) -> None:
        assert sentence(counts, scanning_s) == said

    def test_in_the_end(self) -> None:
        """One line of what is not counted, or none."""
        good = Counts(instances=1, size_bytes=12345)
        assert list(scan_sentences(good)) == ["Expected: 1 instance, 12,345 bytes"]
        expected, rest = scan_sentences(Counts(instances=2000, repeated=1, unsent=2, unreadable=3))
        assert expected == "Expected: 2,000 instances, 0 bytes"
        assert rest == (
            "Not counted: 1 file with a SOP Instance UID of another file of the study; 2 files that would "
            "not be sent (no image, not whole, over 5 GiB); 3 paths that can't be read (mend that, then scan "
            "again)"
        )


@pytest.mark.processes
class TestInterrupted:
    """Exit code 130 at once; the manifest that was there stays, and nothing lies beside it."""

    @pytest.fixture
    def slow_archive(self, here: Path, dicom: Dicom) -> Path:
        """Its files take minutes; only the directory's Study Instance UID is found at once."""
        study = here / "archive" / "study"
        study.mkdir(parents=True)
        (study / "0").write_bytes(dicom("1.1"))
        (here / "slow").write_bytes(deflated_zeros(1 << 30))
        for number in range(1, 200):
            os.link(here / "slow", study / str(number))
        (here / "slow").unlink()
        (here / "manifest.csv").write_text("study_dir\n/old\n")
        return here

    COMMAND = (sys.executable, "-m", "flows.cli", "manifest", "archive", "--scan", "-o", "manifest.csv")

    def test_off_a_terminal(self, slow_archive: Path) -> None:
        """After the first line, which comes by itself."""
        with started(slow_archive, subprocess.PIPE) as process:
            assert process.stderr
            line = process.stderr.readline()
            assert re.match(rb"0 of 1 study directory scanned, \d+ files? read$", line), line
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=240)
        assert process.returncode == 130
        assert err == b"dicom-ingest: " + INTERRUPTED
        self.assert_untouched(slow_archive)

    def test_on_a_terminal(self, slow_archive: Path) -> None:
        """There is a bar; a machine that shuts down is as good as Ctrl-C."""
        ours, theirs = os.openpty()
        with started(slow_archive, theirs) as process:
            os.close(theirs)
            seen = b""
            while b"0 of 1 study directory scanned" not in seen:
                seen += os.read(ours, 4096)
            os.killpg(process.pid, signal.SIGTERM)
            seen += b"".join(iter(lambda: read_or_end(ours), b""))
            process.wait(timeout=240)
        os.close(ours)
        assert process.returncode == 130
        assert "━".encode() in seen
        assert INTERRUPTED.strip() in seen
        self.assert_untouched(slow_archive)

    def assert_untouched(self, here: Path) -> None:
        assert sorted(os.listdir(here)) == ["archive", "manifest.csv"]
        assert (here / "manifest.csv").read_text() == "study_dir\n/old\n"


INTERRUPTED = b"Interrupted. A manifest is written whole or not at all: the same command begins anew.\n"


@contextmanager
def started(here: Path, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own; what still runs in the end is killed."""
    process = subprocess.Popen(
        TestInterrupted.COMMAND,
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm"},
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_or_end(descriptor: int) -> bytes:
    """What a terminal shows; nothing once nobody has it any more, which Linux calls an I/O error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


class TestSpreadsheet:
    @pytest.mark.usefixtures("at_sandbox", "prefect_server")
    def test_of_another_country_is_a_manifest(self, here: Path, plant: Plant, objects: Objects) -> None:
        """Excel's Unicode text: UTF-16, with tabs, and with rows in which nothing is written."""
        plant(here / "s1", 2)
        plant(here / "zwei ä", 1)
        before = objects()
        text = "\ufeffstudy_dir\texpected_instances\r\ns1 \t2\r\n\t\r\nzwei ä\t1\r\n\t\r\n"
        (here / "m.csv").write_bytes(text.encode("utf-16-le"))
        assert execute(["run", "m.csv"]) == 0
        assert len(objects() - before) == 3
