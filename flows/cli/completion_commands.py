"""Completion of commands and options in a shell: its script, for an administrator or for oneself."""

from typing import Annotated, Final, Literal

from cyclopts import App, Parameter

from flows.orchestration.standard_streams import list_out, say

Shell = Annotated[
    Literal["bash", "zsh", "fish"] | None,
    Parameter(help="Which shell; when it is left out, the one that this is typed in."),
]
_NAME: Final = "dicom-ingest"
# In bash the library takes each word that is a command's name for a subcommand, a report directory's, too.
_ANY_WORD: Final = 'if [[ " $all_commands " =~'
_FIRST_WORD: Final = 'if [[ ${#cmd_path[@]} -eq 0 && " $all_commands " =~'


def add_completion(app: App) -> None:
    """Gives it --show-completion and --install-completion."""

    def show(shell: Shell = None, /) -> int:
        """Print the script by which a shell completes commands and options."""
        list_out(_script(app, shell).splitlines())
        return 0

    def install(shell: Shell = None, /) -> int:
        """Install that script for this user, and have the shell's start file read it."""
        script = _script(app, shell)
        path = app.install_completion(shell=shell)
        path.write_text(script, encoding="utf-8")
        say(f"Completion is installed in {path}. A new shell has it.")
        return 0

    app.command(show, name="--show-completion", help_epilogue="", show=False)
    app.command(install, name="--install-completion", help_epilogue="", show=False)


def _script(app: App, shell: Literal["bash", "zsh", "fish"] | None) -> str:
    from cyclopts.completion.detect import ShellDetectionError

    from tasks.core.errors import UsageError

    try:
        script = app.generate_completion(prog_name=_NAME, shell=shell)
        return script.replace(_ANY_WORD, _FIRST_WORD)
    except ShellDetectionError:
        raise UsageError(
            "There is no telling which shell this is. Name it: bash, zsh or fish. Nothing was installed."
        ) from None
