"""Schedules make runs: on a real server with its scheduler, as a person switches them on.

`make lock` runs this with the packages of a new lock before it is kept: a Prefect whose scheduler is broken
by another package says nothing.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.report.reader import read_report, read_summary
from tests.conftest import Dicom
from tests.far_side import TOKEN, FarSide, Reply, Step
from tests.prefect_server import PrefectServer
from tests.processes import await_that
from tests.served import served
from tests.work_pool import ROOT, Site

_EVERY_S = 4


class Deployments:
    """Those of a server, by its API."""

    def __init__(self, api: str) -> None:
        self._api = api

    def asked(self, method: str, path: str, body: Any = None) -> Any:
        """Once more when the server says that it is busy, as it does while it starts."""
        until = time.monotonic() + 60
        while (
            answer := httpx.request(method, f"{self._api}{path}", json=body, timeout=30)
        ).status_code == 503:
            assert time.monotonic() < until, answer.text
            time.sleep(0.2)
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None

    def named(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.asked("GET", f"/deployments/name/{name}")
        return found

    def runs(self, name: str) -> list[dict[str, Any]]:
        """In the order of their scheduled times."""
        of_it = {"deployments": {"id": {"any_": [self.named(name)["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.asked("POST", "/flow_runs/filter", of_it)
        return found

    def states(self, name: str) -> Counter[str]:
        """How many runs have a state of this name."""
        return Counter(run["state_name"] for run in self.runs(name))

    def schedule_by_hand(self, name: str, every_s: int, **parameters: Any) -> None:
        """The request that the UI's dialog sends."""
        schedule = {"interval": every_s, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}
        body = [{"active": True, "schedule": schedule, "parameters": parameters}]
        self.asked("POST", f"/deployments/{self.named(name)['id']}/schedules", body)

    def pause(self, name: str) -> None:
        self.asked("POST", f"/deployments/{self.named(name)['id']}/pause_deployment")

    def remove_all(self) -> None:
        """With the place that a killed run has of one: other tests use this home, too."""
        for deployment in self.asked("POST", "/deployments/filter", {}):
            self.asked("DELETE", f"/deployments/{deployment['id']}")


@pytest.fixture(scope="module")
def server(new_prefect_home: Callable[[], Path]) -> Iterator[PrefectServer]:
    with PrefectServer(new_prefect_home()) as server:
        yield server


@pytest.fixture
def deployments(server: PrefectServer) -> Deployments:
    return Deployments(server.url)


@pytest.fixture
def site(server: PrefectServer, tmp_path: Path, far_side: FarSide) -> Iterator[Site]:
    """Deployed as a person edits the file: his folder of manifests, a short interval, switched on."""
    site = Site(tmp_path, far_side, "", server)
    config = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    for deployment in config["deployments"]:
        if deployment["name"] == "scheduled" and "backfill" in deployment["entrypoint"]:
            deployment["parameters"]["manifest"] = str(tmp_path / "manifests")
            deployment["schedules"] = [{"slug": "short", "interval": _EVERY_S, "active": True}]
    (tmp_path / "manifests").mkdir()
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(config))
    Deployments(server.url).remove_all()
    site.do("work-pool", "create", "archive", "--type", "process", "--overwrite")
    site.do("--no-prompt", "deploy", "--all", "--prefect-file", str(tmp_path / "prefect.yaml"))
    try:
        yield site
    finally:
        site.end()
        Deployments(server.url).remove_all()


def start_worker(site: Site) -> None:
    site.start("worker", "prefect", "worker", "start", "--pool", "archive", "--name", site.directory.name)


def drop(folder: Path, archive: Path, name: str, dicom: Dicom, uid: str) -> Path:
    """A study in the archive, and in the folder a manifest of it."""
    study = archive / name
    study.mkdir(parents=True)
    (study / "IM1").write_bytes(dicom(uid))
    folder.mkdir(exist_ok=True)
    manifest = folder / f"{name}.csv"
    manifest.write_text(f"study_dir\n{study}\n")
    return manifest


def is_stored(report_dir: Path) -> bool:
    return (report_dir / "summary.json").exists() and read_summary(report_dir).exit_code == 0


