"""Many machines: workers with homes of their own on one Prefect server, one of them killed in the middle."""

import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from flows.shards.slot_lease import limit_name
from tasks.report.reader import read_report
from tests.conftest import Dicom
from tests.databases import PostgreSQL
from tests.far_side import TOKEN, FarSide, Request, Step
from tests.prefect_server import PrefectServer
from tests.processes import descendants
from tests.work_pool import ROOT, Site

STUDIES, FILES = 6, 60
_PUT_S = 0.5


@pytest.fixture(scope="module")
def server(new_prefect_home: Callable[[], Path]) -> Iterator[PrefectServer]:
    with PrefectServer(new_prefect_home()) as server:
        yield server


@pytest.fixture
def site(server: PrefectServer, tmp_path: Path, far_side: FarSide, postgresql: PostgreSQL) -> Iterator[Site]:
    site = Site(tmp_path, far_side, postgresql.new_database(), server)
    far_side.script = lambda request: time.sleep(_PUT_S) if request.step is Step.PUT else None
    site.do("work-pool", "create", "archive", "--type", "process", "--overwrite")
    site.do("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    try:
        yield site
    finally:
        site.end()


def plant(tmp_path: Path, dicom: Dicom) -> Path:
    """Studies of one size, with twins in two of them; the manifest."""
    for study in range(STUDIES):
        (tmp_path / "archive" / str(study)).mkdir(parents=True)
        for number in range(FILES):
            body = dicom(f"1.{study}.{number}")
            (tmp_path / "archive" / str(study) / f"{number:03}").write_bytes(body)
    (tmp_path / "archive" / "0" / "twin").write_bytes(dicom("1.5.7"))
    rows = [f"archive/{study},{FILES + (study == 0)}" for study in range(STUDIES)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["study_dir,expected_instances", *rows]) + "\n")
    return manifest


@pytest.mark.long
def test_a_killed_worker_costs_nothing(
    site: Site, server: PrefectServer, far_side: FarSide, dicom: Dicom, tmp_path: Path
) -> None:
    """Two workers, one gone with -9 in the middle: every file stored once, and nobody had to look."""
    manifest, let_go = plant(tmp_path, dicom), hold_puts(far_side)
    for name in ("one", "two"):
        site.start(name, "prefect", "worker", "start", "--pool", "archive", "--name", name, "--limit", "2")
    migration = site.start("migration", "dicom-ingest", "migrate", str(manifest), "--shards", "3")
    await_shards(site, 3, let_go)
    assert descendants(site.processes["one"].pid), "it has a shard"
    site.kill("one")
    assert migration.wait(timeout=240) == 0, site.told("migration")
    report = list(read_report(tmp_path / "report"))
    assert Counter(row["status"] for row in report) == {"uploaded": STUDIES * FILES, "duplicate": 1}
    keys = {row["key"] for row in report}
    told = keys | {key for row in report for key in row["superseded_keys"].split(";") if key}
    assert len(keys) == STUDIES * FILES
    assert keys <= set(far_side.bodies) <= told, "what a kill left there is in the report"
    assert far_side.most_puts_under_way <= 20
    await_no_slot_taken(server.url, far_side)
    told = site.told("migration")
    assert "gives no sign of life: its run has crashed" in told
    assert "started again" in told
    assert re.search(r"^[1-9]\d* of 361 files done, .* files/s, ", told, re.MULTILINE), "the shards' progress"
    assert "slots in use" in told, "the living shards tell them"
    assert_kept_to_itself(site, report)


def assert_kept_to_itself(site: Site, report: list[dict[str, str]]) -> None:
    """No path, UID, key or secret in Prefect's database, nor in what workers and migration said."""
    told = "".join(map(site.told, site.processes))
    with closing(sqlite3.connect(Path(site.environment["PREFECT_HOME"]) / "prefect.db")) as database:
        told += "\n".join(database.iterdump())
    assert "files done" in told
    assert "migrate-shard" in told
    secrets = {TOKEN, "X-Amz-Signature", str(site.directory / "archive")}
    secrets |= {row[name] for row in report for name in ("key", "sop_instance_uid", "path") if row[name]}
    assert [secret for secret in secrets if secret in told] == []


@pytest.mark.long
def test_an_interrupted_migration_ends_its_shards(
    site: Site, far_side: FarSide, dicom: Dicom, tmp_path: Path
) -> None:
    """Ctrl-C: the shards are cancelled and end in order, the merged report is complete, and it goes on."""
    manifest, let_go = plant(tmp_path, dicom), hold_puts(far_side)
    site.start("one", "prefect", "worker", "start", "--pool", "archive", "--name", "one")
    migration = site.start("migration", "dicom-ingest", "migrate", str(manifest), "--shards", "2")
    await_shards(site, 2, let_go)
    migration.send_signal(signal.SIGINT)
    assert migration.wait(timeout=240) == 130, site.told("migration")
    rows = list(read_report(tmp_path / "report"))
    assert {"uploaded", "not_attempted"} <= {row["status"] for row in rows}
    told = {key for row in rows for key in (row["key"], *row["superseded_keys"].split(";")) if key}
    assert set(far_side.bodies) <= told
    again = site.start("again", "dicom-ingest", "migrate", str(manifest), "--shards", "2")
    assert again.wait(timeout=240) == 0, site.told("again")
    rows = list(read_report(tmp_path / "report"))
    assert {row["status"] for row in rows} == {"uploaded", "already_uploaded", "duplicate"}


