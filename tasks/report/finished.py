"""Whether a manifest is still to be run: for schedules over a folder of manifests."""

from pathlib import Path

from tasks.core.errors import IngestError
from tasks.core.models import Target
from tasks.ledger.ended_runs import ended_into, study_dirs
from tasks.report.reader import read_summary
from tasks.source.manifest_reader import load_manifest


def is_finished(
    manifest: Path, report_dir: Path, ledger_at: str | Path, campaign: str, target: Target, root: str
) -> bool:
    """Whether the report in this directory, with exit code 0, is of these very bytes, and the ledger agrees.

    By digest, for clocks go wrong and a file that is moved keeps its time; and by the directories that the
    rows mean, for relative ones are others in another folder. The report has to be of this campaign, root and
    platform (`target`); and the ledger has to know its run as the last into this directory, and as ended: one
    that was deleted, replaced or set back does not know what is stored.
    """
    try:
        summary = read_summary(report_dir)
        if summary.exit_code != 0 or (summary.campaign, summary.root) != (campaign, target.root):
            return False
        entries = load_manifest(manifest, Path(root) if root else None)
        return (
            entries.sha256 == summary.manifest_sha256
            and ended_into(ledger_at, campaign, report_dir, target.api_host) == summary.run_id
            and [entry.study_dir for entry in entries] == study_dirs(ledger_at, summary.run_id)
        )
    except (OSError, IngestError):
        return False
