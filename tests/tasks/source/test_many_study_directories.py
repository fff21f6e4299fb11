"""A million files in one directory, and a million study directories: in little memory, each looked at once.

Each is a process of its own, which says what it held (as /proc does: getrusage counts its parent's, too) and
what it asked the file server.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.far_side import TOKEN, FarSide

pytestmark = pytest.mark.processes
MILLION = 1_000_000
MOST_MIB = 300
# A manifest read and its directories walked, with the engine's modules; counts what asks for a file's state.
SCAN = r"""
import collections, json, os, re, sys
from pathlib import Path
from tasks.run import engine
from tasks.source.manifest_reader import load_manifest

asked = collections.Counter()

def counted(name):
    ask = getattr(os, name)
    def counting(*args, **kwargs):
        asked[name] += 1
        return ask(*args, **kwargs)
    setattr(os, name, counting)

for name in ("stat", "lstat", "readlink"):
    counted(name)
entries = load_manifest(Path(sys.argv[1]))
ownership = engine.survey(entries)
surveyed = asked.total()
files = sum(1 for entry in entries for _ in engine.walk_study(entry, ownership))
peak_mib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"files": files, "peak_mib": peak_mib, "surveyed": surveyed, "asked": asked.total()}))
"""

# A whole run, to its report.
RUN = r"""
import json, re, sys
from pathlib import Path
from tasks.run.engine import ingest
from tasks.settings import load
from tasks.source.manifest_reader import load_manifest

settings = load(api_endpoint=sys.argv[2], token=sys.argv[3], report_dir=Path(sys.argv[1]).parent / "report")
summary = ingest(load_manifest(Path(sys.argv[1])), settings)
peak_mib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"peak_mib": peak_mib, "studies": summary.studies, **summary.by_status}))
"""


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory with room for two million names; on the disk where the memory's file system has none."""
    has_room = os.path.isdir("/dev/shm") and os.statvfs("/dev/shm").f_favail > 2.5 * MILLION
    with tempfile.TemporaryDirectory(prefix="scan-", dir="/dev/shm" if has_room else None) as directory:
        yield Path(directory)


def scanned(manifest: Path) -> dict[str, float]:
    return _said(SCAN, manifest)


def _said(*program: str | Path) -> dict[str, float]:
    told = subprocess.run([sys.executable, "-c", *program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    found: dict[str, float] = json.loads(told.stdout)
    return found


def flat_directory(top: Path, files: int) -> Path:
    """A manifest of one study directory, all of whose files are empty."""
    (top / "study").mkdir()
    directory = os.open(top / "study", os.O_RDONLY)
    for number in range(files):
        name = f"1.2.840.113619.2.55.3.2831868886.{number:08}.dcm"
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    return _manifest(top, ["study"])


def study_directories(top: Path, studies: int) -> Path:
    """A manifest of so many, ten of each patient, each with one file."""
    names = [f"archive/2026/patient-{number // 10:06}/study-{number:08}" for number in range(studies)]
    for name in names:
        (top / name).mkdir(parents=True)
        os.close(os.open(top / name / "1.dcm", os.O_CREAT | os.O_WRONLY))
    return _manifest(top, names)


def _manifest(top: Path, names: list[str]) -> Path:
    manifest = top / "manifest.csv"
    manifest.write_text("\n".join(["study_dir", *names, ""]))
    return manifest


class TestScan:
    def test_asks_for_each_file_once(self, in_memory: Path) -> None:
        """And for the study directory itself, whose path it resolves, a few times."""
        said = scanned(flat_directory(in_memory, 500))
        assert said["files"] == 500
        assert said["asked"] <= 500 + 10

    def test_asks_for_each_study_directory_twice(self, in_memory: Path) -> None:
        """Whether it is a link, and whether it is one; for what holds it, once, however many there are."""
        said = scanned(study_directories(in_memory, 500))
        assert said["files"] == 500
        assert said["surveyed"] <= 500 + 50 * 8
        assert said["asked"] - said["surveyed"] == 500 * 2  # the directory and its file

    @pytest.mark.long
    @pytest.mark.parametrize("made", [flat_directory, study_directories])
    def test_of_a_million_needs_little_memory(self, made: object, in_memory: Path) -> None:
        """With the manifest and all modules of the engine in it."""
        assert callable(made)
        said = scanned(made(in_memory, MILLION))
        assert said["files"] == MILLION
        assert said["peak_mib"] < MOST_MIB
        assert said["asked"] < 4 * MILLION


@pytest.mark.long
def test_a_run_over_very_many_needs_little_memory(far_side: FarSide, in_memory: Path) -> None:
    """The report, with a line for each study, included; a million took as much (264 MiB), and ten minutes."""
    studies = MILLION // 5
    said = _said(RUN, study_directories(in_memory, studies), far_side.url, TOKEN)
    assert (said["studies"], said["not_dicom"]) == (studies, studies)
    assert said["peak_mib"] < MOST_MIB
