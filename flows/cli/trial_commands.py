"""Commands to try it out: an embedded platform, alone or with samples to send to it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import CommandOptions, SandboxOptions


def demo(
    *,
    directory: Annotated[Path, Parameter(help="Where everything of the demo is put.")] = Path("demo"),
    slices: Annotated[int, Parameter(help="Slices of the generated CT study.")] = 300,
    options: CommandOptions = CommandOptions(),
) -> int:
    """Upload sample studies to an embedded platform, and check the report against what was planted."""
    del options  # flows/cli/__main__.py looks at --debug
    from deployments.sandbox.demo import run_demo

    return run_demo(directory, slices)


def sandbox(*, options: SandboxOptions = SandboxOptions()) -> int:
    """Run an embedded platform until Ctrl-C: upload API, OAuth2, S3 endpoint. Says how to point at it."""
    from deployments.sandbox.sandbox import serve
    from tasks.declaration import load_as
    from tasks.settings import SandboxSettings

    settings = load_as(SandboxSettings, **options.given())
    serve(settings.data_dir, settings.port)
    return 0
