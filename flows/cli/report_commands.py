"""Commands that prove what a run has done: the report, written again or checked against its audit trail."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import CommandOptions, LedgerOptions
from flows.cli.run_messages import say_summary
from flows.orchestration.standard_streams import say
from tasks.core.words import counted
from tasks.declaration import load_as
from tasks.settings import LedgerSettings, ReportDirectorySettings, ReportSettings


def report(report_dir: Path | None = None, /, *, options: LedgerOptions = LedgerOptions()) -> int:
    """Write the report of a directory's newest run again, from the ledger: after a crash, or a full disk.

    Parameters
    ----------
    report_dir
        The report directory of the run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from tasks.run.early_end import safe_errors
    from tasks.run.records import report_again

    with safe_errors():
        settings = load_as(ReportSettings, report_dir=report_dir, **options.given(LedgerSettings))
        summary = report_again(
            settings.report_dir, settings.ledger_at, settings.campaign, settings.signing_key
        )
    say_summary(summary, settings.report_dir)
    return summary.exit_code


def audit(
    report_dir: Path | None = None,
    /,
    *,
    public_key: Annotated[
        Path | None, Parameter(help="Check the certificate's signature with this Ed25519 key in PEM.")
    ] = None,
    options: CommandOptions = CommandOptions(),
) -> int:
    """Check a report directory's audit trail: its chain, its certificate, and that it agrees with the report.

    Exit code 0: all is as it was written. 1: it is not, and where.

    Parameters
    ----------
    report_dir
        The report directory of one run or more; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    del options  # flows/cli/__main__.py looks at --debug
    from tasks.audit import certificate, check
    from tasks.run.early_end import safe_errors

    with safe_errors():
        key = certificate.public_key(public_key) if public_key else None
        found = check.audit(load_as(ReportDirectorySettings, report_dir=report_dir).report_dir, key)
    for fault in found.faults:
        say(fault)
    if found.more_faults:
        say(f"and {found.more_faults:,} more")
    events = ", ".join(f"{count:,} {event}" for event, count in sorted(found.events.items()))
    say(f"{counted(found.lines, 'line')}: {events or 'none'}")
    if found.elsewhere:
        count = counted(found.elsewhere, "file")
        say(f"{count} stored by runs into other report directories: see their trails.")
    say("The trail does not hold." if found.faults else "The trail is whole and agrees with the report.")
    return 1 if found.faults else 0
