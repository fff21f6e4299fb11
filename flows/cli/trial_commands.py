"""Commands to try it out: an embedded platform, alone or with samples to send to it."""

from flows.cli.options import DemoOptions, SandboxOptions
from tasks.declaration import load_as
from tasks.sandbox_settings import SandboxSettings
from tasks.settings import DemoSettings


def demo(*, options: DemoOptions = DemoOptions()) -> int:
    """Upload sample studies to an embedded platform, and check the report against what was planted."""
    from deployments.sandbox.demo import run_demo

    settings = load_as(DemoSettings, **options.given(DemoSettings))
    return run_demo(settings.directory, settings.slices)


def sandbox(*, options: SandboxOptions = SandboxOptions()) -> int:
    """Run an embedded platform until Ctrl-C: upload API, OAuth2, S3, DICOMweb. Says how to point at it."""
    from deployments.sandbox.sandbox import serve

    settings = load_as(SandboxSettings, **options.given(SandboxSettings))
    serve(settings.data_dir, settings.port, settings)
    return 0
