"""Whether a manifest is still to be run: for schedules over a folder of manifests."""

from datetime import datetime
from pathlib import Path

from tasks.core.errors import IngestError
from tasks.report.reader import read_summary


def is_finished(manifest: Path, report_dir: Path) -> bool:
    """Whether a run into this directory ended with exit code 0 and began after the manifest last changed."""
    try:
        summary, stat = read_summary(report_dir), manifest.stat()
    except (OSError, IngestError):
        return False
    began_s = datetime.fromisoformat(summary.started_at).timestamp()
    changed_s = max(stat.st_mtime, stat.st_ctime)  # a file moved here keeps its mtime
    return summary.exit_code == 0 and changed_s < began_s
