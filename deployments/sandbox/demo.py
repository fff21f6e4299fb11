"""The demo: sample studies through a platform on this machine, and the report checked against the truth."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from deployments.sandbox.demo_check import compare
from deployments.sandbox.ports import keep_port, last_port
from deployments.sandbox.privileges import drop_dac_capabilities
from deployments.sandbox.samples import Planted, build
from deployments.sandbox.sandbox import Sandbox
from tasks.core.errors import UsageError
from tasks.report.reader import read_report

_MARK: Final = ".dicom-ingest-demo"  # only a folder with this in it is removed and made anew
_SANDBOX: Final = "sandbox"
_NEXT: Final = """
Next, with studies of your own, to such a platform on this machine:
  dicom-ingest sandbox                             # in one terminal, until Ctrl-C
  set -a; . sandbox/sandbox.env; set +a            # in another: where it is, and as whom
  dicom-ingest manifest DIRECTORY -o manifest.csv
  dicom-ingest run manifest.csv --report-dir try
To the real platform, in a new terminal and with another report directory, and so another ledger: the one in
try counts as stored what the sandbox has.
  export DICOM_INGEST_API_ENDPOINT=https://api.example.org
  read -rs DICOM_INGEST_TOKEN && export DICOM_INGEST_TOKEN
  dicom-ingest run manifest.csv --report-dir report"""
_EXPECTED_EXIT: Final = 1  # what was planted has files that can't be where they should be


def run_demo(directory: Path, slices: int) -> int:
    """Builds, uploads and checks; 0 only when report, bucket and what was planted agree."""
    home = _fresh(directory.absolute())
    _say("Building sample studies ...")
    planted = build(home / "archive", slices)
    report = home / "report"
    with Sandbox.start(home / _SANDBOX) as sandbox:
        _say(f"Until the demo ends, an upload API and an S3 endpoint run at {sandbox.api_url}. Now:")
        manifest, report_dir = os.path.relpath(planted.manifest), os.path.relpath(report)
        _say(f"  dicom-ingest run {manifest} -u {sandbox.api_url} --report-dir {report_dir}")
        code = _backfill(planted.manifest, sandbox, report, home)
        if code == UsageError.exit_code:  # nothing was attempted, and it has said why
            return code
        _say(
            f"The backfill ended with exit code {code}: 1 is right, for what was planted can't all be stored."
        )
        problems = (
            [] if code == _EXPECTED_EXIT else [f"the backfill's exit code is {code}, not {_EXPECTED_EXIT}"]
        )
        problems += _check(planted, home / "report", sandbox)
    return _verdict(problems, planted)


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


def _backfill(manifest: Path, sandbox: Sandbox, report_dir: Path, home: Path) -> int:
    """Runs the command itself, in a process that can't read what its user may not, also as root."""
    command = [
        sys.executable, "-m", "flows.cli", "run", str(manifest),
        "--api-endpoint", sandbox.api_url, "--report-dir", str(report_dir),
    ]  # fmt: skip
    settings = {
        "DICOM_INGEST_TOKEN_URL": sandbox.token_url,
        "DICOM_INGEST_CLIENT_ID": sandbox.client_id,
        "DICOM_INGEST_CLIENT_SECRET": sandbox.client_secret,
    }
    return subprocess.run(  # noqa: S603 - our own command
        command,
        cwd=home,
        env=_environment_without_settings(home) | settings,
        preexec_fn=drop_dac_capabilities,
        check=False,
    ).returncode


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


def _verdict(problems: list[str], planted: Planted) -> int:
    for problem in problems:
        _say(f"  {problem}")
    if problems:
        _say("The report does not agree with what was planted.")
        return 1
    count = len(planted.expected) + 2 * len(planted.pairs)
    _say(f"Checked: each of the {count} planted files has its one row with the right outcome,")
    _say("and every object in the bucket is byte for byte the file that its row names.")
    _say(_NEXT)
    return 0


def _say(sentence: str) -> None:
    print(sentence, flush=True)