@pytest.mark.long
def test_a_manifest_dropped_into_the_folder_is_moved(
    far_side: FarSide,
    let_go: threading.Event,
    site: Site,
    deployments: Deployments,
    tmp_path: Path,
    dicom: Dicom,
) -> None:
    """Deployed and switched on, nobody clicks anything; what comes while a run is at work is cancelled."""
    name, report_dir = "backfill/scheduled", tmp_path / "report" / "study.csv"
    start_worker(site)
    await_that(lambda: deployments.states(name)["Completed"], 180, said=lambda: deployments.states(name))
    drop(tmp_path / "manifests", tmp_path / "archive", "study", dicom, "1.2.1")
    await_that(lambda: far_side.puts_under_way, 180, said=lambda: site.told("worker"))
    cancelled = deployments.states(name)["Cancelled"]
    await_that(
        lambda: deployments.states(name)["Cancelled"] >= cancelled + 2,
        180,
        said=lambda: deployments.states(name),
    )
    assert deployments.states(name)["Running"] == 1
    let_go.set()
    await_that(lambda: is_stored(report_dir), 180, said=lambda: site.told("worker"))
    assert [row["status"] for row in read_report(report_dir)] == ["uploaded"]
    assert {run["created_by"]["type"] for run in deployments.runs(name)} == {"SCHEDULE"}


@pytest.mark.long
def test_a_run_waits_for_another_where_the_deployment_says_so(
    let_go: threading.Event, site: Site, deployments: Deployments, tmp_path: Path, dicom: Dicom
) -> None:
    """backfill/manual: a schedule added by hand in the UI's way, of which each run has its turn."""
    name = "backfill/manual"
    manifest = drop(tmp_path / "elsewhere", tmp_path / "archive", "held", dicom, "1.2.4")
    start_worker(site)
    deployments.schedule_by_hand(name, _EVERY_S, manifest=str(manifest), report_dir=str(tmp_path / "by-hand"))
    waits = {"Running", "AwaitingConcurrencySlot"}
    await_that(lambda: waits <= set(deployments.states(name)), 180, said=lambda: deployments.states(name))
    assert deployments.states(name)["Running"] == 1
    let_go.set()
    await_that(
        lambda: deployments.states(name)["Completed"] >= 2,
        180,
        said=lambda: (deployments.states(name), site.told("worker")),
    )
    deployments.pause(name)
    assert [row["status"] for row in read_report(tmp_path / "by-hand")] == ["already_uploaded"]


@pytest.mark.long
def test_a_schedule_added_by_hand_runs_what_serve_serves(
    far_side: FarSide, tmp_path: Path, prefect_home: Path, dicom: Dicom
) -> None:
    """`dicom-ingest serve`, and a schedule in its UI."""
    manifest = drop(tmp_path / "manifests", tmp_path / "archive", "study", dicom, "1.2.5")
    ours = {"DICOM_INGEST_API_ENDPOINT": far_side.url, "DICOM_INGEST_TOKEN": TOKEN}
    with served(tmp_path, prefect_home, os.environ | ours) as serving:
        serving.asked("GET", "/deployments/name/backfill/manual")
        deployments = Deployments(serving.api)
        deployments.schedule_by_hand(
            "backfill/manual", _EVERY_S, manifest=str(manifest), report_dir=str(tmp_path / "report")
        )
        await_that(lambda: is_stored(tmp_path / "report"), 180, said=serving.log.read_text)
        await_that(
            lambda: deployments.states("backfill/manual")["Completed"],
            180,
            said=lambda: deployments.states("backfill/manual"),
        )


@pytest.mark.long
def test_refused_credentials_pause_the_schedule(
    site: Site, deployments: Deployments, far_side: FarSide, tmp_path: Path, dicom: Dicom
) -> None:
    """By the automation that comes with the deployments: what is refused tonight is refused tomorrow."""
    far_side.script = lambda request: Reply(403) if request.step is Step.PRESIGN else None
    site.do("automation", "create", "--from-file", str(ROOT / "deployments" / "automations.yaml"))
    drop(tmp_path / "manifests", tmp_path / "archive", "study", dicom, "1.2.6")
    start_worker(site)
    await_that(
        lambda: deployments.named("backfill/scheduled")["paused"],
        180,
        said=lambda: (deployments.runs("backfill/scheduled")[:1], site.told("worker")),
    )
