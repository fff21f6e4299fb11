"""The command `status`: how the runs of a ledger stand, looked at from beside them."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from flows.cli.options import StatusOptions
from flows.orchestration.standard_streams import list_out, say
from tasks.core.words import counted, duration
from tasks.declaration import load_as
from tasks.status_settings import StatusSettings

if TYPE_CHECKING:
    from tasks.core.run_standings import CampaignStanding, LedgerStanding, RunStanding

_SHOWN: Final = 10  # runs of a campaign
_HEADER: Final = ("RUN", "STATE", "STARTED (UTC)", "LAST ALIVE", "DONE", "LEFT", "FAILED", "HELD BACK")
_PACE: Final = ("STORED/S", "MIB/S", "TIME LEFT")
_MIB: Final = 1024 * 1024


def status(
    *,
    json: Annotated[
        bool, Parameter(help="One JSON object to standard output.", negative="", show_default=False)
    ] = False,
    every: Annotated[
        bool,
        Parameter(
            name="--all",
            help=f"Every run, and not the newest {_SHOWN} of each campaign alone.",
            negative="",
            show_default=False,
        ),
    ] = False,
    set_bandwidth: Annotated[
        str | None,
        Parameter(
            help="Change the bandwidth of the campaign's runs at work, until they end: what --bandwidth "
            "takes; `default`: what each was started with. Shows nothing; exit code 0.",
        ),
    ] = None,
    options: StatusOptions = StatusOptions(),
) -> int:
    """Show the campaigns, runs and shards of a ledger: how far, how fast, when last alive, what is left.

    Reads the ledger alone, also while runs are at work and from another machine, and makes nothing. With
    --campaign that one, else all. Exit code 5: a run is at work; 0: none is. --set-bandwidth alone writes.
    """
    from tasks.run.early_end import safe_errors
    from tasks.run.status import document, exit_code, read_status

    given = options.given(StatusSettings)
    with safe_errors():
        settings = load_as(StatusSettings, **given)
        if set_bandwidth is not None:
            say(_set_bandwidth(settings, set_bandwidth))
            return 0
        found = read_status(settings, given.get("campaign"), None if every else _SHOWN)
    if json:
        from json import dumps

        list_out([dumps(document(found))])
    else:
        _show(found)
    return exit_code(found)


def _show(found: "LedgerStanding") -> None:
    rows = list(_rows(found))
    list_out(_aligned(rows) if sys.stdout.isatty() else map("\t".join, rows))
    for sentence in _sentences(found):
        say(sentence)


def _set_bandwidth(settings: StatusSettings, text: str) -> str:
    from tasks.run.bandwidth_control import set_bandwidth

    its = settings.ledger_at, settings.campaign
    return set_bandwidth(*its, text, settings.user_id, settings.dead_after)


def _rows(found: "LedgerStanding") -> Iterator[Sequence[str]]:
    """A header, then a row for each run, and below it one for each of its shards."""
    yield ("CAMPAIGN", *_HEADER, *_PACE)
    for campaign in found.campaigns:
        for run in campaign.runs:
            yield (campaign.campaign, run.run_id, *_cells(run, found.seen_ns))
            for shard in run.shards:
                yield (campaign.campaign, f"shard {shard.run_id[-4:]}", *_cells(shard, found.seen_ns))


def _cells(run: "RunStanding", seen_ns: int) -> Iterator[str]:
    from tasks.report.tables import iso

    code = f" ({run.stopped_exit_code})" if run.stopped_exit_code else ""
    yield f"{run.state.in_words}{code}"
    yield iso(run.started_ns)[:19].replace("T", " ") if run.started_ns else "-"
    yield f"{duration(max(0.0, (seen_ns - run.last_alive_ns) / 1e9))} ago" if run.last_alive_ns else "-"
    if not run.has_figures:
        yield from ["-"] * 7
        return
    more = "+" if run.is_scanning else ""
    yield f"{run.counters.get('files_done', 0):,} of {run.counters['files_listed']:,}{more}"
    yield f"{run.files_left:,}{more}"
    yield f"{run.counters.get('files_failed', 0):,}"
    yield f"{run.counters.get('files_held_back', 0):,}"
    files, stored, left = run.rate("files_stored"), run.rate("bytes_stored"), run.time_left_s
    yield "-" if files is None else f"{files:,.1f}"
    yield "-" if stored is None else f"{stored / _MIB:,.1f}"
    yield "-" if left is None else duration(left)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _sentences(found: "LedgerStanding") -> Iterator[str]:
    """What follows from it, for a person."""
    if not found.campaigns:
        yield "The ledger knows no run that was asked for."
    for campaign in found.campaigns:
        yield from _of_campaign(campaign)
    working = sum(run.is_at_work for campaign in found.campaigns for run in campaign.runs)
    yield f"{counted(working, 'run')} at work." if working else "No run is at work."


def _of_campaign(campaign: "CampaignStanding") -> Iterator[str]:
    from tasks.core.run_standings import RunState

    name = f"Campaign {campaign.campaign}"
    if campaign.earlier_runs:
        yield f"{name}: {counted(campaign.earlier_runs, 'earlier run')} more, which --all shows."
    newest = campaign.runs[0] if campaign.runs else None
    if newest is None or newest.is_at_work or newest.state is RunState.ENDED:
        return
    what = {
        RunState.KILLED: "was killed, or its machine sleeps",
        RunState.INTERRUPTED: "was interrupted",
        RunState.STOPPED: "was stopped early",
    }.get(newest.state, "has not begun")
    yield f"{name}: the newest run {what}. The same command goes on from there: nothing stored is sent twice."
