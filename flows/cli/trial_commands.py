"""Commands to try it out: an embedded platform, alone or with samples to send to it."""

from flows.cli.options import DemoOptions, SandboxOptions
from flows.orchestration.standard_streams import Kind, current_output, say
from tasks.declaration import load_as
from tasks.sandbox_settings import SandboxSettings
from tasks.settings import DemoSettings


def demo(*, options: DemoOptions = DemoOptions()) -> int:
    """Upload sample studies to an embedded platform, and check the report against what was planted."""
    from deployments.sandbox.demo import run_demo
    from flows.orchestration.output_settings import as_variables

    settings = load_as(DemoSettings, **options.given(DemoSettings))
    return run_demo(settings.directory, settings.slices, _say_of_demo, as_variables(current_output()))


def _say_of_demo(sentence: str, *, is_news: bool = True) -> None:
    """To standard output, in the order of what its commands say; as JSON to standard error, as they do."""
    from deployments.sandbox.demo import print_line

    output = current_output()
    if output.is_json:
        say(sentence.strip(), Kind.NEWS if is_news else Kind.RESULT)
    elif not (is_news and output.is_quiet):
        print_line(sentence)


def sandbox(*, options: SandboxOptions = SandboxOptions()) -> int:
    """Run an embedded platform until Ctrl-C: upload API, OAuth2, S3, DICOMweb. Says how to point at it."""
    from deployments.sandbox.sandbox import serve

    settings = load_as(SandboxSettings, **options.given(SandboxSettings))
    serve(settings.data_dir, settings.port, settings)
    return 0
