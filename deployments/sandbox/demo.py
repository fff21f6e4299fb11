"""The demo: sample studies through a platform on this machine, to its registry, and all of it checked.

Upload, ingest, verify: each is the command itself, and what it reports is held against what was planted.
"""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from deployments.sandbox.chain_check import compare_chain
from deployments.sandbox.demo_check import compare
from deployments.sandbox.ports import keep_port, last_port
from deployments.sandbox.privileges import drop_dac_capabilities
from deployments.sandbox.samples import Planted, build
from deployments.sandbox.sandbox import Sandbox
from tasks.core.errors import UsageError
from tasks.core.registration_rows import REGISTRATION_CSV
from tasks.report.directory import VERIFICATION_CSV
from tasks.report.reader import read_report

_MARK: Final = ".dicom-ingest-demo"  # only a folder with this in it is removed and made anew
_SANDBOX: Final = "sandbox"
_NEXT: Final = """
Next, with studies of your own, to such a platform on this machine:
  dicom-ingest sandbox                             # in one terminal, until Ctrl-C
  set -a; . sandbox/sandbox.env; set +a            # in another: where it is, and as whom
  dicom-ingest manifest DIRECTORY -o manifest.csv
  dicom-ingest run manifest.csv --report-dir try
  dicom-ingest ingest --report-dir try             # the platform's own part
  dicom-ingest verify try                          # has it arrived?
To the real platform, in a new terminal and with another report directory, and so another ledger: the one in
try counts as stored what the sandbox has.
  export DICOM_INGEST_API_ENDPOINT=https://api.example.org
  read -rs DICOM_INGEST_TOKEN && export DICOM_INGEST_TOKEN
  dicom-ingest run manifest.csv --report-dir report"""
_EXPECTED_EXIT: Final = 1  # what was planted has files that can't be where they should be
_NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})
_DEEP: Final = "10"  # instances that verify retrieves and compares with their files


class Say(Protocol):
    """Says a sentence; one that is news may be left out."""

    def __call__(self, sentence: str, *, is_news: bool = True) -> None:
        """Once."""
        ...


def print_line(sentence: str, *, is_news: bool = True) -> None:
    """To standard output."""
    del is_news
    print(sentence, flush=True)


def run_demo(
    directory: Path, slices: int, say: Say = print_line, variables: Mapping[str, str] = _NO_VARIABLES
) -> int:
    """Builds, uploads, registers, verifies, checks; 0 only when all agrees with what was planted.

    `say`: each sentence, and whether it is news rather than a result. `variables`: for the commands.
    """
    home = _fresh(directory.absolute())
    say("Building sample studies ...")
    planted = build(home / "archive", slices)
    with Sandbox.start(home / _SANDBOX) as sandbox:
        say(f"Until the demo ends, an upload API and an S3 endpoint run at {sandbox.api_url},")
        say(f"and a DICOMweb server at {sandbox.dicomweb.url}: {sandbox.dicomweb.name}.")
        report = home / "report"
        commands = _Commands(home, sandbox, say, variables)
        code = commands.run("run", report, planted.manifest)
        if code == UsageError.exit_code:  # nothing was attempted, and it has said why
            return code
        say(
            f"The backfill ended with exit code {code}: 1 is right, for what was planted can't all be stored."
        )
        problems = _unexpected("the backfill", code) + _check(planted, report, sandbox)
        ingested, verified = commands.run("ingest", report), commands.run("verify", report)
        say(
            f"Ingest and verify ended with exit codes {ingested} and {verified}: 1 is right, "
            "for images that name no study can't be registered."
        )
        problems += _unexpected("ingest", ingested) + _unexpected("verify", verified)
        problems += _check_chain(planted, report, sandbox)
    return _verdict(problems, planted, say)


def _unexpected(command: str, code: int) -> list[str]:
    return [] if code == _EXPECTED_EXIT else [f"{command} ended with exit code {code}, not {_EXPECTED_EXIT}"]


def _fresh(directory: Path) -> Path:
    """The demo's directory, empty but for its sandbox's port, so that it is at one address each time."""
    data_dir = directory / _SANDBOX
    port = last_port(data_dir)
    if directory.exists():
        if any(directory.iterdir()) and not (directory / _MARK).exists():
            raise UsageError(
                "The demo's directory is not empty and not of an earlier demo. Name another one."
            )
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700, parents=True)
    (directory / _MARK).touch()
    if port:
        data_dir.mkdir(mode=0o700)
        keep_port(data_dir, port)
    return directory


@dataclass(frozen=True, slots=True)
class _Commands:
    """The commands themselves, in processes that can't read what their user may not, also as root."""

    home: Path
    sandbox: Sandbox
    say: Say
    variables: Mapping[str, str]

    def run(self, command: str, report_dir: Path, manifest: Path | None = None) -> int:
        """Says which one, runs it, and gives its exit code."""
        arguments = self._arguments(command, report_dir, manifest, os.path.relpath)
        self.say("\n  dicom-ingest " + " ".join(arguments))
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "flows.cli", *self._arguments(command, report_dir, manifest, str)],
            cwd=self.home,
            env={**_environment_without_settings(self.home), **self.sandbox.variables, **self.variables},
            preexec_fn=drop_dac_capabilities,
            check=False,
        ).returncode

    def _arguments(
        self, command: str, report_dir: Path, manifest: Path | None, name: Callable[[Path], str]
    ) -> list[str]:
        if command == "verify":
            return [command, name(report_dir), "--deep", _DEEP]
        source = [name(manifest), "-u", self.sandbox.api_url] if manifest else []
        return [command, *source, "--report-dir", name(report_dir)]


def _environment_without_settings(home: Path) -> dict[str, str]:
    """One that names no platform and no Prefect server, nor leads to a profile or file that does."""
    foreign = ("DICOM_INGEST_", "PREFECT_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    prefect_home = os.environ.get("PREFECT_HOME", "")
    if prefect_home and not prefect_home.startswith("~"):
        prefect_home = str(Path(prefect_home).absolute())
    return {
        **ours,
        **({"PREFECT_HOME": prefect_home} if prefect_home else {}),
        "PREFECT_PROFILES_PATH": str(home / "no-profiles.toml"),
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
    }


def _check(planted: Planted, report_dir: Path, sandbox: Sandbox) -> list[str]:
    bucket = sandbox.bucket_dir
    assert bucket is not None
    keys = {path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file()}
    return compare(planted, read_report(report_dir), sandbox.object_path, keys)


def _check_chain(planted: Planted, report_dir: Path, sandbox: Sandbox) -> list[str]:
    registration, verification = (_rows(report_dir / name) for name in (REGISTRATION_CSV, VERIFICATION_CSV))
    report = read_report(report_dir)
    return compare_chain(planted, sandbox.dicomweb.program, report, registration, verification)


def _rows(file: Path) -> list[dict[str, str]]:
    """None of a file that was not written: what should be in it is missing then."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def _verdict(problems: list[str], planted: Planted, say: Say) -> int:
    result = partial(say, is_news=False)
    for problem in problems:
        result(f"  {problem}")
    if problems:
        result("The report does not agree with what was planted.")
        return 1
    count = len(planted.expected) + 2 * len(planted.pairs)
    result(f"Checked: each of the {count} planted files has its one row with the right outcome,")
    result("every object in the bucket is byte for byte the file that its row names,")
    result("and each of them that a server can register is registered, and confirmed by verify.")
    say(_NEXT)
    return 0
