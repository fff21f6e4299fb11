"""dicom-ingest: the console script. From arguments to an exit code, whatever happens in between."""

import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flows.cli.help import FIRST_PAGE
from flows.cli.termination import terminated_like_interrupted
from flows.orchestration.standard_streams import (
    Kind,
    current_output,
    discard_unread_output,
    list_out,
    say,
    saying,
)
from tasks.process_memory import defer_collection, forbid_memory_dumps, skip_last_collection

if TYPE_CHECKING:
    from tasks.core.errors import IngestError

_INTERRUPTED: Final = (
    "Interrupted. The same command goes on from here; `dicom-ingest report` writes what a run has done "
    "until now."
)
_ASKING_FOR_HELP: Final[tuple[list[str], ...]] = ([], ["--help"], ["-h"])
_USAGE: Final = 2  # as of UsageError
_NO_READER: Final = 128 + signal.SIGPIPE  # as a shell says it of a program that SIGPIPE ended


def main() -> None:
    """The console script."""
    _open_standard_streams()
    forbid_memory_dumps()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here computes matrices
    defer_collection()
    exit_code = execute(sys.argv[1:])
    skip_last_collection()
    sys.exit(exit_code)


def _open_standard_streams() -> None:
    """Those that whoever started us has closed: nobody reads what is said, and that is no fault."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for as long as the process


def _ask_this_machine_directly() -> None:
    """Before any library reads the environment, and for all processes that follow from this one."""
    if any(name.lower().endswith("_proxy") for name in os.environ):
        from tasks.remote.proxy_environment import complete_environment

        complete_environment(os.environ, os.environ.get("PREFECT_API_URL", ""))


def execute(arguments: list[str]) -> int:
    """Runs one command; its exit code. An error is one clear sentence; `--debug` says where it came from."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    with ExitStack() as output:  # which an error is said by, too
        try:
            with terminated_like_interrupted():
                return _run(arguments, output)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a person gets a sentence, whatever happened
            if isinstance(error, BrokenPipeError) and discard_unread_output():
                return _NO_READER
            return _say_error(_ours(error), debug="--debug" in arguments or _is_debugging())


def _run(arguments: list[str], output: ExitStack) -> int:
    if arguments in _ASKING_FOR_HELP:
        list_out([FIRST_PAGE.rstrip("\n")])
        return 0
    _decide_output(arguments, output)
    _ask_this_machine_directly()
    from cyclopts import CycloptsError

    from flows.cli.commands import app
    from tasks.known_settings import unknown_variables

    for sentence in unknown_variables(os.environ):
        say(sentence, Kind.WARNING)
    is_json = current_output().is_json
    try:
        return int(app(arguments, exit_on_error=False, print_error=not is_json) or 0)
    except CycloptsError as error:
        if is_json:  # else the library has said what is wrong
            say(f"dicom-ingest: {error}", Kind.ERROR, exit_code=_USAGE)
        return _USAGE


def _decide_output(arguments: list[str], output: ExitStack) -> None:
    """Things are said as options and environment have it, until `output` ends. Help is given in any case."""
    from flows.orchestration.json_records import recorded_in_json
    from flows.orchestration.output_settings import output_of

    is_help = not {"--help", "-h"}.isdisjoint(arguments)
    decided = output_of(arguments, {} if is_help else os.environ)
    output.enter_context(saying(decided))
    output.enter_context(recorded_in_json(decided))


def _ours(error: BaseException) -> "IngestError":
    from tasks.core.errors import IngestError, InternalError, InterruptedRunError

    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError(_INTERRUPTED)
    return error if isinstance(error, IngestError) else InternalError.hiding(error)


def _is_debugging() -> bool:
    """The setting DICOM_INGEST_DEBUG; one that is wrong is no reason to say less of an error."""
    from tasks.core.errors import UsageError
    from tasks.declaration import load_as
    from tasks.settings import CommandSettings

    try:
        return load_as(CommandSettings).debug
    except UsageError:
        return False


def _say_error(error: "IngestError", *, debug: bool) -> int:
    if debug:
        import traceback

        say("".join(traceback.format_exception(error)).rstrip(), Kind.ERROR, exit_code=error.exit_code)
    else:
        say(f"dicom-ingest: {error}", Kind.ERROR, exit_code=error.exit_code)
    return error.exit_code


if __name__ == "__main__":
    main()
