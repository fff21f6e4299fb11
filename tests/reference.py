"""The reference of the command line, made from its declarations: deployments/REFERENCE.md and a manual page.

`make reference` writes both anew; a test says when they are not what the declarations are.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.cli.commands import app
from flows.cli.examples import EXAMPLES
from flows.cli.help import EXIT_CODES_HELP
from tasks.declaration import Use, declarations, variables
from tasks.known_settings import KINDS, VARIABLES
from tasks.sandbox_settings import GatewaySettings, SandboxSettings

ROOT = Path(__file__).parents[1]
MARKDOWN, MANUAL = ROOT / "deployments/REFERENCE.md", ROOT / "deployments/dicom-ingest.1"
WHAT = "moves an archive of DICOM studies into a cloud imaging platform, and proves it"
_MADE = (
    "Made from the declarations of the command line by `make reference`: don't edit it. How it belongs "
    "together is in [README.md](README.md); `man deployments/dicom-ingest.1` shows the same in a terminal."
)
_NEEDED = (("manifest", "--output"), ("upload", "--path"))  # without a default, or a setting of that name
COMMANDS = [name for name in app if not name.startswith("-")]


@dataclass(frozen=True)
class Argument:
    """An argument, or an option with its names."""

    names: tuple[str, ...]
    value: str  # what follows its name; empty for a flag
    help: str
    default: str
    variable: str
    is_required: bool

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")


@dataclass(frozen=True)
class Command:
    name: str
    description: tuple[str, ...]  # paragraphs
    arguments: tuple[Argument, ...]
    options: tuple[Argument, ...]

    @property
    def usage(self) -> str:
        needed = [f"{each.names[0]} {each.value}" for each in self.options if each.is_required]
        named = [each.names[0] if each.is_required else f"[{each.names[0]}]" for each in self.arguments]
        return " ".join(["dicom-ingest", self.name, *named, *needed, "[OPTIONS]"])


def commands() -> list[Command]:
    return [_command(name) for name in COMMANDS]


def _command(name: str) -> Command:
    collection = app[name].assemble_argument_collection()
    given = [_argument(name, each) for each in collection if each.show and each.names != ("*",)]
    text = inspect.getdoc(app[name].default_command) or ""
    paragraphs = re.split(r"\n\s*\n", re.split(r"^Parameters\n-+$", text, flags=re.MULTILINE)[0].strip())
    return Command(
        name,
        tuple(" ".join(each.split()) for each in paragraphs),
        tuple(each for each in given if not each.is_option),
        tuple(each for each in given if each.is_option),
    )


def _argument(command: str, given: Any) -> Argument:
    choices = given.get_choices()
    kind = "" if given.is_flag() else _kind(given.hint)
    shown = given.show_default
    return Argument(
        tuple(given.names),
        "|".join(choices) if choices else kind,
        " ".join((given.parameter.help or _help_in_docstring(command, given.names[0])).split()),
        shown if isinstance(shown, str) else "",
        _variable(command, given.names[0]),
        bool(given.required) or (command, given.names[0]) in _NEEDED,
    )


def _kind(hint: object) -> str:
    words = {"Path": "PATH", "int": "NUMBER", "float": "NUMBER"}
    return next((word for name, word in words.items() if name in str(hint)), "TEXT")


def _help_in_docstring(command: str, name: str) -> str:
    text = inspect.getdoc(app[command].default_command) or ""
    found = re.search(rf"^{name.lower()}\n((?:    .*\n?)+)", text, flags=re.MULTILINE)
    return found[1] if found else ""


def _variable(command: str, option: str) -> str:
    """By which it is a setting, too; empty where it is none."""
    name = option.lstrip("-").replace("-", "_").upper()
    own = (f"DICOM_INGEST_{command.upper()}_{name}", f"DICOM_INGEST_{name}")
    is_option = option.startswith("-")
    return next((each for each in own if is_option and each in VARIABLES), "")


def settings_alone() -> Iterator[tuple[str, str]]:
    """Settings that are no option of any command: each variable with what it is."""
    seen = set()
    for kind in KINDS:
        if kind in (SandboxSettings, GatewaySettings):
            continue
        for variable, declared in zip(variables(kind), declarations(kind), strict=True):
            if Use.OPTION not in declared.setting.use and variable not in seen:
                seen.add(variable)
                yield variable, declared.setting.help


# -- Markdown ---------------------------------------------------------------------------------------------


def markdown() -> str:
    """The page for people who read it on the web."""
    parts = [
        "# Reference",
        _MADE,
        " · ".join(f"[{each.name}](#{each.name})" for each in commands()),
        *(part for each in commands() for part in _markdown_of(each)),
        "## Settings that are no options",
        "\n".join(
            ["| setting | meaning |", "| --- | --- |"]
            + [f"| `{name}` | {_cell(text)} |" for name, text in settings_alone()]
        ),
        "## Exit codes",
        " ".join(EXIT_CODES_HELP.split()),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_of(command: Command) -> Iterator[str]:
    yield f"## {command.name}"
    yield from command.description
    yield f"```\n{command.usage}\n```"
    if command.arguments:
        rows = [f"| `{each.names[0]}` | {_cell(each.help)} |" for each in command.arguments]
        yield "\n".join(["| argument | meaning |", "| --- | --- |", *rows])
    rows = [
        f"| {_names(each)} | {_cell(_with_default(each))} | {f'`{each.variable}`' if each.variable else ''} |"
        for each in command.options
    ]
    yield "\n".join(["| option | meaning | setting |", "| --- | --- | --- |", *rows])
    if examples := EXAMPLES.get(command.name):
        lines = [f"# {what}\n{line}" for line, what in examples]
        yield "```\n" + "\n".join(lines) + "\n```"


def _names(option: Argument) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    return f"{names} `{_cell(option.value)}`" if option.value else names


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _with_default(each: Argument) -> str:
    return f"{each.help} Default: {each.default}." if each.default else each.help


# -- a manual page (man(7)) -------------------------------------------------------------------------------


def manual() -> str:
    """The page for `man`."""
    lines = [
        '.TH DICOM-INGEST 1 "" "dicom-ingest" "User Commands"',
        ".nh",  # no name of a setting is broken
        ".ad l",
        ".SH NAME",
        _roff(f"dicom-ingest - {WHAT}"),
        ".SH SYNOPSIS",
        *(f".B {_roff(each.usage)}\n.br" for each in commands()),
        ".SH DESCRIPTION",
        _roff(
            "Takes a manifest of study directories, sends every DICOM file in them through presigned URLs, "
            "and writes a report with one row for every file. The same command again goes on from there."
        ),
        ".SH COMMANDS",
        *(line for each in commands() for line in _manual_of(each)),
        ".SH ENVIRONMENT",
        _roff("Each option above with a name in parentheses is also that setting. Settings alone are:"),
        *(f".TP\n.B {_roff(name)}\n{_roff(text)}" for name, text in settings_alone()),
        ".SH EXIT STATUS",
        _roff(" ".join(EXIT_CODES_HELP.split())),
        ".SH SEE ALSO",
        _roff("README.md and deployments/README.md of the project: columns, statuses, messages, operations."),
    ]
    return "\n".join(lines) + "\n"


def _manual_of(command: Command) -> Iterator[str]:
    yield f".SS {_roff(command.name)}"
    for number, paragraph in enumerate(command.description):
        yield from ([".PP"] if number else []) + [_roff(paragraph)]
    yield f".PP\n.B {_roff(command.usage)}"
    for each in (*command.arguments, *command.options):
        value = f" {each.value}" if each.value else ""
        variable = f" ({each.variable})" if each.variable else ""
        yield f".TP\n.B {_roff(', '.join(each.names) + value)}\n{_roff(_with_default(each) + variable)}"
    for line, what in EXAMPLES.get(command.name, ()):
        yield f".PP\n{_roff(f'Example, {what}:')}\n.PP\n.nf\n.RS\n{_roff(line)}\n.RE\n.fi"


def _roff(text: str) -> str:
    """So that nothing in it is a request, an escape or a hyphen that is broken at."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    MARKDOWN.write_text(markdown(), encoding="utf-8")
    MANUAL.write_text(manual(), encoding="utf-8")
