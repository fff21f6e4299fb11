"""What a person does to a run in Prefect's UI, by the requests that the UI makes."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Failed, Paused, Running, Suspended
from pydantic import SecretStr

from flows.orchestration.blocks import DicomUploadApi
from flows.orchestration.run_control import ControlEdges, obey_requests
from tasks.core.errors import IngestError
from tasks.report.reader import read_report, read_summary
from tests.far_side import TOKEN, FarSide, Request, Step
from tests.flows.conftest import Plant
from tests.processes import await_that
from tests.served import Served, served

FILES = 60
PARALLEL = 2
CANCELLING = {"type": "CANCELLING", "name": "Cancelling"}
CANCELLED = {"type": "CANCELLED", "name": "Cancelled"}
RETRY = {"type": "SCHEDULED", "name": "AwaitingRetry"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[Served]:
    """`dicom-ingest serve`: Prefect's server, and a runner of the deployments."""
    with served(tmp_path_factory.mktemp("served"), prefect_home, os.environ) as serving:
        yield serving


@pytest.fixture
def slow(far_side: FarSide) -> FarSide:
    """The first PUTs are quick, the others not."""

    def wait(request: Request) -> None:
        if request.step is Step.PUT and request.n > 4:
            time.sleep(2)

    far_side.script = wait
    return far_side


def quick(_request: Request) -> None:
    return None


