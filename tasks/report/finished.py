"""Whether a manifest is still to be run: for schedules over a folder of manifests."""

import hashlib
from pathlib import Path

from tasks.core.errors import IngestError
from tasks.core.models import Target
from tasks.ledger.earlier_runs import ended_into
from tasks.report.reader import read_summary


def is_finished(
    manifest: Path, report_dir: Path, ledger_at: str | Path, campaign: str, target: Target
) -> bool:
    """Whether the report in this directory, with exit code 0, is of these very bytes, and the ledger agrees.

    By digest, for clocks go wrong and a file that is moved keeps its time. The report has to be of this
    campaign, root and platform (`target`); and the ledger has to know its run as the last into this
    directory, and as ended: one that was deleted, replaced or set back does not know what is stored.
    """
    try:
        summary = read_summary(report_dir)
        with manifest.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        same = (campaign, digest, target.root)
        return (
            summary.exit_code == 0
            and same == (summary.campaign, summary.manifest_sha256, summary.root)
            and ended_into(ledger_at, campaign, report_dir, target.api_host) == summary.run_id
        )
    except (OSError, IngestError):
        return False
