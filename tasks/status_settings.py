"""The settings of `status`: which ledger, and when a silent run counts as killed."""

from dataclasses import dataclass

from tasks.settings import DeadAfter, ReportSettings, RunSettings, UserId


@dataclass(frozen=True, kw_only=True)
class StatusSettings(ReportSettings):
    """Of what looks at a ledger from beside its runs."""

    dead_after: DeadAfter = RunSettings.dead_after
    user_id: UserId = ""  # who sets a bandwidth