class Run:
    """One run of backfill/manual, and what the UI may ask of it."""

    def __init__(self, serving: Served, far_side: FarSide, directory: Path, **named: str) -> None:
        self.asked = serving.asked
        self.far_side = far_side
        self.report_dir = directory / "report"
        (directory / "manifest.csv").write_text("study_dir\nstudy\n")
        deployment = self.asked("GET", "/deployments/name/backfill/manual")
        parameters = {
            "manifest": str(directory / "manifest.csv"),
            "report_dir": str(self.report_dir),
            "api": self._block(serving, far_side),
            "options": {"parallel": PARALLEL},
        }
        path = f"/deployments/{deployment['id']}/create_flow_run"
        self.id = UUID(self.asked("POST", path, {"parameters": parameters, **named})["id"])

    def _block(self, serving: Served, far_side: FarSide) -> str:
        """Names a block with the platform of this run, and the credentials for it."""
        name = f"platform-{uuid4().hex}"
        with temporary_settings({PREFECT_API_URL: serving.api}):
            DicomUploadApi(api_endpoint=far_side.url, token=SecretStr(TOKEN)).save(name)
        return name

    def set(self, state: dict[str, Any], *, force: bool = True) -> None:
        self.asked("POST", f"/flow_runs/{self.id}/set_state", {"state": state, "force": force})

    def resume(self) -> None:
        self.asked("POST", f"/flow_runs/{self.id}/resume")

    def is_let_go(self) -> bool:
        """Whether the runner has had its word on the cancellation, too: it comes seconds after ours."""
        states = self.asked("GET", f"/flow_run_states/?flow_run_id={self.id}")
        return [state["type"] for state in states].count("CANCELLED") > 1

    def ended(self) -> Any:
        await_that(lambda: self._told()["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 120)
        return self._told()

    def _told(self) -> Any:
        return self.asked("GET", f"/flow_runs/{self.id}")

    def name(self) -> str:
        return str(self._told()["name"])

    def state(self) -> str:
        return str(self._told()["state_name"])

    def assert_no_alarm(self) -> None:
        """No batch is red, and nothing in the logs of run and batches is an error or a traceback."""
        of_it = {"flow_runs": {"id": {"any_": [str(self.id)]}}}
        await_that(lambda: "Finished in state" in self._log("prefect.flow_runs"))
        time.sleep(3)  # what follows is sent every other second
        batches = self.asked("POST", "/task_runs/filter", of_it)
        assert batches
        assert {batch["state_type"] for batch in batches} == {"COMPLETED"}, batches
        logs = self._logs()
        assert [each["message"] for each in logs if each["level"] >= logging.ERROR] == []
        assert "Traceback" not in self._log()

    def _log(self, name: str = "") -> str:
        return "\n".join(each["message"] for each in self._logs() if name in each["name"])

    def _logs(self) -> list[dict[str, Any]]:
        of_it = {"logs": {"flow_run_id": {"any_": [str(self.id)]}}, "limit": 200}
        logs: list[dict[str, Any]] = self.asked("POST", "/logs/filter", of_it)
        return logs

    def assert_interrupted(self) -> None:
        """A whole report, in which what was not tried says so."""
        await_that(lambda: read_summary(self.report_dir).exit_code == 130)
        rows = list(read_report(self.report_dir))
        assert len(rows) == FILES
        assert {row["status"] for row in rows} == {"uploaded", "not_attempted"}

    def assert_all_stored_once(self) -> None:
        rows = list(read_report(self.report_dir))
        assert [row["key"] for row in rows if row["key"] in self.far_side.objects] == [
            row["key"] for row in rows
        ]
        assert len(self.far_side.objects) == FILES


@pytest.fixture
def run(serving: Served, slow: FarSide, tmp_path: Path, plant: Plant) -> Run:
    """Under way: some files are stored, most are not."""
    plant(tmp_path / "study", FILES)
    run = Run(serving, slow, tmp_path)
    await_that(lambda: len(slow.objects) > 4, within_s=240)
    return run


@pytest.mark.long
def test_suspended_it_ends_in_order_and_resumed_it_goes_on(run: Run) -> None:
    run.set(paused(timedelta(hours=1)))
    run.assert_interrupted()
    assert run.state() == "Suspended"
    run.assert_no_alarm()
    run.far_side.script = quick
    run.resume()
    assert run.ended()["state_type"] == "COMPLETED"
    run.assert_all_stored_once()


def test_cancelled_it_ends_in_order_and_retried_it_goes_on(run: Run) -> None:
    run.set(CANCELLING)
    assert run.ended()["state_type"] == "CANCELLED"
    run.assert_interrupted()
    run.assert_no_alarm()
    run.far_side.script = quick
    await_that(run.is_let_go)
    run.set(RETRY, force=False)
    await_that(lambda: run.state() not in ("Cancelled", "AwaitingRetry"))
    assert run.ended()["state_type"] == "COMPLETED"
    run.assert_all_stored_once()


@pytest.mark.long
def test_paused_it_ends_in_order_when_the_pauses_time_is_over(run: Run) -> None:
    """Prefect fails it then, though the dialog that asks for the time says that it is resumed."""
    run.set(paused(timedelta(seconds=1)))
    run.assert_interrupted()
    assert run.ended()["state_type"] == "FAILED"
    run.assert_no_alarm()


@pytest.mark.long
def test_paused_by_the_api_it_ends_the_batches_under_way_and_then_itself(run: Run) -> None:
    """No batch is left that a pause could hold up."""
    run.set(paused(timedelta(hours=1), reschedule=False))
    run.far_side.script = quick
    assert run.ended()["state_type"] == "COMPLETED"
    run.assert_no_alarm()
    run.assert_all_stored_once()


def paused(timeout: timedelta, *, reschedule: bool = True) -> dict[str, Any]:
    """What the UI's dialog asks for: its Pause is what Prefect calls Suspended, with a time."""
    until = (datetime.now(UTC) + timeout).isoformat()
    name = "Suspended" if reschedule else "Paused"
    details = {"pause_timeout": until, "pause_reschedule": reschedule}
    return {"type": "PAUSED", "name": name, "state_details": details}


@pytest.mark.long
def test_another_waits_for_its_end_under_the_name_that_was_typed(run: Run, serving: Served) -> None:
    """As many PUTs as one run makes, whatever is clicked; and what is typed is what it is found by."""
    directory = run.report_dir.parent
    another = Run(serving, run.far_side, directory, name="night-run")
    await_that(lambda: another.state() == "AwaitingConcurrencySlot")
    assert another.name() == "night-run"
    another.set(CANCELLED)
    run.far_side.script = quick
    assert run.ended()["state_type"] == "COMPLETED"
    assert run.far_side.most_puts_under_way == PARALLEL
    assert run.name().startswith("default 2")


QUICK = ControlEdges(look_s=0.05)


class Stops(list[IngestError]):
    """What a run was told to end for."""

    def __call__(self, why: IngestError) -> None:
        self.append(why)


def told(state: State[Any], run_id: str | None = None) -> None:
    """This flow run's state, or that of another, as somebody else sets it."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run_id or flow_run.id), state, force=True)


@pytest.mark.usefixtures("prefect_server")
class TestObeyed:
    """In a flow of this process, which no runner looks after."""

    def test_no_batch_begins_while_it_is_paused(self) -> None:
        stops = Stops()

        @flow(name="paused")
        def waits() -> None:
            with obey_requests(stops, QUICK) as may_begin:
                told(Paused(reschedule=False))
                await_that(lambda: not may_begin.is_set())
                told(Running())
                assert may_begin.wait(30)

        waits()
        assert stops == []

    def test_what_is_part_of_another_run_ends_with_it(self) -> None:
        """A manifest of a folder: only the run of the folder can be suspended."""
        stops = Stops()

        @flow(name="part")
        def part(whole: str) -> None:
            with obey_requests(stops, QUICK):
                told(Suspended(), whole)
                await_that(lambda: bool(stops))
                told(Running(), whole)

        @flow(name="whole")
        def whole() -> None:
            part(str(flow_run.id))

        whole()
        assert "Suspended in Prefect" in str(stops[0])

    def test_failed_while_it_is_at_work_it_ends(self) -> None:
        """As Prefect fails it when the time of a pause is over: nobody would look after what it sends."""
        stops = Stops()

        @flow(name="failed")
        def failed() -> None:
            with obey_requests(stops, QUICK):
                told(Failed())
                await_that(lambda: bool(stops))
                told(Running())

        failed()
        assert "Failed in Prefect while it was at work" in str(stops[0])

    def test_cancelled_it_ends_by_itself_where_nobody_terminates_it(self) -> None:
        """`dicom-ingest run` has no runner that would; and a runner has time to do so first."""
        stops = Stops()
        edges = replace(QUICK, terminated_within_s=1.0)

        @flow(name="cancelled")
        def cancelled() -> float:
            began = time.monotonic()
            with obey_requests(stops, edges):
                told(Cancelling())
                await_that(lambda: bool(stops))
                told(Running())
            return time.monotonic() - began

        assert cancelled() >= 1
        assert "Cancelled in Prefect" in str(stops[0])

    def test_a_server_that_does_not_answer_changes_nothing(self) -> None:
        stops, asked_for = Stops(), threading.Event()

        def away() -> NoReturn:
            asked_for.set()
            raise ConnectionError

        @flow(name="alone")
        def alone() -> bool:
            with obey_requests(stops, replace(QUICK, connect=away)) as may_begin:
                return asked_for.wait(30) and may_begin.is_set()

        assert alone()
        assert stops == []
