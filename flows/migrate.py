"""migrate: a manifest cut into shards that many workers move together, and one report of all of them.

    migrate         cuts, starts each shard as a run of the deployment `migrate-shard/worker`, follows, merges
    migrate-shard   one shard, on whichever worker takes it

What is left to do, and who is alive, the ledger says; Prefect brings the work to the workers. A shard whose
process gives no sign of life is marked Crashed and started again. Parameters are counts, names and places.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from httpx import URL
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelling, Crashed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.artifacts import published
from flows.backfill import campaign_run_name, carried_out, ended, settings_for
from flows.control import heeded
from flows.form import ApiBlock, ApiEndpoint, ManifestPath, ReportDirectory, RunOptions
from flows.progress import shown
from tasks.core.errors import IngestError, InterruptedRunError, StoppedError
from tasks.engine import BATCHES_IN_FLIGHT, ended_by, safe_errors
from tasks.ledger import ShardStanding
from tasks.load import load_manifest
from tasks.settings import Options, Settings
from tasks.shards import MOST_SHARDS, Balance, Migration, run_id_for, shard_engine
from tasks.upload import Progress, shares

SHARD_DEPLOYMENT: Final = "migrate-shard/worker"
MOST_STARTS: Final = 5  # of one shard; a person looks after it then
_LOOK_S: Final = 5.0
_START_S: Final = 180.0  # from Pending to the first sign of life in the ledger
_LEASE_S: Final = 60.0  # a killed shard's slots are free again after so long
_NO_WORKER_S: Final = 60.0
_DEFAULTS: Final = Options()


@flow(
    name="migrate",
    flow_run_name=campaign_run_name,
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
    with safe_errors():
        settings = settings_for(api_endpoint, report_dir, api, options)
        entries = load_manifest(Path(manifest), Path(settings.root) if settings.root else None)
        run_id = run_id_for(UUID(flow_run.id).hex, settings)
        progress = Progress()
        with shown(progress), published("migrate", progress):
            migration = Migration(entries, settings, run_id, shards, balance, progress)
            progress.scanning = False
            standings = migration.standings()
            get_run_logger().info("%d study entries in %d shards", len(entries), len(standings))
            limit = slots_of_platform(settings)
            start = _starter(migration, deployment, limit, len(standings), api)
            follower = Follower(migration, start, [Part(number) for number in range(1, len(standings) + 1)])
            with heeded(follower.interrupt):
                summary = migration.finish(ended_by(follower, follower.follow))
        return ended("migrate", summary, settings.report_dir)


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
    with safe_errors():
        ours = options.model_copy(update={"parallel": slots})
        settings = settings_for(api_endpoint, report_dir, api, ours)
        engine = shard_engine(settings, migration, shard_no)
        return carried_out("migrate-shard", engine, taking=lambda: _taken(limit, slots))


def slots_of_platform(settings: Settings) -> str:
    """The global concurrency limit of all uploads into one platform, made when it is missing."""
    name = f"dicom-ingest {URL(settings.api_endpoint).host}"
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=name, limit=settings.parallel)
                )
            except ObjectAlreadyExists:
                return name  # another migration was quicker
        else:
            if limit.active_slots:
                get_run_logger().warning(
                    "%d of %d slots of the limit %r are taken already. When no shard is at work, free them: "
                    'prefect gcl update "%s" --active-slots 0',
                    limit.active_slots,
                    limit.limit,
                    name,
                    name,
                )
    return name


def _taken(limit: str, slots: int) -> AbstractContextManager[None]:
    """The shard's part of the limit, once, for as long as it lasts; a server that restarts costs no file."""
    return concurrency(
        limit, occupy=slots, strict=True, lease_duration=_LEASE_S, raise_on_lease_renewal_failure=False
    )


def _starter(
    migration: Migration,
    deployment: str,
    limit: str,
    shards: int,
    api: str,
) -> Callable[[int, int], UUID]:
    """What starts shard `number` for the n-th time: its flow run. All shards are told the same."""
    settings = migration.settings
    options = settings.model_dump(mode="json", include=set(Options.model_fields))
    if settings.root:
        options["root"] = str(Path(settings.root).absolute())
    parallel = settings.parallel
    slots = shares(parallel, min(shards, parallel))
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


@dataclass(slots=True)
class Part:
    """A shard as the follower sees it."""

    number: int
    flow_run_id: UUID | None = None
    starts: int = 0
    was_alive: bool = False  # since its last start
    state: str = ""
    since: float = field(default_factory=time.monotonic)  # that its state, or its life, is as it is
    is_done: bool = False
    was_told: bool = False


