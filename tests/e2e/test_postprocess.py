"""A study that arrives starts post-processing: by the trigger of its deployment, on a worker of the pool."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.orchestration.arrivals import announce
from tasks.ledger.database import connect, prepare
from tasks.ledger.registered_studies import RegisteredStudies
from tasks.ledger.schema import registered_instance
from tasks.ledger.statements import Scope
from tests.conftest import instance
from tests.dicomweb_side import DicomwebSide
from tests.far_side import FarSide
from tests.prefect_server import PrefectServer
from tests.processes import await_that
from tests.work_pool import Site

pytestmark = pytest.mark.processes


@pytest.fixture
def server(new_prefect_home: Callable[[], Path]) -> Iterator[PrefectServer]:
    with PrefectServer(new_prefect_home()) as server:
        yield server


@pytest.fixture
def site(server: PrefectServer, tmp_path: Path, far_side: FarSide) -> Iterator[Site]:
    ledger = str(tmp_path / "ledger.sqlite")
    site = Site(tmp_path, far_side, ledger, server)
    site.environment["DICOM_INGEST_RESULT_DIR"] = str(tmp_path / "results")
    site.do("work-pool", "create", "archive", "--type", "process")
    site.do("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    try:
        yield site
    finally:
        site.end()


def test_a_study_that_has_arrived_is_post_processed(
    site: Site, server: PrefectServer, tmp_path: Path
) -> None:
    """Its number comes from the event, as a number; its result is in the worker's directory."""
    with DicomwebSide() as side:
        side.put(instance("2.25.100"), instance("2.25.101"))
        (study_uid,) = {each.study for each in side.stored.values()}
        site.environment["DICOM_INGEST_DICOMWEB_URL"] = side.url
        site.start("worker", "prefect", "worker", "start", "--pool", "archive", "--name", "one")
        engine = connect(tmp_path / "ledger.sqlite")
        prepare(engine)
        with engine.execution_options(writes=True).begin() as db:
            values = {"campaign": "default", "registry": "r", "study_instance_uid": study_uid}
            values |= {"object_id": 1, "key": "k", "run_id": "i", "registered_ns": 1}
            for uid in side.stored:
                db.execute(sa.insert(registered_instance).values(sop_instance_uid=uid, **values))
        arrived = RegisteredStudies(engine, Scope("sqlite", "default", "i", 45), "r", 600, lambda: 10**15)
        with temporary_settings({PREFECT_API_URL: server.url}):
            assert announce(arrived, "default") == 1
        result = tmp_path / "results" / "study-1.json"
        await_that(result.exists, within_s=90, said=lambda: site.told("worker"))
        engine.dispose()
    contents = json.loads(result.read_text())["data"]
    assert (contents["study_instance_uid"], contents["instances"]) == (study_uid, 2)
