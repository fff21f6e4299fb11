"""dicom-ingest and its commands. Each imports what it needs when it is called: `upload` starts fast."""

from cyclopts import App

from flows.cli import (
    exception_commands,
    move_commands,
    pipeline_commands,
    plan_command,
    report_commands,
    status_command,
    trial_commands,
    verify_command,
)
from flows.cli.completion_commands import add_completion
from flows.cli.examples import EXAMPLES, examples_of
from flows.cli.help import EXIT_CODES_HELP, PLAN_HELP, SETTINGS_HELP, STATUS_HELP, VERIFY_HELP


def _version() -> str:
    from importlib.metadata import version

    return version("dicom-ingest")


app = App(
    name="dicom-ingest",
    version=_version,
    help_epilogue=f"{SETTINGS_HELP}\n\n{EXIT_CODES_HELP}",  # of commands that take settings and secrets
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # what to do then, flows/cli/__main__.py says
)

app.command(trial_commands.demo, help_epilogue="")
app.command(trial_commands.sandbox, help_epilogue="")

app.command(move_commands.manifest, help_epilogue="")
app.command(plan_command.plan, help_epilogue=PLAN_HELP)
app.command(move_commands.upload)
app.command(move_commands.run)
app.command(move_commands.migrate)
app.command(move_commands.serve, help_epilogue=SETTINGS_HELP)

app.command(pipeline_commands.ingest)

app.command(status_command.status, help_epilogue=STATUS_HELP)
app.command(exception_commands.retry)
app.command(exception_commands.resolve, help_epilogue=EXIT_CODES_HELP)

app.command(verify_command.verify, help_epilogue=VERIFY_HELP)
app.command(report_commands.report, help_epilogue=EXIT_CODES_HELP)
app.command(report_commands.audit, help_epilogue="")

add_completion(app)


def _add_examples() -> None:
    """Below each command's options, before what else its help says."""
    for name in EXAMPLES:
        if name in app:
            command, own = app[name], app[name].help_epilogue
            rest = app.help_epilogue if own is None else own
            command.help_epilogue = "\n\n".join(filter(None, (examples_of(name), rest)))


_add_examples()
