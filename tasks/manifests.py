"""Which manifests lie in a folder, and which of them are still to be run: for schedules."""

import glob
from pathlib import Path
from typing import Final

from tasks.core.errors import IngestError
from tasks.report import SUMMARY_JSON, read_summary

_SUFFIXES: Final = frozenset({".csv", ".jsonl", ".parquet"})
_PATTERN: Final = frozenset("*?[")


def manifests_at(place: str) -> list[Path] | None:
    """The manifests of a folder, or that a glob pattern finds, by name; None when the place is one file."""
    path = Path(place)
    if path.is_dir():
        found = list(path.iterdir())
    elif _PATTERN & set(place) and not path.exists():
        found = [Path(name) for name in glob.glob(place, recursive=True)]  # noqa: PTH207 - also absolute ones
    else:
        return None
    return sorted(each for each in found if each.suffix.lower() in _SUFFIXES and each.is_file())


def is_finished(manifest: Path, report_dir: Path) -> bool:
    """Whether a run of it into this directory has ended with exit code 0 since the manifest last changed."""
    try:
        ended_ns = (report_dir / SUMMARY_JSON).stat().st_mtime_ns
        return ended_ns >= manifest.stat().st_mtime_ns and read_summary(report_dir).exit_code == 0
    except (OSError, IngestError):
        return False
