"""--quiet and --json-logs, before a command line is parsed: what is wrong with that is said so, too.

A run of a deployment has them from the environment of its worker.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from flows.orchestration.json_records import JsonConsole, recorded_in_json
from flows.orchestration.standard_streams import Output, is_decided, saying

_OPTIONS: Final = {"--quiet": "quiet", "--json-logs": "json_logs"}
_PREFIX: Final = "DICOM_INGEST_"
_NO: Final = frozenset({"0", "f", "false", "n", "no"})


def output_of(arguments: list[str], environ: Mapping[str, str]) -> Output:
    """How a command says things. Raises UsageError for a variable whose value is none."""
    values = {"quiet": False, "json_logs": False, **_from_environment(environ)}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--":
            break
        if name in _OPTIONS:
            values[_OPTIONS[name]] = value.lower() not in _NO
    return Output(values["quiet"], values["json_logs"])


@contextmanager
def saying_as_set(environ: Mapping[str, str]) -> Iterator[None]:
    """Until the block ends, as the environment says it; a command has decided that for its own flows."""
    if is_decided():
        yield
        return
    output = output_of([], environ)
    with saying(output), recorded_in_json(output):
        yield


def as_variables(output: Output) -> dict[str, str]:
    """The environment variables by which other processes say things in the same way."""
    values = {"QUIET": output.is_quiet, "JSON_LOGS": output.is_json}
    return {f"{_PREFIX}{name}": "true" for name, value in values.items() if value}


def as_variables_of_runs(output: Output) -> dict[str, str]:
    """The same for processes of Prefect's, which begin to log before a flow of ours does."""
    console = f"{JsonConsole.__module__}.{JsonConsole.__qualname__}" if output.is_json else ""
    of_prefect = {"CLASS": console, "LEVEL": "WARNING" if output.is_quiet else ""}
    return as_variables(output) | {
        f"PREFECT_LOGGING_HANDLERS_CONSOLE_{name}": value for name, value in of_prefect.items() if value
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, bool]:
    names = {f"{_PREFIX}{name.upper()}" for name in _OPTIONS.values()}
    if not any(name.upper() in names for name in environ):  # the usual case takes no time
        return {}
    from tasks.declaration import load_as
    from tasks.settings import CommandSettings

    settings = load_as(CommandSettings)
    return {"quiet": settings.quiet, "json_logs": settings.json_logs}
