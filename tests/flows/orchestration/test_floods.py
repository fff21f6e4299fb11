"""What a run leaves in Prefect's database: a few rows for each batch, none for a file."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL

from flows.backfill import backfill
from flows.orchestration.parameters import Options
from tests.conftest import Dicom
from tests.far_side import TOKEN, FarSide, Request, Step, status

FEW, MANY = 2_000, 10_000
MOST_TASK_RUNS = {FEW: 5, MANY: 21}


def asked(path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{PREFECT_API_URL.value()}{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def settled_counts(flow_run_id: str) -> tuple[int, int, int]:
    """Task runs, logs and events of a flow run, as soon as the server has them all."""
    of_run = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    related = {"filter": {"any_resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}}, "limit": 1}
    counts, before = (0, 0, 0), (-1, -1, -1)
    until = time.monotonic() + 60
    while (counts != before or not counts[0]) and time.monotonic() < until:
        time.sleep(3)
        before = counts
        logs = asked("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200})
        events = asked("/events/filter", related)["total"]
        counts = (int(asked("/task_runs/count", of_run)), len(logs), events)
    return counts


@pytest.mark.long
@pytest.mark.usefixtures("prefect_server")
def test_five_times_the_files_make_no_more_logs_and_events_than_batches(
    tmp_path: Path, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every hundredth file fails, which is a row of the report and no log line of Prefect's."""
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    far_side.script = lambda request: (
        status(404) if request.step is Step.PUT and request.n % 100 == 0 else _worked(request)
    )
    (tmp_path / "study").mkdir()
    found = {}
    for count in (FEW, MANY):
        for number in range(count):
            path = tmp_path / "study" / f"{number:05}"
            if not path.exists():
                path.write_bytes(dicom(f"1.{number}"))
        manifest = tmp_path / f"{count}.csv"
        manifest.write_text("study_dir\nstudy\n")
        state = backfill(
            str(manifest),
            api_endpoint=far_side.url,
            report_dir=str(tmp_path / f"report-{count}"),
            options=Options(campaign=f"flood-{count}"),
            return_state=True,
        )
        assert state.message == f"{count // 100} of {count:,} files, 1 study incomplete, see report"
        found[count] = settled_counts(str(state.state_details.flow_run_id))
    for count, (task_runs, logs, events) in found.items():
        assert task_runs <= MOST_TASK_RUNS[count]
        assert logs <= 20 + 4 * task_runs
        assert events <= 40 + 8 * task_runs
    assert found[MANY][0] > found[FEW][0], "the count can grow"


def _worked(_request: Request) -> None:
    return None
