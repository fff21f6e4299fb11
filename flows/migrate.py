"""migrate: a manifest cut into shards that many workers move together, and one report of all of them.

    migrate         cuts, starts each shard as a run of the deployment `migrate-shard/worker`, follows, merges
    migrate-shard   one shard, on whichever worker takes it

What is left to do, and who is alive, the ledger says; Prefect brings the work to the workers. A shard whose
process gives no sign of life is marked Crashed and started again. Parameters are counts, names and places.
"""

from collections.abc import Callable
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

from flows.backfill import begun, carried_out, ended, final_state, holder_of, settings_for
from flows.orchestration.artifacts import published
from flows.orchestration.parameters import (
    ApiBlock,
    ApiEndpoint,
    ManifestPath,
    Options,
    ReportDirectory,
    RunOptions,
)
from flows.orchestration.progress_display import display_progress
from flows.orchestration.run_control import heeded
from flows.orchestration.run_names import prefix_label, run_name
from flows.shards.slot_lease import fixed_slots, slots_of_platform
from flows.shards.supervisor import Follower, Part
from tasks.core.errors import UsageError
from tasks.core.words import counted
from tasks.run.engine import BATCHES_IN_FLIGHT, ended_by
from tasks.run.shards import MOST_SHARDS, Balance, Migration, run_id_for, shard_engine
from tasks.source.manifest_reader import load_manifest
from tasks.upload.uploader import Progress, shares

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
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS, json_schema_extra={"title": "Shards"})] = 4,
    balance: Balance = Balance.FILES,
    deployment: Annotated[str, Field(json_schema_extra={"title": "Deployment"})] = SHARD_DEPLOYMENT,
    options: RunOptions = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Cuts a manifest into shards, has many workers upload them, and merges one report.

    Args:
        manifest: Path of the manifest. It and the studies are under the same paths on every worker.
        api_endpoint: The upload API; empty: the setting DICOM_INGEST_API_ENDPOINT of the workers.
        report_dir: Where the merged report is written; each shard's own is in shards/<number> below it.
        api: Name of a block dicom-upload-api: endpoint and credentials; empty: the workers' settings.
        shards: How many parts. A study is never split. More parts than workers even out their pace.
        balance: What is to be equal between shards: files, or bytes.
        deployment: The deployment that a shard is run by.
        options: How the run behaves. Empty: the settings of the workers, or the default. The ledger is a
            database that all workers reach.
    """

    def run() -> State[dict[str, Any]]:
        settings = settings_for(api_endpoint, report_dir, api, options)
        entries = load_manifest(Path(manifest), Path(settings.root) if settings.root else None)
        prefix_label(entries, settings.campaign)
        require_deployment(deployment)
        run_id = run_id_for(UUID(flow_run.id).hex, settings)
        progress = Progress()
        with display_progress(progress), published("migrate", progress):
            migration = begun(
                "migrate", settings, lambda: Migration(entries, settings, run_id, shards, balance, progress)
            )
            progress.scanning = False
            standings = migration.standings()
            parts = counted(len(standings), "shard")
            get_run_logger().info("%s in %s", counted(len(entries), "study entry"), parts)
            slots = shares(settings.parallel, min(len(standings), settings.parallel))
            limit = slots_of_platform(settings.api_endpoint, max(slots))
            start = _starter(migration, deployment, limit, slots, len(standings), api)
            follower = Follower(migration, start, [Part(number) for number in range(1, len(standings) + 1)])
            with heeded(follower.interrupt):
                summary = migration.finish(ended_by(follower, follower.follow))
        return ended("migrate", summary, settings.report_dir)

    return final_state(run)


@flow(
    name="migrate-shard",
    description="Uploads one shard of a migration. Started by migrate; not by hand.",
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
    options: RunOptions = _DEFAULTS,
) -> State[dict[str, Any]]:
    """Uploads one shard of a migration. Started by migrate; not by hand.

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
        engine = begun("migrate-shard", settings, lambda: shard_engine(settings, migration, shard_no))
        return carried_out("migrate-shard", engine, lambda: fixed_slots(limit, slots, holder_of(engine)))

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


def _starter(
    migration: Migration,
    deployment: str,
    limit: str,
    slots: list[int],
    shards: int,
    api: str,
) -> Callable[[int, int], UUID]:
    """What starts shard `number` for the n-th time: its flow run. All shards are told the same."""
    settings = migration.settings
    options = Options.model_validate(settings, from_attributes=True).model_dump(mode="json")
    if settings.root:
        options["root"] = str(Path(settings.root).absolute())
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
                "options": options,
            },
            idempotency_key=f"{migration.run_id}-{number}-{again}-{starts}",
            tags=["dicom-ingest", "migrate"],
            timeout=0,
        )
        return UUID(str(run.id))

    return start
