"""ingest: new objects of a bucket, registered over DICOMweb, as a Prefect flow.

Prefect carries batches, never single objects. No key, no UID and no secret is a parameter, a result, a
state's message or a log line.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.arrivals import announcing
from flows.orchestration.artifacts import publish_text
from flows.orchestration.batches import map_batches
from flows.orchestration.events import emit_registered, emit_stopped
from flows.orchestration.lifecycle import failed, final_state, under_way
from flows.orchestration.parameters import (
    Bucket,
    DicomwebServerName,
    DicomwebUrl,
    RegistrationForm,
    RegistrationOptions,
    ReportDirectory,
)
from flows.orchestration.registration_display import counts, in_words, markdown, why_failed
from flows.orchestration.run_control import requested_end
from flows.orchestration.run_names import is_made_up
from tasks.core.errors import CredentialsRefusedError, InterruptedRunError, NotAllStoredError
from tasks.core.registration_rows import RegistrationSummary
from tasks.ingest_settings import IngestSettings, load_ingest
from tasks.process_memory import forbid_memory_dumps
from tasks.run.early_end import early_end, safe_errors
from tasks.run.ingest_bounds import load_bounded_ingest
from tasks.run.registration import Registration
from tasks.run.windows import BATCHES_IN_FLIGHT

_DEFAULTS: Final = RegistrationOptions()


def run_name() -> str:
    """The name that a person typed, or else the time."""
    if flow_run.name and not is_made_up(flow_run.name):
        return str(flow_run.name)
    return f"ingest {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="ingest",
    flow_run_name=run_name,
    description="Registers new objects of a bucket over DICOMweb, and writes what became of each.",
    task_runner=ThreadPoolTaskRunner(max_workers=BATCHES_IN_FLIGHT),  # type: ignore[arg-type]
    persist_result=False,
)
def ingest(
    bucket: Bucket = "",
    dicomweb_url: DicomwebUrl = "",
    dicomweb_server: DicomwebServerName = "",
    report_dir: ReportDirectory = "",
    options: RegistrationForm = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Registers new objects of a bucket over DICOMweb, and writes what became of each.

    Args:
        bucket: s3://BUCKET or s3://BUCKET/PREFIX; empty: the setting DICOM_INGEST_BUCKET of the worker.
        dicomweb_url: The registry; empty: the setting DICOM_INGEST_DICOMWEB_URL of the worker.
        dicomweb_server: Whose ways the registry has. Empty: the worker's setting, or generic.
        report_dir: Where registration.csv is written; empty: DICOM_INGEST_REPORT_DIR, or ./report.
        options: How the run behaves. Empty: the settings of the worker, or the default.
    """

    def run() -> State[dict[str, Any]]:
        given = {"bucket": bucket, "dicomweb_url": dicomweb_url, "dicomweb_server": dicomweb_server}
        settings = _settings(given | {"report_dir": report_dir}, options)
        registration = _begin(settings)
        with (
            under_way("ingest", registration) as may_begin,
            announcing(registration.studies, settings.campaign),
        ):
            with early_end(registration) as end, registration.draining():
                batches = registration.plan()
                map_batches(ingest_batch, registration, batches, may_begin)
            facts = registration.reconcile(end.why)
            summary = registration.report(facts)
        return _publish_end(summary, settings.report_dir)

    return final_state(run)


@task(
    name="ingest-batch",
    task_run_name="batch {batch_no}",
    persist_result=False,
    cache_policy=NO_CACHE,  # a batch that ran is not a batch whose objects are registered: the ledger decides
)
def ingest_batch(batch_no: int, registration: Registration) -> State[None] | None:
    """Registers what is left of one batch. That a person ends the run is no failure of it."""
    try:
        with safe_errors():
            registration.register(batch_no)
    except InterruptedRunError:
        return Completed(
            name="Interrupted", message="The run was ended. The next one registers what is left."
        )
    return None


def _settings(given: dict[str, str], options: RegistrationOptions) -> IngestSettings:
    """A flow's parameters, and for what they leave open the worker's settings, which bound a deployment's."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker has started this process, for this run alone
        forbid_memory_dumps()
    parameters = {name: value for name, value in given.items() if value}
    parameters |= options.model_dump(exclude_unset=True)
    is_deployed = deployment.id or flow_run.parent_deployment_id
    return load_bounded_ingest(parameters) if is_deployed else load_ingest(**parameters)


def _begin(settings: IngestSettings) -> Registration:
    """Credentials that are refused are an event: a schedule would find them refused again."""
    try:
        return Registration(settings)
    except CredentialsRefusedError as error:
        emit_stopped("ingest", settings.campaign, {"exit_code": error.exit_code})
        raise


def _publish_end(summary: RegistrationSummary, report_dir: Path) -> State[dict[str, Any]]:
    """Publishes a run's end; the flow's final state. Raises Pause when it was suspended."""
    publish_text(
        markdown(summary, report_dir), "ingest-summary", "What became of the objects, and where it is."
    )
    emit_registered(summary.campaign, summary.exit_code, counts(summary))
    if summary.exit_code == 0:
        return Completed(message=in_words(summary), data=counts(summary))
    error = NotAllStoredError(f"Not everything is registered: {why_failed(summary)}", counts(summary))
    requested = requested_end(error) if summary.exit_code == InterruptedRunError.exit_code else None
    return requested or failed(error)
