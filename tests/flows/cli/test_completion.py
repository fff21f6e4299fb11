"""Completion in a shell: the script is asked as the shell does, by the shell itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from flows.cli.commands import app

pytestmark = pytest.mark.usefixtures("here")
COMMANDS = {name for name in app if not name.startswith("-")}
# The line as it is typed, and what bash's own machinery makes of it: as it is at a press of Tab.
_TAB = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMPREPLY=()
completer=$(complete -p dicom-ingest | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$completer" dicom-ingest "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(here: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert execute(["--show-completion", "bash"]) == 0
    path = here / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    command = ["bash", "--norc", "-c", _TAB, "bash", str(script), "dicom-ingest", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent)
    assert done.stderr == ""
    return set(done.stdout.split())


class TestBash:
    def test_completes_commands(self, script: Path) -> None:
        assert completed(script, "") == COMMANDS
        assert completed(script, "up") == {"upload"}

    def test_completes_options_of_the_command(self, script: Path) -> None:
        assert completed(script, "run", "--par") == {"--parallel"}
        assert completed(script, "upload", "--path", "x", "--no-") == {"--no-trust-ctime"}
        assert completed(script, "audit", "--par") == set()
        assert {"--quiet", "--json-logs"} <= completed(script, "verify", "report", "--")

    def test_completes_choices(self, script: Path) -> None:
        assert completed(script, "run", "m.csv", "--on-conflict", "") == {"report", "upload"}

    def test_completes_files(self, script: Path) -> None:
        """Also after an option without a value: that is no place for one."""
        (script.parent / "manifest.csv").touch()
        assert completed(script, "run", "mani") == {"manifest.csv"}
        assert completed(script, "run", "--quiet", "mani") == {"manifest.csv"}
        assert completed(script, "upload", "--path", "mani") == {"manifest.csv"}

    def test_is_installed_for_a_user(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An interactive bash of his completes then; installed twice, it is read once."""
        monkeypatch.setenv("HOME", str(here))
        for _ in range(2):
            assert execute(["--install-completion", "bash"]) == 0
        assert "Completion is installed in" in capsys.readouterr().err
        asked = "complete -p dicom-ingest"
        done = subprocess.run(
            ["bash", "--rcfile", str(here / ".bashrc"), "-i", "-c", asked],
            env=os.environ | {"HOME": str(here)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert "complete " in done.stdout
        assert (here / ".bashrc").read_text().count("dicom-ingest completion") == 1


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_understand_theirs(shell: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it completes; where the shell is there, it reads the script without a complaint."""
    assert execute(["--show-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "json-logs" in script
    if program := shutil.which(shell):
        (here / "script").write_text(script)
        read = subprocess.run([program, "-n", "script"], capture_output=True, text=True)
        assert (read.returncode, read.stderr) == (0, "")


def test_a_shell_that_nobody_names_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def detect() -> str:
        from cyclopts.completion.detect import ShellDetectionError

        raise ShellDetectionError

    monkeypatch.setattr("cyclopts.completion.detect.detect_shell", detect)
    monkeypatch.setattr("cyclopts.completion.detect_shell", detect)
    for option in ("--show-completion", "--install-completion"):
        assert execute([option]) == 2
        assert "Name it: bash, zsh or fish" in capsys.readouterr().err
    assert execute(["--show-completion", "ksh"]) == 2
    assert "ksh" in capsys.readouterr().err


@pytest.mark.processes
def test_it_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from flows.cli.__main__ import execute; execute(['--show-completion', 'bash']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"prefect", "pydantic", "sqlalchemy", "httpx", "pycurl"} & set(done.stderr.split())
