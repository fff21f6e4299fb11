"""Commands that prove what a run has done: the report, written again or checked against its audit trail."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Group, Parameter

from flows.cli.options import CommandOptions, LedgerOptions
from flows.cli.run_messages import say_summary
from flows.orchestration.standard_streams import list_out, say
from tasks.core.errors import UsageError
from tasks.core.words import counted
from tasks.declaration import load_as
from tasks.settings import LedgerSettings, ReportDirectorySettings, ReportSettings

if TYPE_CHECKING:
    from tasks.audit.findings import Findings

_PARTS: Final = Group("Parts of a report")


def _only(what: str) -> Parameter:
    return Parameter(
        help=f"Rows of this {what} alone; repeatable.", negative="", show_default=False, group=_PARTS
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which rows of a report, and where they go."""

    study: Annotated[tuple[int, ...], _only("study_no")] = ()
    status: Annotated[tuple[str, ...], _only("status")] = ()
    reason: Annotated[tuple[str, ...], _only("reason")] = ()
    json: Annotated[
        bool, Parameter(help="Print JSON Lines, and not CSV.", negative="", show_default=False, group=_PARTS)
    ] = False
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Write to this .csv, .jsonl, .parquet or .xlsx, and print nothing.",
            group=_PARTS,
        ),
    ] = None
    xlsx: Annotated[
        Path | None,
        Parameter(help="Write a workbook: summary, studies and files, UIDs as text.", group=_PARTS),
    ] = None

    @property
    def are_asked_for(self) -> bool:
        """Whether any of them was given."""
        return self != Parts()

    @property
    def file(self) -> Path | None:
        """Where they go; None: to standard output. UsageError for more than one place."""
        if self.json + (self.output is not None) + (self.xlsx is not None) > 1:
            raise UsageError("Of --json, --output and --xlsx only one can be given. Nothing was written.")
        if self.xlsx and self.xlsx.suffix.lower() != ".xlsx":
            raise UsageError("The name of a workbook (--xlsx) ends in .xlsx. Nothing was written.")
        return self.output or self.xlsx


def report(
    report_dir: Path | None = None,
    /,
    *,
    parts: Parts = Parts(),
    options: LedgerOptions = LedgerOptions(),
) -> int:
    """Write the report of a directory's newest run again, from the ledger: after a crash, or a full disk.

    With an option under "Parts of a report" nothing of that: the rows of the report that is there are printed
    or exported, all or those that are asked for, and nothing else is written.

    Parameters
    ----------
    report_dir
        The report directory of the run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from tasks.run.early_end import safe_errors
    from tasks.run.records import report_again

    with safe_errors():
        if parts.are_asked_for:
            _show(parts, load_as(ReportDirectorySettings, report_dir=report_dir).report_dir)
            return 0
        settings = load_as(ReportSettings, report_dir=report_dir, **options.given(LedgerSettings))
        summary = report_again(
            settings.report_dir, settings.ledger_at, settings.campaign, settings.signing_key
        )
    say_summary(summary, settings.report_dir)
    return summary.exit_code


def _show(parts: Parts, report_dir: Path) -> None:
    from tasks.report.export import Selection, csv_lines, export, json_lines, selected

    selection = Selection(parts.study, parts.status, parts.reason)
    if out := parts.file:
        say(f"{counted(export(report_dir, selection, out), 'row')} written.")
    else:
        list_out((json_lines if parts.json else csv_lines)(selected(report_dir, selection)))


def audit(
    report_dir: Path | None = None,
    /,
    *,
    public_key: Annotated[
        Path | None, Parameter(help="Check the certificate's signature with this Ed25519 key in PEM.")
    ] = None,
    ledger: Annotated[
        str | None, Parameter(help="The ledger, when it is not in the report directory: as of `report`.")
    ] = None,
    options: CommandOptions = CommandOptions(),
) -> int:
    """Check a report directory's audit trail: its chain, its certificates, that it agrees with the report.

    Exit code 0: all is as it was written, but for what it says that it did not check. 1: not, and where.

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
        directory = load_as(ReportDirectorySettings, report_dir=report_dir).report_dir
        given = {"ledger": ledger} if ledger else {}
        named = load_as(LedgerSettings, campaign=LedgerSettings.campaign, **given).ledger
        ledger_at = named if "://" in named else Path(named) if named else None
        found = check.audit(directory, key, ledger_at)
    _say_findings(found)
    return 1 if found.faults else 0


def _say_findings(found: "Findings") -> None:
    for fault in found.faults:
        say(fault)
    if found.more_faults:
        say(f"and {found.more_faults:,} more")
    events = ", ".join(f"{count:,} {event}" for event, count in sorted(found.events.items()))
    say(f"{counted(found.lines, 'line')}: {events or 'none'}")
    if found.elsewhere:
        count = counted(found.elsewhere, "file")
        where = (
            f"{found.unseen:,} of them by runs whose trails could not be seen"
            if found.unseen
            else "their trails were looked at"
        )
        say(f"{count} stored by runs into other report directories: {where}.")
    for sentence in found.unchecked:
        say(f"Not checked: {sentence}")
    rest = ", as far as it was checked" if found.unchecked else ""
    say(
        "The trail does not hold."
        if found.faults
        else f"The trail is whole and agrees with the report{rest}."
    )
