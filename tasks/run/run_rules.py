"""What a run begins with, by its settings and its manifest's directories: rules, and what is odd."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from tasks.core.file_times import AHEAD_NS
from tasks.core.plan import Rules
from tasks.core.words import counted
from tasks.settings import Settings
from tasks.source.listed_directories import ListedDirectories, own_directories
from tasks.source.scan import Ownership

_MAX_PROBLEMS: Final = 20


def listed_directories(settings: Settings) -> ListedDirectories:
    """Which directories a run lists, to be looked at once more in the end; not its own."""
    ledger_at = settings.ledger_at
    own = [settings.report_dir, *([ledger_at.parent] if isinstance(ledger_at, Path) else [])]
    return ListedDirectories(settings.report_dir, own_directories(*own))


def problems_of(ownership: Ownership) -> list[str]:
    """What is odd about a manifest's directories, for the summary."""
    overlaps = ownership.overlaps
    problems = [
        f"study {study_no} lies in or around study {earlier}: each file is reported once"
        for study_no, earlier in list(overlaps.items())[:_MAX_PROBLEMS]
    ]
    if len(overlaps) > _MAX_PROBLEMS:
        problems.append(f"and {counted(len(overlaps) - _MAX_PROBLEMS, 'more overlap')}: see studies.csv")
    return problems


def rules_of(settings: Settings, now_ns: int) -> Rules:
    """Which files a run that begins now leaves alone."""
    rules = Rules(settings.rehash, trust_ctime=settings.trust_ctime)
    if not settings.min_age:
        return rules
    before_ns, until_ns = now_ns - int(settings.min_age * 1e9), now_ns + AHEAD_NS
    return replace(rules, changed_before_ns=before_ns, changed_until_ns=until_ns)
