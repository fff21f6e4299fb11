"""backfill: from a manifest, or a folder of them, to reconciliation reports, as a Prefect flow.

Prefect carries batches, never single files. Nothing that names a patient, and no secret, is a parameter, a
result, a state's message or a log line.
"""

from pathlib import Path
from typing import Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.batches import upload_batches
from flows.orchestration.lifecycle import begin, final_state, publish_end, settings_for, under_way
from flows.orchestration.manifest_runs import run_each
from flows.orchestration.parameters import (
    ApiBlock,
    ApiEndpoint,
    ManifestPath,
    Options,
    OptionsForm,
    ReportDirectory,
    Verify,
)
from flows.orchestration.run_names import prefix_label, run_name
from flows.orchestration.scheduled_runs import end_with_window_when_scheduled
from flows.shards.run_slots import hold_free_slots
from flows.verify import settings_afterwards, verified_afterwards
from tasks.core.words import counted
from tasks.run.early_end import early_end
from tasks.run.engine import Engine
from tasks.run.preflight import read_manifest
from tasks.run.windows import BATCHES_IN_FLIGHT
from tasks.source.manifest_folder import manifests_at

_DEFAULTS: Final = Options()


@flow(
    name="backfill",
    flow_run_name=run_name,
    description="Uploads the studies of a manifest and writes the reconciliation report.",
    task_runner=ThreadPoolTaskRunner(max_workers=BATCHES_IN_FLIGHT),  # type: ignore[arg-type]
    persist_result=False,
)
def backfill(
    manifest: ManifestPath,
    api_endpoint: ApiEndpoint = "",
    report_dir: ReportDirectory = "",
    api: ApiBlock = "",
    options: OptionsForm = _DEFAULTS,
    verify: Verify = False,
) -> State[dict[str, Any]]:
    """Uploads the studies of a manifest and writes the reconciliation report.

    Args:
        manifest: Path of the manifest: CSV, JSON Lines or Parquet, one row per study directory. A folder, or
            a pattern such as /manifests/*.csv: each that is not finished, into a report directory of its own.
        api_endpoint: The upload API; empty: the setting DICOM_INGEST_API_ENDPOINT of the worker.
        api: Name of a block dicom-upload-api: endpoint and credentials; empty: the worker's settings.
        report_dir: Where the report is written; empty: the setting DICOM_INGEST_REPORT_DIR, or ./report.
        options: How the run behaves. Empty: the settings of the worker, or the default.
        verify: Hold the report against the worker's bucket and registry in the end.
    """

    def run() -> State[dict[str, Any]]:
        settings = settings_for(api_endpoint, report_dir, api, options)
        if (manifests := manifests_at(manifest)) is not None:
            target = {"api_endpoint": api_endpoint, "api": api, "verify": verify}
            return run_each(backfill, manifests, settings, options=options, **target)
        afterwards = settings_afterwards(settings) if verify else None
        entries = read_manifest(Path(manifest), settings)
        prefix_label(entries, settings.campaign)
        engine = begin("backfill", settings, lambda: Engine(entries, settings))
        end_with_window_when_scheduled(engine)
        get_run_logger().info("%s in the manifest", counted(len(entries), "study entry"))
        with under_way("backfill", engine) as may_begin:
            with early_end(engine) as end, hold_free_slots(engine), engine.draining():
                found = engine.scan()
                batches = engine.plan(found)
                upload_batches(engine, batches, may_begin)
            facts = engine.reconcile(end.why)
            summary = engine.report(facts)
        ended = publish_end("backfill", summary, settings.report_dir, engine.starts.begun)
        return verified_afterwards(ended, afterwards) if afterwards else ended

    return final_state(run)
