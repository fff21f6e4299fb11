"""How the runs of a ledger stand: read from the ledger alone, while they are at work or after it."""

from collections.abc import Mapping
from typing import Any, Final

from tasks.core.run_standings import CampaignStanding, LedgerStanding, RunStanding
from tasks.ledger.standings import read_standings
from tasks.report.tables import iso
from tasks.status_settings import StatusSettings

AT_WORK_CODE: Final = 5  # the exit code while a run is
_COUNTERS: Final = ("files_stored", "files_failed", "files_held_back", "bytes_stored")


def read_status(
    settings: StatusSettings, campaign: str | None = None, most_runs: int | None = None
) -> LedgerStanding:
    """Of one campaign or all; of each the newest runs and those at work. UsageError without a ledger."""
    return read_standings(settings.ledger_at, settings.dead_after, campaign, most_runs)


def exit_code(standing: LedgerStanding) -> int:
    """Whether anybody is at work."""
    return AT_WORK_CODE if standing.is_at_work else 0


def document(standing: LedgerStanding) -> Mapping[str, Any]:
    """What `--json` prints: no path, no UID, null where something is not known."""
    return {
        "seen_at": iso(standing.seen_ns),
        "at_work": standing.is_at_work,
        "campaigns": [_campaign(each) for each in standing.campaigns],
    }


def _campaign(campaign: CampaignStanding) -> Mapping[str, Any]:
    return {
        "campaign": campaign.campaign,
        "at_work": campaign.is_at_work,
        "runs": [
            _run(each) | {"kind": each.kind, "shards": [_run(shard) for shard in each.shards]}
            for each in campaign.runs
        ],
        "earlier_runs": campaign.earlier_runs,
    }


def _run(run: RunStanding) -> dict[str, Any]:
    counters = {name: run.counters.get(name, 0) if run.has_figures else None for name in _COUNTERS}
    return {
        "run_id": run.run_id,
        "state": run.state,
        "at_work": run.is_at_work,
        "stopped_exit_code": run.stopped_exit_code,
        "started_at": iso(run.started_ns) if run.started_ns else None,
        "last_alive_at": iso(run.last_alive_ns) if run.last_alive_ns else None,
        "studies": run.studies,
        "studies_scanned": run.studies_scanned,
        "files_listed": run.counters.get("files_listed"),
        "files_done": run.counters.get("files_done", 0) if run.has_figures else None,
        "files_left": run.files_left,
        **counters,
        "files_per_s": run.rate("files_stored"),
        "bytes_per_s": run.rate("bytes_stored"),
        "time_left_s": run.time_left_s,
    }
