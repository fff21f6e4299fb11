"""Commands by which a person works off what a run left."""

from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from flows.cli.options import ResolveOptions, RetryOptions
from flows.cli.run_messages import say_summary
from tasks.declaration import load_as
from tasks.process_memory import keep_imports
from tasks.settings import ResolveSettings, Settings, load

_NO_WORDS: Final[tuple[str, ...]] = ()
_FLAG: Final[dict[str, Any]] = {"negative": "", "show_default": False}

_Statuses = Annotated[
    tuple[str, ...],
    Parameter(
        negative="", show_default=False, help="Rows of these statuses; repeatable, or comma-separated."
    ),
]
_Reasons = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        show_default=False,
        help="Of them those with these reasons; repeatable, or comma-separated.",
    ),
]
_Decision = Annotated[
    str, Parameter(help="Decide so about all of them: upload, keep, ignore, withdraw.", show_default=False)
]
_ReasonText = Annotated[
    str, Parameter(help="Why, in your words: for the audit trail and the report.", show_default=False)
]
_List = Annotated[
    Path | None, Parameter(help="Decide as this list says, which `resolve` wrote and you have filled in.")
]
_AsCsv = Annotated[bool, Parameter(help="Write the list as CSV, and ask nothing.", **_FLAG)]
_AsJson = Annotated[bool, Parameter(help="Write it as JSON, an object a line.", **_FLAG)]
_Compare = Annotated[
    bool, Parameter(help="Say what differs in a conflict, by a look at both files.", show_default=False)
]
_Values = Annotated[bool, Parameter(help="With the values of both files: they may name a patient.", **_FLAG)]


def retry(
    report_dir: Path | None = None,
    /,
    *,
    status: _Statuses = _NO_WORDS,
    reason: _Reasons = _NO_WORDS,
    options: RetryOptions = RetryOptions(),
) -> int:
    """Send again what the last run into a report directory left, by the ledger: no manifest is needed.

    It is a run of its own, with a whole report: what is not chosen is in it as the last run left it. Without
    --status and --reason all is chosen that is a reason for exit code 1, but for rows that are accepted.

    Parameters
    ----------
    report_dir
        The report directory of a run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from flows.orchestration.progress_display import display_progress
    from tasks.core.selection import Selection
    from tasks.run import retry_run
    from tasks.run.early_end import safe_errors

    keep_imports()
    with safe_errors():
        settings = load(report_dir=report_dir, **options.given(Settings))
        selection = Selection(frozenset(words(status)), frozenset(words(reason)))
        summary = retry_run.retry(settings, selection, display_progress)
    say_summary(summary, settings.report_dir)
    return summary.exit_code


def resolve(
    report_dir: Path | None = None,
    /,
    *,
    status: _Statuses = _NO_WORDS,
    reason: _Reasons = _NO_WORDS,
    decision: _Decision = "",
    reason_text: _ReasonText = "",
    decisions: _List = None,
    csv: _AsCsv = False,
    json: _AsJson = False,
    compare: _Compare = True,
    values: _Values = False,
    options: ResolveOptions = ResolveOptions(),
) -> int:
    """Decide about conflicts, and other rows of a report that a person may accept.

    At a terminal it shows one after another, with what differs, and asks. Otherwise it writes them as a list
    with a column `decision`, to be filled in and given back with --decisions; or --decision settles all that
    --status and --reason name. DICOM_INGEST_USER_ID says who decides.

    upload: the file is sent beside what is stored under its UID, by the next `retry` or `run`. keep: what is
    stored stays. ignore: the row is accepted as it is. withdraw: what was decided holds no more. Rows that
    are accepted keep status and reason, and are no reason for exit code 1 as long as row and file stay as
    they are.

    Parameters
    ----------
    report_dir
        The report directory of a run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from flows.cli import resolving
    from tasks.run.early_end import safe_errors

    with safe_errors():
        settings = load_as(ResolveSettings, report_dir=report_dir, **options.given(ResolveSettings))
        chosen = resolving.Filter(frozenset(words(status)), frozenset(words(reason)))
        look = resolving.Look(compare=compare, with_values=values)
        if decisions is not None:
            return resolving.resolve_by_list(settings, decisions, reason_text, (decision, *status, *reason))
        if decision:
            return resolving.resolve_by_rule(settings, decision, reason_text, chosen)
        if csv or json or not resolving.is_asked_at_terminal():
            return resolving.write_list(settings, chosen, look, as_json=json)
        return resolving.ask(settings, chosen, look)


def words(given: tuple[str, ...]) -> list[str]:
    """Those of an option that may be repeated, and may have several with commas between."""
    return [word.strip() for each in given for word in each.split(",") if word.strip()]