class Follower:
    """Sees to it that each shard comes to its end, whatever happens to workers."""

    def __init__(
        self,
        migration: Migration,
        start: Callable[[int, int], UUID],
        parts: list[Part],
        look_s: float = _LOOK_S,
    ) -> None:
        self._migration = migration
        self._start = start
        self._parts = parts
        self._look_s = look_s
        self._log = get_run_logger()
        self._interrupted_by: IngestError | None = None
        self._interrupted = threading.Event()

    def interrupt(self, why: IngestError) -> None:
        """`follow` raises this; from any thread."""
        self._interrupted_by = why
        self._interrupted.set()

    def follow(self) -> None:
        """Until every shard is done with. Raises IngestError when the migration has to stop."""
        lost_at: float | None = None
        while not self._interrupted_by:
            try:
                if self._look():
                    return
                lost_at = None
            except IngestError:
                raise
            except Exception as error:  # noqa: BLE001 - Prefect's server is away: the shards go on without
                lost_at = lost_at or time.monotonic()
                self._log.warning("Prefect's server does not answer (%s); asked again", type(error).__name__)
                if time.monotonic() - lost_at > self._migration.settings.max_outage:
                    raise StoppedError(
                        "Prefect's server was away for too long. Look after it, then run the same command "
                        "again: what was stored is not sent twice."
                    ) from None
            self._interrupted.wait(self._look_s)
        raise self._interrupted_by

    def stop(self, why: IngestError) -> None:
        """Cancels what is under way, and waits until it has ended."""
        self._log.warning("Stopping: %s", why)
        with get_client(sync_client=True) as client:
            for part in self._open():
                if part.flow_run_id:
                    client.set_flow_run_state(part.flow_run_id, Cancelling())
            until = time.monotonic() + 2 * self._migration.settings.dead_after
            while any(each.is_alive for each in self._migration.standings()) and time.monotonic() < until:
                time.sleep(1)

    def _open(self) -> list[Part]:
        return [part for part in self._parts if not part.is_done]

    def _look(self) -> bool:
        """One look at every shard; whether all are done with."""
        standings = self._migration.standings()
        with get_client(sync_client=True) as client:
            for part in self._open():
                self._see_to(part, standings[part.number - 1], client)
        return not self._open()

    def _see_to(self, part: Part, standing: ShardStanding, client: SyncPrefectClient) -> None:
        if standing.facts and standing.facts.stopped_exit_code != InterruptedRunError.exit_code:
            part.is_done = True
            if standing.facts.stopped_exit_code is not None:  # what stopped this one would stop the others
                raise StoppedError(
                    f"Shard {part.number} stopped early: see its flow run, then run this again."
                )
        elif part.flow_run_id is None:
            self._begin(part)
        else:
            state = client.read_flow_run(part.flow_run_id).state
            assert state
            self._watch(part, standing, state, client)

    def _watch(
        self, part: Part, standing: ShardStanding, state: State[Any], client: SyncPrefectClient
    ) -> None:
        now = time.monotonic()
        if state.type.value != part.state or standing.is_alive:
            part.state, part.since = state.type.value, now
        part.was_alive |= standing.is_alive
        if state.is_final():
            self._begin_again(part, standing, state)
        elif state.is_scheduled():
            self._tell_no_worker(part, now)
        elif not standing.is_alive and (part.was_alive or now - part.since > _START_S):
            self._log.warning("Shard %d gives no sign of life: its run has crashed", part.number)
            message = "No sign of life in the ledger: the worker was killed."
            client.set_flow_run_state(part.flow_run_id, Crashed(message=message), force=True)  # type: ignore[arg-type]

    def _begin(self, part: Part) -> None:
        part.starts += 1
        part.flow_run_id = self._start(part.number, part.starts)
        part.was_alive, part.since = False, time.monotonic()

    def _begin_again(self, part: Part, standing: ShardStanding, state: State[Any]) -> None:
        if standing.is_alive:  # its process is still at its end, or was killed a moment ago
            return
        if state.is_cancelled() or part.starts >= MOST_STARTS:
            self._log.warning("Shard %d is given up: %s", part.number, state.name)
            part.is_done = True
            return
        self._log.warning("Shard %d ended as %s: started again", part.number, state.name)
        self._begin(part)

    def _tell_no_worker(self, part: Part, now: float) -> None:
        if not part.was_told and now - part.since > _NO_WORKER_S:
            part.was_told = True
            self._log.warning("Shard %d waits for a worker: prefect worker start --pool POOL", part.number)
