"""The commands of README.md, as a person types them: a sandbox in one terminal, the rest in another."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.report.reader import read_report
from tests.conftest import Dicom
from tests.processes import await_gone, descendants

DICOM_INGEST = str(Path(sys.executable).with_name("dicom-ingest"))


@dataclass(frozen=True, slots=True)
class Terminal:
    """A working directory: a sandbox runs in it, and an archive has two studies, one with a cut file."""

    directory: Path
    environment: dict[str, str]
    sandbox: subprocess.Popen[str]
    printed: str
    mended: Path  # that file, whole

    def types(self, command: str) -> subprocess.CompletedProcess[str]:
        """A shell's, after the line that the sandbox prints."""
        env_file = re.search(r"set -a; \. (\S+); set \+a", self.printed)
        assert env_file
        return subprocess.run(
            ["sh", "-c", f'{env_file[0]}; exec "$@"', "sh", DICOM_INGEST, *command.split()],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def objects(self) -> set[str]:
        bucket = self.directory / "sandbox" / "objects" / "dicom-ingest"
        return {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def terminal(
    tmp_path_factory: pytest.TempPathFactory, prefect_home: Path, dicom: Dicom
) -> Iterator[Terminal]:
    directory = tmp_path_factory.mktemp("terminal")
    for number, study in enumerate(("good", "good", "good", "bad", "bad"), 1):
        path = directory / "archive" / study / f"IM{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            dicom(f"1.2.{number}").replace(b"1.2.3\0", b"1.2.4\0" if study == "good" else b"1.2.5\0")
        )
    mended = Path(shutil.copy(path, directory / "mended.dcm"))
    path.write_bytes(path.read_bytes()[:-40])
    environment = {name: text for name, text in os.environ.items() if not name.startswith("DICOM_INGEST_")}
    environment["PREFECT_HOME"] = str(prefect_home)
    sandbox = subprocess.Popen(
        [DICOM_INGEST, "sandbox"],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert sandbox.stdout
        printed = ""
        while "dicom-ingest upload" not in printed:
            line = sandbox.stdout.readline()
            assert line, "the sandbox ended before it said how to point at it"
            printed += line
        yield Terminal(directory, environment, sandbox, printed, mended)
    finally:
        sandbox.terminate()
        sandbox.communicate(timeout=240)


class TestSandbox:
    def test_prints_how_to_point_at_it_without_the_secret(self, terminal: Terminal) -> None:
        """The secret is in the settings file, which is its owner's."""
        env_file = terminal.directory / "sandbox" / "sandbox.env"
        secret = re.search(r"CLIENT_SECRET=(\S+)", env_file.read_text())
        assert secret
        assert secret[1] not in terminal.printed
        assert re.search(r"API endpoint +http://127\.0\.0\.1:\d+", terminal.printed)
        assert env_file.stat().st_mode & 0o777 == 0o600


class TestUpload:
    def test_of_a_good_directory_ends_with_0_and_lists_its_files(self, terminal: Terminal) -> None:
        """Each with its key, which is the object's."""
        done = terminal.types("upload -p archive/good --list --report-dir upload")
        assert done.returncode == 0, done.stderr
        listed = [line.split("\t") for line in done.stdout.splitlines()]
        assert [(Path(path).name, outcome) for path, _, outcome in listed] == [
            ("IM1.dcm", "uploaded"),
            ("IM2.dcm", "uploaded"),
            ("IM3.dcm", "uploaded"),
        ]
        assert {key for _, key, _ in listed} <= terminal.objects()

    def test_of_a_directory_with_trouble_ends_with_1(self, terminal: Terminal) -> None:
        """The one file that is cut has no key."""
        done = terminal.types("upload -p archive/bad --list --report-dir trouble")
        assert done.returncode == 1, done.stderr
        assert re.search(r"IM5\.dcm\t-\tinvalid truncated$", done.stdout)


class TestManifestAndRun:
    def test_store_an_archive_once(self, terminal: Terminal) -> None:
        """A first run stores what can be stored; when the rest is mended, the next one sends that alone."""
        done = terminal.types("manifest archive -o manifest.csv")
        assert (done.returncode, "2 study directories" in done.stderr) == (0, True)

        done = terminal.types("run manifest.csv")
        assert done.returncode == 1, done.stderr
        assert "5 files: 4 uploaded, 1 invalid" in done.stderr
        assert "1 of 2 studies complete" in done.stderr
        assert done.stdout == ""

        terminal.mended.rename(terminal.directory / "archive" / "bad" / "IM5.dcm")
        before, first = terminal.objects(), keys_of(terminal.directory / "report")
        done = terminal.types("run manifest.csv")
        assert done.returncode == 0, done.stderr
        assert "5 files: 1 uploaded, 4 already_uploaded" in done.stderr
        second = keys_of(terminal.directory / "report")
        assert first.items() < second.items()
        assert terminal.objects() - before == set(second.values()) - set(first.values())


def keys_of(report: Path) -> dict[str, str]:
    return {row["path"]: row["key"] for row in read_report(report) if row["key"]}


class TestCtrlC:
    def test_stops_the_sandbox_and_leaves_no_process(self, terminal: Terminal) -> None:
        """Gateway and object store end with it; the objects stay."""
        assert terminal.types("upload -p archive/good --report-dir last").returncode == 0
        family = descendants(terminal.sandbox.pid)
        assert len(family) >= 2
        os.killpg(terminal.sandbox.pid, signal.SIGINT)
        assert terminal.sandbox.wait(240) == 0
        await_gone(family)
        assert terminal.objects()
