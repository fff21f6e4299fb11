"""Commands by which a person works off what a run left."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from flows.cli.options import ResolveOptions, RetryOptions
from flows.cli.run_messages import say_summary
from flows.orchestration.standard_streams import say
from tasks.core.words import counted
from tasks.declaration import load_as
from tasks.process_memory import keep_imports
from tasks.settings import ResolveSettings, Settings, load

_Words = Annotated[tuple[str, ...], Parameter(negative="")]
_NO_WORDS: Final[tuple[str, ...]] = ()


def retry(
    report_dir: Path | None = None,
    /,
    *,
    status: Annotated[
        _Words, Parameter(help="Rows of these statuses; repeatable, or comma-separated.")
    ] = _NO_WORDS,
    reason: Annotated[
        _Words, Parameter(help="Of them those with these reasons; repeatable, or comma-separated.")
    ] = _NO_WORDS,
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
    status: Annotated[
        _Words, Parameter(help="Rows of these statuses; repeatable, or comma-separated.")
    ] = _NO_WORDS,
    reason: Annotated[
        _Words, Parameter(help="Of them those with these reasons; repeatable, or comma-separated.")
    ] = _NO_WORDS,
    decision: Annotated[
        str,
        Parameter(help="Decide so about all of them: upload, keep, ignore, withdraw.", show_default=False),
    ] = "",
    reason_text: Annotated[
        str,
        Parameter(help="Why, in your words: for the audit trail and the report.", show_default=False),
    ] = "",
    options: ResolveOptions = ResolveOptions(),
) -> int:
    """Decide about conflicts, and other rows of a report that a person may accept.

    upload: the file is sent beside what is stored under its UID, by the next `retry` or `run`. keep: what is
    stored stays. ignore: the row is accepted as it is. withdraw: what was decided holds no more. Rows that
    are accepted keep status and reason, and are no reason for exit code 1 as long as row and file stay as
    they are. DICOM_INGEST_USER_ID says who decides.

    Parameters
    ----------
    report_dir
        The report directory of a run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from tasks.run.early_end import safe_errors

    with safe_errors():
        settings = load_as(ResolveSettings, report_dir=report_dir, **options.given(ResolveSettings))
        return _resolve_by_rule(settings, decision, reason_text, words(status), words(reason))


def words(given: tuple[str, ...]) -> list[str]:
    """Those of an option that may be repeated, and may have several with commas between."""
    return [word.strip() for each in given for word in each.split(",") if word.strip()]


def _resolve_by_rule(
    settings: ResolveSettings, decision: str, reason_text: str, statuses: list[str], reasons: list[str]
) -> int:
    from tasks.run import resolution

    rule = resolution.Rule(
        resolution.decision_of(decision), resolution.require_reason(reason_text), statuses, reasons
    )
    resolved = resolution.resolve(settings, rule.decisions)
    say(f"Decided: {counted(resolved.decided.total(), 'row')}")
    for why, count in sorted(rule.left.items()):
        say(f"Left as it was: {counted(count, 'row')} that {why}")
    say_summary(resolved.summary, settings.report_dir)
    return resolved.summary.exit_code
