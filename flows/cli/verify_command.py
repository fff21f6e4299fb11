"""The command `verify`: a report held against bucket and registry, at a terminal and without Prefect."""

from pathlib import Path

from flows.cli.options import VerifyOptions
from flows.orchestration.standard_streams import say_lines
from tasks.declaration import load_as
from tasks.process_memory import keep_imports
from tasks.verify_settings import VerifySettings


def verify(report_dir: Path | None = None, /, *, options: VerifyOptions = VerifyOptions()) -> int:
    """Hold a report against bucket and registry: what is confirmed, what is missing, what may be deleted.

    Writes verification.csv, studies.csv anew, and the repairs: repair-manifest.csv for `run`, repair-keys.txt
    for `ingest --keys`.

    Parameters
    ----------
    report_dir
        The report directory of a run; the setting DICOM_INGEST_REPORT_DIR, or ./report.
    """
    from flows.orchestration.verification_display import counts, display_verification, lines
    from tasks.core.comparison_progress import ComparisonProgress
    from tasks.run import verification
    from tasks.run.early_end import safe_errors

    keep_imports()
    progress = ComparisonProgress()
    with safe_errors():
        settings = load_as(VerifySettings, report_dir=report_dir, **options.given(VerifySettings))
        with display_verification(progress):
            found = verification.verify(settings, progress)
    say_lines(lines(found, settings), **counts(found))
    return found.exit_code
