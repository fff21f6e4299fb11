"""The event that a study has arrived: emitted once it is kept, kept as announced once it was taken."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.orchestration.arrivals import EVENT, announce, announcing
from tasks.ledger.database import connect, prepare
from tasks.ledger.registered_studies import RegisteredStudies
from tasks.ledger.schema import registered_instance
from tasks.ledger.statements import Scope
from tests.prefect_server import events_of

REGISTRY = "r"
NOW_NS = 10**15


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(tmp_path / "ledger.sqlite")
    prepare(engine)
    yield engine
    engine.dispose()


def studies(engine: sa.Engine, campaign: str, *uids: str) -> RegisteredStudies:
    """Each with an instance that was registered long ago."""
    with engine.execution_options(writes=True).begin() as db:
        for uid in uids:
            values = {"campaign": campaign, "registry": REGISTRY, "sop_instance_uid": f"{uid}.1"}
            values |= {
                "study_instance_uid": uid,
                "object_id": 1,
                "key": "k",
                "run_id": "i",
                "registered_ns": 1,
            }
            db.execute(sa.insert(registered_instance).values(**values))
    return RegisteredStudies(engine, Scope("sqlite", campaign, "i", 45), REGISTRY, 600, lambda: NOW_NS)


@pytest.mark.usefixtures("prefect_server")
class TestAnnounce:
    def test_says_numbers_and_counts_and_no_uid(self, engine: sa.Engine) -> None:
        """Once for each study, whoever asks again."""
        arrived = studies(engine, "arrivals-1", "2.25.11", "2.25.12")
        assert announce(arrived, "arrivals-1") == 2
        assert announce(arrived, "arrivals-1") == 0
        events = events_of("arrivals-1", 2)
        assert {each["event"] for each in events} == {EVENT}
        assert {each["payload"]["study"] for each in events} == {1, 2}
        assert {each["payload"]["instances"] for each in events} == {1}
        assert "2.25.1" not in str(events)

    def test_of_one_that_was_emitted_and_not_kept_there_is_one_event(
        self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the process is killed between the two."""
        arrived = studies(engine, "arrivals-2", "2.25.21")
        with monkeypatch.context() as patch:
            patch.setattr(RegisteredStudies, "mark_announced", lambda *_: None)
            assert announce(arrived, "arrivals-2") == 1
        assert announce(arrived, "arrivals-2") == 1
        events_of("arrivals-2", 1)
        time.sleep(1)
        assert len(events_of("arrivals-2", 1)) == 1

    def test_goes_through_a_flow_run_that_it_names(self, engine: sa.Engine) -> None:
        arrived = studies(engine, "arrivals-3", "2.25.31")

        @flow
        def ingesting() -> None:
            with announcing(arrived, "arrivals-3"):
                pass

        ingesting()
        (event,) = events_of("arrivals-3", 1)
        assert "flow-run" in {related["prefect.resource.role"] for related in event["related"]}


def test_a_server_that_is_away_costs_no_run(engine: sa.Engine) -> None:
    """And what was not taken is announced by the next look."""
    arrived = studies(engine, "arrivals-4", "2.25.41")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert announce(arrived, "arrivals-4") == 0
    assert len(arrived.completions()) == 1
