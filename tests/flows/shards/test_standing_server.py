"""A Prefect server that outlives its runs: what they share there, and what a kill leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli.serve import SERVER_ENVIRONMENT
from flows.shards.slot_lease import hold_fixed_slots, limit_name, slots_of_platform
from tasks.report.reader import read_report, read_summary
from tasks.settings import MOST_PARALLEL
from tests.far_side import TOKEN, FarSide
from tests.flows.conftest import Plant
from tests.flows.shards.test_slot_lease import Run
from tests.flows.shards.test_slot_lease import Server as SeenServer
from tests.prefect_server import PrefectServer
from tests.processes import Command, await_that

FILES = 40


@pytest.fixture
def server(prefect_home: Path) -> Iterator[PrefectServer]:
    with PrefectServer(prefect_home) as server, temporary_settings({PREFECT_API_URL: server.url}):
        yield server


def taken(server: PrefectServer, name: str) -> int:
    """How many slots of a limit."""
    answer = httpx.get(f"{server.url}/v2/concurrency_limits/{name}")
    return int(answer.json()["active_slots"])


def settings_of(far_side: FarSide) -> dict[str, str]:
    """Of whoever sends to it."""
    return {"DICOM_INGEST_API_ENDPOINT": far_side.url, "DICOM_INGEST_TOKEN": TOKEN}


class TestTwentyPuts:
    def test_are_kept_by_an_interrupted_run_until_its_last_put_has_ended(
        self,
        server: PrefectServer,
        far_side: FarSide,
        let_go: threading.Event,
        tmp_path: Path,
        plant: Plant,
    ) -> None:
        """Others would begin theirs beside it."""
        plant(tmp_path / "run" / "study", 1)
        (tmp_path / "run" / "manifest.csv").write_text("study_dir\nstudy\n")
        environment = os.environ | server.environment | settings_of(far_side)
        run = Command(tmp_path / "run", environment, "run", "manifest.csv", "--parallel", "3")
        assert far_side.wait_for_puts(1, timeout_s=240), run.said
        run.process.send_signal(signal.SIGINT)
        until = time.monotonic() + 3  # of the ten seconds that a PUT has
        while time.monotonic() < until:
            assert taken(server, limit_name(far_side.url)) == 3
            time.sleep(0.1)
        let_go.set()
        assert run.ended() == 130
        assert taken(server, limit_name(far_side.url)) == 0

    def test_are_all_that_runs_at_one_server_make_together(
        self,
        server: PrefectServer,
        far_side: FarSide,
        let_go: threading.Event,
        tmp_path: Path,
        plant: Plant,
    ) -> None:
        """The first has what it asked for, the second what is left, the third waits and says for what."""

        def run(name: str, *options: str) -> Command:
            plant(tmp_path / name / "study", FILES)
            (tmp_path / name / "manifest.csv").write_text("study_dir\nstudy\n")
            environment = os.environ | server.environment | settings_of(far_side)
            return Command(tmp_path / name, environment, "run", "manifest.csv", *options)

        first = run("first", "--parallel", "12")
        assert far_side.wait_for_puts(12, timeout_s=240), first.said
        second, third = run("second"), run("third")
        try:
            assert far_side.wait_for_puts(20, timeout_s=240), second.said + third.said
            later, waiting = (second, third) if "that were asked for" in second.said else (third, second)
            assert "8 upload slots of 20 that were asked for" in later.said
            await_that(
                lambda: "Waiting for upload slots: other runs have what there is." in waiting.said,
                said=lambda: waiting.said,
            )
            waiting.process.send_signal(signal.SIGINT)
            assert waiting.ended() == 130
            assert {row["status"] for row in read_report(waiting.directory / "report")} == {"not_attempted"}
        finally:
            let_go.set()
        assert (first.ended(), later.ended()) == (0, 0), first.said + later.said
        assert far_side.most_puts_under_way == MOST_PARALLEL
        assert [limit for _, limit in read_summary(later.directory / "report").parallel_course] == [8]
        assert read_summary(later.directory / "report").peak_parallel <= 8
        assert taken(server, limit_name(far_side.url)) == 0


class TestSlots:
    @pytest.mark.long
    def test_outlive_a_restart_of_a_server_that_forgets_leases(self, server: PrefectServer) -> None:
        """It still counts the slots, and would for good."""
        limit, run, seen = slots_of_platform("https://restart.example", 15), Run(), SeenServer()
        with hold_fixed_slots(limit, 15, run.holder, seen.edges):
            server.kill()
            server.start()
            await_that(lambda: len(seen.leases) > 1)
            await_that(lambda: taken(server, limit) == 15)
        assert run.stops == []
        assert taken(server, limit) == 0

    @pytest.mark.long
    def test_of_a_killed_run_are_free_after_its_lease_also_when_the_server_was_killed(
        self, prefect_home: Path
    ) -> None:
        """With leases on disk, as `serve` and compose.yaml have it. The lease is the shortest there is."""
        held = "dicom-ingest killed.example:443"
        hold = (
            "import time\n"
            "from flows.shards.slot_lease import LeaseEdges, LeaseHolder, free_slots\n"
            "holder = LeaseHolder(lambda: None, print, print)\n"
            "with free_slots('https://killed.example', 15, holder, LeaseEdges(lease_s=60.0)):\n"
            "    print('held', flush=True)\n"
            "    time.sleep(600)\n"
        )
        with PrefectServer(prefect_home, **SERVER_ENVIRONMENT) as server:
            environment = os.environ | server.environment
            command = [sys.executable, "-c", hold]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
                assert holder.stdout
                assert holder.stdout.readline() == b"held\n"
                holder.kill()
            server.kill()
            server.start()
            assert taken(server, held) == 15, "the lease is not over yet"
            await_that(lambda: taken(server, held) == 0, within_s=240)


class TestServe:
    @contextmanager
    def serving(self, server: PrefectServer, directory: Path, end: signal.Signals) -> Iterator[Command]:
        serve = Command(directory, os.environ | server.environment, "serve")
        try:
            yield serve
        finally:
            serve.process.send_signal(end)
            serve.process.wait(240)

    @pytest.mark.parametrize("end", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
    def test_leaves_a_deployment_as_others_wrote_it(
        self, server: PrefectServer, tmp_path: Path, end: signal.Signals
    ) -> None:
        """Somebody gave it a schedule, or serves it from elsewhere: it is not paused when this one ends."""
        by_name = f"{server.url}/deployments/name/backfill/manual"
        with self.serving(server, tmp_path, end):
            await_that(lambda: httpx.get(by_name).status_code == 200, within_s=240)
            deployment = httpx.get(by_name).json()
            assert deployment["global_concurrency_limit"]["limit"] == 1
            assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
            with get_client(sync_client=True) as client:  # tries again while SQLite is locked
                client.create_deployment_schedules(
                    UUID(deployment["id"]), [(CronSchedule(cron="0 20 * * *"), True)]
                )
        after = httpx.get(by_name).json()
        assert after["paused"] is False
        assert [each["active"] for each in after["schedules"]] == [True]
        httpx.delete(f"{server.url}/deployments/{after['id']}").raise_for_status()
