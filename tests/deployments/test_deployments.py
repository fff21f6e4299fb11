"""The flows as a platform team deploys them, on a real Prefect server."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel

from deployments.sandbox.sandbox import Sandbox
from flows.migrate import SHARD_DEPLOYMENT
from tasks.report.reader import read_report
from tests.far_side import FarSide
from tests.flows.conftest import Plant, cut
from tests.served import Served, served
from tests.witness import Witness

ROOT = Path(__file__).parents[2]
PREFECT_YAML = ROOT / "deployments" / "prefect.yaml"
BIN = Path(sys.executable).parent
_RUN = "prefect.engine"  # of the process that Prefect starts for a run


def unknown(model: type[BaseModel], data: dict[str, Any]) -> set[str]:
    """Keys that Prefect would drop without a word."""
    fields = {name for field, info in model.model_fields.items() for name in (field, info.alias) if name}
    return set(data) - fields


class TestPrefectYaml:
    @pytest.fixture
    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load(PREFECT_YAML.read_text())
        return loaded

    def test_is_as_prefects_models_have_it(self, config: dict[str, Any]) -> None:
        PrefectYamlModel.model_validate(config)
        assert unknown(PrefectYamlModel, config) == {"definitions"}  # anchors, for YAML alone
        for deployment in config["deployments"]:
            assert unknown(DeploymentConfig, deployment) == set()
            assert unknown(WorkPoolConfig, deployment["work_pool"]) == set()
            assert unknown(ConcurrencyLimitSpec, deployment.get("concurrency_limit", {})) == set()
            for schedule in deployment.get("schedules", []):
                RawScheduleConfig.model_validate(schedule)
                assert {"slug", "active", "timezone"} <= set(schedule)
                assert schedule["active"] is False

    def test_with_a_wrong_key_would_not_pass(self) -> None:
        """The check above can fail."""
        assert unknown(DeploymentConfig, {"name": "x", "work_pol": {}}) == {"work_pol"}

    def test_deploys_to_a_server(self, prefect_server: Path) -> None:
        """Every deployment of the file, with its schedule off."""
        environment = os.environ | {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_HOME": str(prefect_server),
            "DICOM_INGEST_HOME": str(ROOT),
        }
        for command in (
            ["work-pool", "create", "archive", "--type", "process"],
            ["--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"],
        ):
            done = subprocess.run(
                [BIN / "prefect", *command], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        with get_client(sync_client=True) as client:
            found = {
                name: client.read_deployment_by_name(name)
                for name in (
                    "backfill/manual",
                    "backfill/scheduled",
                    "migrate/manual",
                    "verify/manual",
                    SHARD_DEPLOYMENT,
                )
            }
        assert {each.work_pool_name for each in found.values()} == {"archive"}
        assert [schedule.active for schedule in found["backfill/scheduled"].schedules] == [False]
        options = found["backfill/scheduled"].concurrency_options
        assert options is not None
        assert options.collision_strategy.value == "CANCEL_NEW"


@pytest.fixture
def serving(at_sandbox: None, tmp_path: Path, prefect_home: Path) -> Iterator[Served]:
    """`dicom-ingest serve` with a server of its own."""
    with served(tmp_path, prefect_home, os.environ) as serving:
        yield serving


class TestServe:
    def test_runs_what_a_person_starts_and_ends_with_all_of_it(
        self, serving: Served, tmp_path: Path, plant: Plant, sandbox: Sandbox
    ) -> None:
        """Deployment, run, artifacts; SIGTERM ends the server as well."""
        plant(tmp_path / "archive" / "good", 3)
        cut(next(iter(plant(tmp_path / "archive" / "bad", 1).values())))
        (tmp_path / "manifest.csv").write_text("study_dir,label\narchive/good,first\narchive/bad,second\n")
        deployment = serving.asked("GET", "/deployments/name/backfill/manual")
        parameters = {
            "manifest": str(tmp_path / "manifest.csv"),
            "report_dir": str(tmp_path / "report"),
            "options": {"campaign": "spring"},
        }
        run = serving.asked(
            "POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters}
        )
        run = ended(serving, UUID(run["id"]))
        assert run["state"]["message"] == "1 of 4 files, 1 study incomplete, see report"
        assert run["name"].startswith("spring 2")
        assert (
            sorted(row["status"] for row in read_report(tmp_path / "report"))
            == ["invalid"] + ["uploaded"] * 3
        )
        artifacts = serving.asked("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        by_key = {each["key"]: each["data"] for each in artifacts}
        assert set(by_key) == {"backfill-progress", "backfill-summary", "backfill-incomplete-studies"}
        assert by_key["backfill-progress"] == 100.0
        assert "| uploaded | 3 |" in by_key["backfill-summary"]
        assert '"study_no": "2"' in by_key["backfill-incomplete-studies"]
        assert "archive" not in by_key["backfill-incomplete-studies"], "no path of a study"
        serving.process.send_signal(signal.SIGTERM)
        serving.process.wait(timeout=240)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{serving.api}/health")


@pytest.mark.long
def test_who_may_start_a_run_gets_none_of_the_workers_secrets(
    at_sandbox: None,
    tmp_path: Path,
    prefect_home: Path,
    plant: Plant,
    far_side: FarSide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Token and ledger's password leave for nothing that a parameter names, and are left in no dump."""
    witness = Witness(tmp_path / "witness")
    monkeypatch.setenv("PYTHONPATH", str(witness.directory))
    monkeypatch.setenv("PGPASSWORD", "a-password-of-the-worker")
    plant(tmp_path / "archive", 1)
    (tmp_path / "manifest.csv").write_text("study_dir\narchive\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        served(tmp_path, prefect_home, os.environ) as serving,
    ):
        deployment = serving.asked("GET", "/deployments/name/backfill/manual")
        ledger = "postgresql://127.0.0.1:{1}/ledger".format(*listening.getsockname())
        for beyond, said in (
            ({"api_endpoint": far_side.url}, "This run's api_endpoint goes beyond"),
            ({"options": {"ledger": ledger}}, "does not name this run's ledger"),
        ):
            parameters = {"manifest": str(tmp_path / "manifest.csv"), **beyond}
            path = f"/deployments/{deployment['id']}/create_flow_run"
            run = serving.asked("POST", path, {"parameters": parameters})
            state = ended(serving, UUID(run["id"]))["state"]
            assert state["type"] == "FAILED"
            assert said in state["message"]
        assert far_side.requests == []
        assert select.select([listening], [], [], 0)[0] == [], "nobody came"
    seen = witness.seen("dicom-ingest serve", "server_process", _RUN)
    assert len(seen) == 3
    for process, its in seen.items():
        assert (its["is_dumpable"], its["core_bytes"]) == (False, 0), process
        assert ("PGPASSWORD" in its["inherited"]) == (process != "server_process")


def ended(serving: Served, run_id: UUID) -> Any:
    until = time.monotonic() + 120
    while True:
        run = serving.asked("GET", f"/flow_runs/{run_id}")
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return run
        assert time.monotonic() < until, run["state"]
        time.sleep(0.5)
