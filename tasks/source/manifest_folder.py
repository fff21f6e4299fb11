"""Which manifests lie in a folder, and which of them are still to be run: for schedules."""

import glob
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Final

from tasks.core.errors import IngestError, UsageError
from tasks.report.reader import read_summary
from tasks.source.manifest_reader import READERS

_PATTERN: Final = frozenset("*?[")


def manifests_at(place: str) -> list[Path] | None:
    """The manifests of a folder, or that a glob pattern finds, by name; None when the place is one file.

    Raises UsageError when some have one name: each has a report directory named after it.
    """
    path = Path(place)
    if path.is_dir():
        found = list(path.iterdir())
    elif _PATTERN & set(place) and not path.exists():
        found = [Path(name) for name in glob.glob(place, recursive=True)]  # noqa: PTH207 - also absolute ones
    else:
        return None
    manifests = sorted(each for each in found if each.suffix.lower() in READERS and each.is_file())
    if shared := sum(count for count in Counter(each.name for each in manifests).values() if count > 1):
        raise UsageError(
            f"{shared} of these manifests have the name of another: their reports would share a directory. "
            "Nothing was sent. Rename them, or run one folder at a time."
        )
    return manifests


def is_finished(manifest: Path, report_dir: Path) -> bool:
    """Whether a run into this directory ended with exit code 0 and began after the manifest last changed."""
    try:
        summary, stat = read_summary(report_dir), manifest.stat()
    except (OSError, IngestError):
        return False
    began_s = datetime.fromisoformat(summary.started_at).timestamp()
    changed_s = max(stat.st_mtime, stat.st_ctime)  # a file moved here keeps its mtime
    return summary.exit_code == 0 and changed_s < began_s