@pytest.mark.long
def test_interrupted_while_the_server_is_away_it_changes_nothing_of_its_shards(
    site: Site, server: PrefectServer, far_side: FarSide, dicom: Dicom, tmp_path: Path
) -> None:
    """Nobody could tell them: they go on, and `report` has each of their files, sent once."""
    manifest, let_go = plant(tmp_path, dicom), hold_puts(far_side)
    site.start("one", "prefect", "worker", "start", "--pool", "archive", "--name", "one")
    migration = site.start("migration", "dicom-ingest", "migrate", str(manifest), "--shards", "2")
    await_shards(site, 2, let_go)
    server.kill()
    try:
        migration.send_signal(signal.SIGINT)
        assert migration.wait(timeout=400) == 130, site.told("migration")
        trails = sorted((tmp_path / "report" / "shards").glob("*/audit.jsonl"))
        await_under_way(site, lambda: all(b'"run_ended"' in path.read_bytes() for path in trails))
        report = site.start("later", "dicom-ingest", "report", str(tmp_path / "report"))
        assert report.wait(timeout=240) == 130, site.told("later")
    finally:
        server.start()
    assert Counter(row["status"] for row in read_report(tmp_path / "report")) == {
        "uploaded": STUDIES * FILES,
        "duplicate": 1,
    }
    assert len(far_side.bodies) == STUDIES * FILES


@pytest.mark.long
def test_a_run_of_a_killed_worker_becomes_crashed_and_retried_goes_on(
    site: Site, server: PrefectServer, far_side: FarSide, dicom: Dicom, tmp_path: Path
) -> None:
    """By the automation that comes with the deployments, here with a shorter time: nobody has to look."""
    manifest = plant(tmp_path, dicom)
    automations = (ROOT / "deployments" / "automations.yaml").read_text()
    assert "within: 300" in automations
    (tmp_path / "automations.yaml").write_text(automations.replace("within: 300", "within: 35"))
    site.do("automation", "create", "--from-file", str(tmp_path / "automations.yaml"))
    worker = ("prefect", "worker", "start", "--pool", "archive", "--name")
    site.start("one", *worker, "one")
    deployment = httpx.get(f"{server.url}/deployments/name/backfill/manual").json()["id"]
    parameters = {"manifest": str(manifest), "options": {"parallel": 5}}
    create = f"{server.url}/deployments/{deployment}/create_flow_run"
    run = f"{server.url}/flow_runs/{httpx.post(create, json={'parameters': parameters}).json()['id']}"
    await_under_way(site, lambda: len(far_side.asked(Step.PUT)) >= 5)
    time.sleep(2)  # its first heartbeat has arrived
    site.kill("one")
    assert httpx.get(run).json()["state_type"] == "RUNNING"
    await_state(run, "CRASHED", within_s=240)
    far_side.script = lambda _request: None
    site.start("two", *worker, "two")
    again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}}
    assert httpx.post(f"{run}/set_state", json=again).json()["status"] == "ACCEPT"
    await_state(run, "COMPLETED", within_s=240)
    assert {row["status"] for row in read_report(tmp_path / "report")} == {
        "uploaded",
        "already_uploaded",
        "duplicate",
    }


def await_state(run: str, wanted: str, within_s: float) -> None:
    until = time.monotonic() + within_s
    while (state := httpx.get(run).json()["state"])["type"] != wanted:
        assert time.monotonic() < until, state
        time.sleep(0.5)


def hold_puts(far_side: FarSide) -> threading.Event:
    """Until it is set no PUT is answered: no worker is done before another one has begun."""
    let_go = threading.Event()

    def script(request: Request) -> None:
        if request.step is Step.PUT:
            let_go.wait(120)
            time.sleep(_PUT_S)

    far_side.script = script
    return let_go


def await_shards(site: Site, shards: int, let_go: threading.Event) -> None:
    """Until each of them, whichever worker has it, has begun, and then has stored something."""
    trails = [site.directory / "report" / "shards" / f"{n:04}" / "audit.jsonl" for n in range(1, shards + 1)]

    def say(event: bytes) -> bool:
        return all(path.exists() and event in path.read_bytes() for path in trails)

    await_under_way(site, lambda: say(b'"batch_started"'))
    let_go.set()
    await_under_way(site, lambda: say(b'"stored"'))


def await_under_way(site: Site, is_under_way: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not is_under_way():
        assert time.monotonic() < until, "".join(map(site.told, site.processes))
        time.sleep(0.05)


def await_no_slot_taken(api: str, far_side: FarSide) -> None:
    """The killed worker's are free again when their lease is over, by themselves."""
    until = time.monotonic() + 240
    limit = f"{api}/v2/concurrency_limits/{limit_name(far_side.url)}"
    while httpx.get(limit).json()["active_slots"]:
        assert time.monotonic() < until
        time.sleep(1)
