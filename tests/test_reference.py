"""The reference and the examples: what a person looks up is what the command line has."""

import re
import shlex
import shutil
import subprocess

import pytest

from flows.cli.__main__ import execute
from flows.cli.commands import app
from flows.cli.examples import EXAMPLES
from flows.cli.help import FIRST_PAGE
from tasks.known_settings import VARIABLES
from tests.reference import COMMANDS, MANUAL, MARKDOWN, commands, manual, markdown

LINES = [
    pytest.param(name, line, id=line)
    for name, examples in EXAMPLES.items()
    if name in COMMANDS
    for line, _ in examples
]


@pytest.mark.parametrize("page", ["REFERENCE.md", "dicom-ingest.1"])
def test_is_up_to_date(page: str) -> None:
    """`make reference` writes it anew."""
    path, text = (MARKDOWN, markdown()) if page == MARKDOWN.name else (MANUAL, manual())
    assert path.read_text(encoding="utf-8") == text, "run `make reference`"


@pytest.mark.parametrize("text", [markdown(), manual().replace("\\-", "-")])
def test_has_every_command_option_setting_and_example(text: str) -> None:
    arguments = [each for name in COMMANDS for each in app[name].assemble_argument_collection() if each.show]
    names = {name for each in arguments for name in each.names}
    assert {name for name in (*COMMANDS, *names) if name not in text} == set()
    of_the_gateway_or_a_worker = {name for name in VARIABLES if "SANDBOX_" in name} | {"DICOM_INGEST_HOME"}
    assert {name for name in VARIABLES - of_the_gateway_or_a_worker if name not in text} == set()
    for name in COMMANDS:
        assert all(line in text for line, _ in EXAMPLES[name])


def test_says_what_each_argument_is() -> None:
    """None is without words, and none that a command needs is left out of its usage."""
    for command in commands():
        for each in (*command.arguments, *command.options):
            assert each.help, (command.name, each.names)
        needed = [each for each in app[command.name].assemble_argument_collection() if each.required]
        assert [each.names for each in needed if each.names[0] not in command.usage] == []


@pytest.mark.parametrize(("command", "line"), LINES)
def test_an_example_can_be_typed(command: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is understood, with the options that the command has; and its help shows it."""
    tokens = shlex.split(line)[1:]
    function, _, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert function.__name__.removesuffix("_") == tokens[0] == command
    assert len(line) < 100
    assert execute([command, "--help"]) == 0
    assert line in " ".join(capsys.readouterr().out.split())


def test_every_command_has_examples() -> None:
    """One or two; those of the first page can be typed, too."""
    assert {name for name in COMMANDS if not 1 <= len(EXAMPLES.get(name, ())) <= 2} == set()
    typed = re.findall(r"^  dicom-ingest (.+)$", FIRST_PAGE, flags=re.MULTILINE)
    assert typed
    for line in typed:
        app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_man_has_nothing_to_say_about_the_page() -> None:
    command = ["man", "--warnings", "-l", str(MANUAL)]
    shown = subprocess.run(
        command, capture_output=True, text=True, env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"}
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "EXIT STATUS" in shown.stdout
