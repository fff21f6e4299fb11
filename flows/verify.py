"""verify: a report held against bucket and registry, as a Prefect flow; after a backfill when asked for.

Parameters are references, results counts. Nothing that names a patient, and no secret, is a parameter, a
result, a state's message or a log line.
"""

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from pydantic import Field

from flows.orchestration.artifacts import publish_comparison, publish_text
from flows.orchestration.events import emit_verified
from flows.orchestration.lifecycle import failed, final_state
from flows.orchestration.parameters import Bucket, DicomwebServerName, DicomwebUrl, ReportDirectory
from flows.orchestration.run_names import is_made_up
from flows.orchestration.verification_display import counts, display_verification, in_words, markdown
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.errors import NotAllStoredError
from tasks.core.verification_totals import Verification
from tasks.declaration import load_as
from tasks.process_memory import forbid_memory_dumps
from tasks.run import verification
from tasks.run.verify_bounds import load_bounded_verification
from tasks.settings import Settings
from tasks.verify_settings import DEEP, VerifySettings


def run_name() -> str:
    """The name that a person typed, or else the time."""
    if flow_run.name and not is_made_up(flow_run.name):
        return str(flow_run.name)
    return f"verify {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def _titled(title: str, **schema: Any) -> Any:
    return Field(json_schema_extra={"title": title} | schema)


@flow(
    name="verify",
    flow_run_name=run_name,
    description="Holds a report against bucket and registry, and says what may be deleted.",
    persist_result=False,
)
def verify(
    report_dir: ReportDirectory = "",
    dicomweb_url: DicomwebUrl = "",
    dicomweb_server: DicomwebServerName = "",
    bucket: Bucket = "",
    deep: Annotated[str, _titled("Deep", pattern=DEEP)] = "",
    seed: Annotated[int | None, _titled("Seed")] = None,
) -> State[dict[str, Any]]:
    """Holds a report against bucket and registry, and says what may be deleted.

    Args:
        report_dir: The report directory of a run; empty: the setting DICOM_INGEST_REPORT_DIR, or ./report.
        dicomweb_url: The registry; empty: the setting DICOM_INGEST_DICOMWEB_URL of the worker.
        dicomweb_server: Whose ways the registry has. Empty: the worker's setting, or generic.
        bucket: s3://BUCKET or s3://BUCKET/PREFIX; empty: the setting DICOM_INGEST_BUCKET of the worker.
        deep: Retrieve so many instances, N or N%, from the registry, and compare them with their files.
        seed: Which ones deep takes. Empty: a new one.
    """
    given = {"report_dir": report_dir, "dicomweb_url": dicomweb_url, "bucket": bucket, "deep": deep}
    given["dicomweb_server"] = dicomweb_server
    parameters = {name: value for name, value in given.items() if value} | (
        {} if seed is None else {"seed": seed}
    )

    def run() -> State[dict[str, Any]]:
        if "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker has started this process, for this run alone
            forbid_memory_dumps()
        is_deployed = deployment.id or flow_run.parent_deployment_id
        load = load_bounded_verification if is_deployed else _load
        return verified(load(parameters))

    return final_state(run)


def verified(settings: VerifySettings, begun: int = 0) -> State[dict[str, Any]]:
    """Verifies a report within a flow run; the state that it ends with. `begun`: files that this has sent."""
    progress = ComparisonProgress()
    with ExitStack() as beside:
        beside.enter_context(display_verification(progress))
        beside.enter_context(publish_comparison("verify", progress))
        found = verification.verify(settings, progress)
    publish_text(markdown(found, settings.report_dir), "verify-summary", "What was found, and where it is.")
    emit_verified(found.campaign, found.exit_code, counts(found))
    return end_of(found, begun)


def end_of(found: Verification, begun: int = 0) -> State[dict[str, Any]]:
    """Completed where everything is confirmed; else Failed, with counts."""
    if found.exit_code == 0:
        return Completed(message=in_words(found), data=counts(found) | {"begun": begun})
    message = f"Not everything is confirmed: {in_words(found)}, see verification.csv"
    return failed(NotAllStoredError(message, counts(found) | {"begun": begun}))


def _load(parameters: dict[str, Any]) -> VerifySettings:
    return load_as(VerifySettings, **parameters)


def settings_afterwards(settings: Settings) -> VerifySettings:
    """Of the report of a run by these settings; bucket and registry are the worker's. Raises UsageError."""
    return load_as(
        VerifySettings, report_dir=settings.report_dir, ledger=settings.ledger, campaign=settings.campaign
    )


def verified_afterwards(ended: State[dict[str, Any]], settings: VerifySettings) -> State[dict[str, Any]]:
    """Verifies the report of a run that came to its end; the state of the run, unless this one is worse.

    One that is to be continued is verified at its end.
    """
    result = ended.result(raise_on_failure=False)
    is_whole = isinstance(result, dict) or getattr(result, "counts", {}).get("exit_code") == 1
    if not is_whole or (isinstance(result, dict) and "ended_by" in result):  # that is to be continued
        return ended
    state = verified(settings, result["begun"] if isinstance(result, dict) else 0)
    return ended if ended.is_failed() else state
