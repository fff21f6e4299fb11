"""Which studies have arrived, by what the ledger has of manifest, upload and registry."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.ledger.database import connect, prepare
from tasks.ledger.ledger import Ledger
from tasks.ledger.registered_studies import RegisteredStudies, known_study
from tasks.ledger.schema import registered_instance, registered_study
from tasks.ledger.statements import Scope
from tests.tasks.ledger.sample_rows import Where, enrolled, listed, uploaded

REGISTRY = "dicom.example.org:443/dicom-web"
NOW_NS = 10_000_000_000_000
QUIET_AFTER_S = 600.0
STUDY = "1.2"  # of every instance that `uploaded` makes


@pytest.fixture
def engine(where: Where) -> Iterator[sa.Engine]:
    engine = connect(where)
    prepare(engine)
    yield engine
    engine.dispose()


def studies(engine: sa.Engine, registry: str = REGISTRY) -> RegisteredStudies:
    scope = Scope(engine.dialect.name, "default", "ingest-1", 45)
    return RegisteredStudies(engine, scope, registry, QUIET_AFTER_S, lambda: NOW_NS)


def register(
    engine: sa.Engine, *uids: str, study: str = STUDY, ago_s: float = 0, campaign: str = "default"
) -> None:
    """As ingest keeps it."""
    with engine.execution_options(writes=True).begin() as db:
        for uid in uids:
            values = {"campaign": campaign, "registry": REGISTRY, "sop_instance_uid": uid}
            values |= {"study_instance_uid": study, "object_id": 1, "key": f"k/{uid}", "run_id": "ingest-1"}
            values |= {"registered_ns": NOW_NS - int(ago_s * 1_000_000_000)}
            db.execute(sa.insert(registered_instance).values(**values))


def store(ledger: Ledger, *uids: str) -> None:
    """As an upload does."""
    for number, uid in enumerate(uids, 1):
        (todo,) = enrolled(ledger, listed(number, f"/archive/one/{uid}.dcm"))
        ledger.claim(todo, uid)
        ledger.issue(todo, uid, f"k/{uid}", 1)
        ledger.settle(todo, uploaded(uid, f"k/{uid}"), [uid])


class TestCompletions:
    def test_a_study_that_nobody_expects_has_arrived_when_it_is_quiet(self, engine: sa.Engine) -> None:
        register(engine, "1", "2", study="5.1", ago_s=QUIET_AFTER_S)
        register(engine, "3", study="5.2", ago_s=QUIET_AFTER_S - 1)
        (completion,) = studies(engine).completions()
        assert (completion.instances, completion.completion, completion.label) == (2, 1, "")
        assert completion.study_no == 1

    def test_it_is_announced_until_somebody_has_taken_it_and_then_never_again(
        self, engine: sa.Engine
    ) -> None:
        """Under one event id: who is killed before it is kept that it was announced says it again."""
        register(engine, "1", ago_s=QUIET_AFTER_S)
        ours = studies(engine)
        (first,) = ours.completions()
        assert studies(engine).completions() == [first]
        ours.mark_announced(first)
        assert studies(engine).completions() == []

    def test_a_study_that_grows_arrives_again(self, engine: sa.Engine) -> None:
        """With another event, and under the same number."""
        register(engine, "1", ago_s=QUIET_AFTER_S)
        ours = studies(engine)
        (first,) = ours.completions()
        ours.mark_announced(first)
        register(engine, "2", ago_s=QUIET_AFTER_S)
        (second,) = ours.completions()
        assert (second.study_no, second.completion, second.instances) == (first.study_no, 2, 2)
        assert second.event_id != first.event_id

    def test_what_was_said_of_a_smaller_one_does_not_count_for_a_larger_one(self, engine: sa.Engine) -> None:
        """Two processes: the slower one's event was of the former completion."""
        register(engine, "1", ago_s=QUIET_AFTER_S)
        ours = studies(engine)
        (first,) = ours.completions()
        register(engine, "2", ago_s=QUIET_AFTER_S)
        (second,) = studies(engine).completions()
        ours.mark_announced(first)
        assert ours.completions() == [second]

    def test_the_manifest_says_how_many(self, engine: sa.Engine, run: Callable[..., Ledger]) -> None:
        """And by which label the study is known."""
        run("upload-1").close()  # its manifest expects five instances of 1.2.3, its label is "label"
        register(engine, "1", "2", "3", "4", study="1.2.3", ago_s=QUIET_AFTER_S)
        ours = studies(engine)
        assert ours.completions() == []
        register(engine, "5", study="1.2.3")
        (completion,) = ours.completions()
        assert (completion.instances, completion.label) == (5, "label")

    def test_all_that_the_upload_stored_has_to_be_registered(
        self, engine: sa.Engine, run: Callable[..., Ledger]
    ) -> None:
        """And while a run is at work, more may come: then it has to be quiet, too."""
        ledger = run("upload-1")
        store(ledger, "1", "2")
        with engine.execution_options(writes=True).begin() as db:
            db.execute(sa.text("UPDATE run SET api_host = 'api.example.org:443'"))
        register(engine, "1", ago_s=QUIET_AFTER_S)
        assert studies(engine).completions() == []
        register(engine, "2")
        assert studies(engine).completions() == []
        with engine.execution_options(writes=True).begin() as db:
            db.execute(sa.text("UPDATE run SET heartbeat_s = 0"))
        (completion,) = studies(engine).completions()
        assert completion.instances == 2

    def test_other_campaigns_and_registries_are_others(self, engine: sa.Engine) -> None:
        register(engine, "1", ago_s=QUIET_AFTER_S)
        register(engine, "1", ago_s=QUIET_AFTER_S, campaign="other")
        assert studies(engine, "elsewhere:80/").completions() == []
        assert len(studies(engine).completions()) == 1

    def test_a_claim_is_not_registered(self, engine: sa.Engine) -> None:
        register(engine, "1", ago_s=QUIET_AFTER_S)
        with engine.execution_options(writes=True).begin() as db:
            db.execute(sa.update(registered_instance).values(key=""))
        assert studies(engine).completions() == []


class TestKnownStudy:
    def test_is_found_by_its_number_in_its_campaign(self, engine: sa.Engine, where: Where) -> None:
        register(engine, "1", study="5.1", ago_s=QUIET_AFTER_S)
        (completion,) = studies(engine).completions()
        found = known_study(where, "default", completion.study_no)
        assert found is not None
        assert (found.study_instance_uid, found.event_id) == ("5.1", completion.event_id)
        assert known_study(where, "other", completion.study_no) is None
        assert known_study(where, "default", 99) is None

    def test_nothing_is_made_where_there_is_no_ledger(self, tmp_path: Path) -> None:
        assert known_study(tmp_path / "none.sqlite", "default", 1) is None
        assert not (tmp_path / "none.sqlite").exists()

    def test_a_number_is_of_one_study_alone(self, engine: sa.Engine) -> None:
        for number in range(3):
            register(engine, str(number), study=f"5.{number}", ago_s=QUIET_AFTER_S)
        assert {each.study_no for each in studies(engine).completions()} == {1, 2, 3}
        with engine.connect() as db:
            assert db.scalar(sa.select(sa.func.count()).select_from(registered_study)) == 3
