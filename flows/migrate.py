"""migrate: a manifest cut into shards that many workers move together, and one report of all of them.

    migrate         cuts, starts each shard as a run of the deployment `migrate-shard/worker`, supervises
                    them, and merges what they did
    migrate-shard   one shard, on whichever worker gets it

What is left to do, and who is alive, the ledger says; Prefect brings the work to the workers. A shard whose
process gives no sign of life is marked Crashed and started again. Parameters are counts, names
and directories.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.orchestration.batches import upload_batches
from flows.orchestration.lifecycle import (
    begin,
    final_state,
    publish_end,
    settings_for,
    show_progress,
    under_way,
)
from flows.orchestration.parameters import (
    ApiBlock,
    ApiEndpoint,
    ManifestPath,
    Options,
    OptionsForm,
    ReportDirectory,
    Shards,
)
from flows.orchestration.run_control import obey_requests
from flows.orchestration.run_names import prefix_label, run_name
from flows.orchestration.scheduled_runs import end_with_window_when_scheduled
from flows.shards.run_slots import lease_holder
from flows.shards.slot_lease import hold_fixed_slots, slots_of_platform
from flows.shards.supervisor import Supervisor
from tasks.core.concurrency_limit import shares
from tasks.core.errors import UsageError
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.run.early_end import early_end
from tasks.run.preflight import read_manifest
from tasks.run.shards import Migration, begin_migration, shard_engine
from tasks.run.windows import BATCHES_IN_FLIGHT
from tasks.settings import MigrationSettings, ShardBalance

SHARD_DEPLOYMENT: Final = "migrate-shard/worker"
_DEFAULTS: Final = Options()


@flow(
    name="migrate",
    flow_run_name=run_name,
    description="Cuts a manifest into shards, has many workers upload them, and merges one report.",
    persist_result=False,
)
def migrate(
    manifest: ManifestPath,
    api_endpoint: ApiEndpoint = "",
    report_dir: ReportDirectory = "",
    api: ApiBlock = "",
    shards: Shards = MigrationSettings.shards,
    balance: ShardBalance = MigrationSettings.balance,
    deployment: Annotated[str, Field(json_schema_extra={"title": "Deployment"})] = SHARD_DEPLOYMENT,
    options: OptionsForm = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Cuts a manifest into shards, has many workers upload them, and merges one report.

    Args:
        manifest: Path of the manifest. It and the studies are under the same paths on every worker.
        api_endpoint: The upload API; empty: the setting DICOM_INGEST_API_ENDPOINT of the workers.
        report_dir: Where the merged report is written; each shard's own is in shards/<number> below it.
        api: Name of a block dicom-upload-api: endpoint and credentials; empty: the workers' settings.
        deployment: The deployment that a shard is run by.
        options: How the run behaves. Empty: the settings of the workers, or the default. The ledger is a
            database that all workers reach.
    """

    def run() -> State[dict[str, Any]]:
        settings = settings_for(api_endpoint, report_dir, api, options)
        entries = read_manifest(Path(manifest), settings)
        prefix_label(entries, settings.campaign)
        require_deployment(deployment)
        progress, name = Progress(), UUID(flow_run.id).hex
        make = partial(begin_migration, entries, settings, name, shards, balance, progress)
        with show_progress("migrate", progress):
            migration = begin("migrate", settings, make)
            made = len(migration.standings())
            get_run_logger().info("%s in %s", counted(len(entries), "study entry"), counted(made, "shard"))
            supervisor = Supervisor(migration, _starter(migration, deployment, made, api), made)
            with obey_requests(supervisor.interrupt), early_end(supervisor) as end:
                supervisor.supervise()
            summary = migration.finish(end.why)
        return publish_end("migrate", summary, settings.report_dir)

    return final_state(run)


@flow(
    name="migrate-shard",
    description="Uploads one shard of a migration. Started by migrate, not by people.",
    task_runner=ThreadPoolTaskRunner(max_workers=BATCHES_IN_FLIGHT),  # type: ignore[arg-type]
    persist_result=False,
)
def migrate_shard(
    migration: str,
    shard_no: int,
    slots: int,
    limit: str,
    report_dir: ReportDirectory,
    api_endpoint: ApiEndpoint = "",
    api: ApiBlock = "",
    options: OptionsForm = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Uploads one shard of a migration. Started by migrate, not by people.

    Args:
        migration: The run that the shard is a part of.
        shard_no: Which part.
        slots: How many uploads at once.
        limit: The global concurrency limit that so many slots are taken of.
        report_dir: Where the shard's own report is written.
        api_endpoint: The upload API; empty: the setting DICOM_INGEST_API_ENDPOINT of the worker.
        api: Name of a block dicom-upload-api; empty: the worker's settings.
        options: How the run behaves.
    """

    def run() -> State[dict[str, Any]]:
        ours = options.model_copy(update={"parallel": slots})
        settings = settings_for(api_endpoint, report_dir, api, ours)
        engine = begin("migrate-shard", settings, lambda: shard_engine(settings, migration, shard_no))
        end_with_window_when_scheduled(engine)
        engine.share_bandwidth(slots, options.parallel)
        holding = hold_fixed_slots(limit, slots, lease_holder(engine))
        with under_way("migrate-shard", engine) as may_begin:
            with early_end(engine) as end, holding, engine.draining():
                upload_batches(engine, engine.plan(engine.scan()), may_begin)
            summary = engine.report(engine.reconcile(end.why))
        return publish_end("migrate-shard", summary, settings.report_dir)

    return final_state(run)


def require_deployment(name: str) -> None:
    """Raises UsageError when there is nothing to run shards by."""
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise UsageError(
                f"The Prefect server has no deployment {name}. Nothing was sent. Make it: "
                "prefect deploy --all --prefect-file deployments/prefect.yaml"
            ) from None


def _starter(migration: Migration, deployment: str, shards: int, api: str) -> Callable[[int, int], UUID]:
    """What starts shard `number` for the n-th time: its flow run. All shards get the same parameters."""
    settings = migration.settings
    slots = shares(settings.parallel, min(shards, settings.parallel))
    limit = slots_of_platform(settings.api_endpoint, max(slots))
    options = Options.model_validate(settings, from_attributes=True).model_dump(mode="json")
    if settings.root:
        options["root"] = str(Path(settings.root).absolute())
    bounds = migration.bounds(shards)
    again = flow_run.run_count or 1
    campaign = settings.campaign

    def start(number: int, starts: int) -> UUID:
        run: Any = run_deployment(
            deployment,
            flow_run_name=f"{campaign} shard {number} of {shards}"
            + (f", start {starts}" if starts > 1 else ""),
            parameters={
                "migration": migration.run_id,
                "shard_no": number,
                "slots": slots[(number - 1) % len(slots)],
                "limit": limit,
                "report_dir": str(settings.report_dir.absolute() / "shards" / f"{number:04}"),
                "api_endpoint": settings.api_endpoint,
                "api": api,
                "options": options | bounds(number),
            },
            idempotency_key=f"{migration.run_id}-{number}-{again}-{starts}",
            tags=["dicom-ingest", "migrate"],
            timeout=0,
        )
        return UUID(str(run.id))

    return start
