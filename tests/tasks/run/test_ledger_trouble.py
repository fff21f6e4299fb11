"""What one file, or the database, does to a run: the file fails alone, and the run outlasts the database."""

import os
import random
import threading

import pytest

from tasks.ledger.database import connect
from tests.conftest import NearSide, instance, padded, superseded
from tests.databases import PostgreSQL
from tests.far_side import Request, Step
from tests.tasks.audit.report_dirs import faults


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgresql").new_database() if request.param != "sqlite" else ""


def test_a_path_longer_than_an_index_takes_is_sent_as_any_other(near_side: NearSide) -> None:
    """Of names that are not UTF-8, four times as long as the ledger keeps them; again, they are known."""
    deep = near_side.archive / "study"
    deep.mkdir(parents=True)
    dice = random.Random(1)  # or the index would compress it
    for _ in range(12):
        deep = os.fsencode(deep) + b"/" + bytes(dice.randrange(130, 250) for _ in range(200))
        os.mkdir(deep)
    with open(deep + b"/1.dcm", "wb") as file:
        file.write(instance("1.1"))
    near_side.put("study/2.dcm", instance("1.2"))
    assert near_side.run().summary.by_status == {"uploaded": 2}
    run = near_side.run()
    assert (run.exit_code, run.summary.by_status) == (0, {"already_uploaded": 2})
    assert max(len(os.fsencode(row["path"])) for row in run.rows.values()) > 2400


REFUSING = {
    "sqlite": (
        "CREATE TRIGGER refusing BEFORE UPDATE ON file WHEN NEW.sop_instance_uid = '{uid}' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    ),
    "postgresql": "ALTER TABLE file ADD CHECK (sop_instance_uid <> '{uid}')",
}


def test_a_file_that_the_database_refuses_fails_alone(near_side: NearSide) -> None:
    """It was sent: its key is superseded. The next run sends it again, once the database takes it."""
    near_side.put("study/0", instance("1.9"))
    assert near_side.run().exit_code == 0
    engine = connect(near_side.settings().ledger_at)
    with engine.execution_options(writes=True).begin() as db:
        db.exec_driver_sql(REFUSING[db.dialect.name].format(uid=padded("1.5")))
    engine.dispose()
    for number in range(1, 31):
        near_side.put(f"study/{number}", instance(f"1.{100 * number if number != 5 else 5}"))
    run = near_side.run()
    assert run.exit_code == 1
    refused = run.row("study/5")
    assert (refused["status"], refused["reason"], refused["detail"]) == ("failed", "refused", "ledger")
    assert (refused["key"], len(superseded(refused))) == ("", 1)
    others = {row["status"] for name, row in run.rows.items() if name != "study/5"}
    assert others == {"uploaded", "already_uploaded"}
    assert run.keys_told >= set(near_side.far_side.bodies)
    assert faults(near_side.report_dir) == ""


@pytest.mark.long
@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
def test_a_database_that_is_away_for_a_while_is_waited_for(
    near_side: NearSide, postgresql: PostgreSQL
) -> None:
    """In the middle of a run: each file is stored once."""
    bodies = near_side.put_many(300)
    away: list[threading.Timer] = []

    def script(request: Request) -> None:
        if (request.step, request.n) == (Step.PUT, 40):
            postgresql.stop("immediate")
            away.append(threading.Timer(5, postgresql.start))
            away[0].start()

    near_side.far_side.script = script
    run = near_side.run()
    away[0].join()
    assert (run.exit_code, run.summary.by_status) == (0, {"uploaded": len(bodies)})
    assert set(near_side.far_side.bodies) == {row["key"] for row in run.rows.values()}
