"""What the store has lost, as verify marks it in the ledger: a run sends exactly that again."""

import os

import pytest

from tasks.ledger.verified_objects import SentInstance, VerifiedObjects
from tests.conftest import NearSide, Run, instance


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> str:
    """SQLite in the report directory, unless a test asks for another."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    return str(request.getfixturevalue("postgresql").new_database())


on_both = pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)


def lose(near_side: NearSide, *lost: dict[str, str]) -> tuple[int, int]:
    """Out of the store, and marked in the ledger."""
    for row in lost:
        near_side.far_side.objects.pop(row["key"], None)
    ledger = VerifiedObjects(near_side.settings().ledger_at, "default")
    try:
        return ledger.take_down(
            SentInstance(row["sop_instance_uid"], row["key"], row["sha256"]) for row in lost
        )
    finally:
        ledger.close()


def sent(run: Run) -> set[str]:
    return {name for name, status in run.statuses.items() if status.startswith("uploaded")}


@on_both
def test_is_sent_again_under_a_new_key_and_nothing_else_is(near_side: NearSide) -> None:
    near_side.put_many(4)
    first = near_side.run()
    lost = first.row("study/0002")
    assert lose(near_side, lost) == (1, 0)

    again = near_side.run()

    assert again.statuses == {
        "study/0000": "already_uploaded",
        "study/0001": "already_uploaded",
        "study/0002": "uploaded/replaced",
        "study/0003": "already_uploaded",
    }
    row = again.row("study/0002")
    assert row["key"] != lost["key"]
    assert row["superseded_keys"] == lost["key"]
    assert row["key"] in near_side.far_side.objects
    assert near_side.run().statuses["study/0002"] == "already_uploaded"
    assert near_side.run().summary.exit_code == 0


def test_is_marked_once_and_only_where_it_is_current(near_side: NearSide) -> None:
    """A run that has sent it again in the meantime is right."""
    near_side.put_many(1)
    lost = near_side.run().row("study/0000")
    lose(near_side, lost)
    newer = near_side.run().row("study/0000")

    assert lose(near_side, lost) == (0, 0)

    assert sent(near_side.run()) == set()
    ledger = VerifiedObjects(near_side.settings().ledger_at, "default")
    found = [*ledger.newer_keys([SentInstance(lost["sop_instance_uid"], lost["key"], lost["sha256"])])]
    assert found == [(lost["key"], newer["key"])]
    ledger.close()


def test_is_sent_by_its_own_path_whichever_of_its_uid_comes_first(near_side: NearSide) -> None:
    """Neither a file with other bytes under the UID, nor a duplicate, takes its place."""
    near_side.put("study/m.dcm", instance("1.7"))
    first = near_side.run()
    near_side.put("study/a.dcm", instance("1.7", "other"))
    near_side.put("study/z.dcm", instance("1.7"))
    near_side.run()
    lose(near_side, first.row("study/m.dcm"))

    again = near_side.run()

    assert again.statuses == {
        "study/a.dcm": "conflict",
        "study/m.dcm": "uploaded/replaced",
        "study/z.dcm": "duplicate",
    }
    assert again.row("study/z.dcm")["key"] == again.row("study/m.dcm")["key"]


@on_both
def test_is_sent_by_a_duplicate_when_its_own_file_is_gone(near_side: NearSide) -> None:
    path = near_side.put("study/a.dcm", instance("1.7"))
    near_side.put("study/b.dcm", instance("1.7"))
    lost = near_side.run().row("study/a.dcm")
    path.unlink()

    assert lose(near_side, lost) == (1, 0)

    again = near_side.run()
    assert again.statuses == {"study/b.dcm": "uploaded/replaced"}
    assert again.row("study/b.dcm")["key"] in near_side.far_side.objects


def test_whose_file_is_gone_is_counted_and_waits_for_it(near_side: NearSide) -> None:
    near_side.put("study/other.dcm", instance("1.8"))
    body = instance("1.7")
    path = near_side.put("study/a.dcm", body)
    lost = near_side.run().row("study/a.dcm")
    path.unlink()

    assert lose(near_side, lost) == (1, 1)

    near_side.run()
    near_side.put("study/a.dcm", body)
    assert near_side.run().statuses["study/a.dcm"] == "uploaded/replaced"


def test_is_not_sent_when_its_file_has_rotted(near_side: NearSide) -> None:
    """Other bytes under the same size and mtime are damage, and no repair."""
    path = near_side.put("study/a.dcm", instance("1.7", "one"))
    lost = near_side.run().row("study/a.dcm")
    times = path.stat()
    path.write_bytes(instance("1.7", "two"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    lose(near_side, lost)

    assert near_side.run().statuses == {"study/a.dcm": "changed/altered"}


@on_both
def test_beside_another_instance_is_sent_again_beside_it(near_side: NearSide) -> None:
    """Two contents under one UID, both sent as it was asked for; the second one is lost."""
    near_side.put("study/a.dcm", instance("1.7", "one"))
    near_side.put("study/b.dcm", instance("1.7", "two"))
    first = near_side.run(on_conflict="upload")
    assert sent(first) == {"study/a.dcm", "study/b.dcm"}
    beside = near_side.run().statuses
    lose(near_side, first.row("study/b.dcm"))

    again = near_side.run()

    assert beside["study/b.dcm"] == "already_uploaded"
    assert again.statuses == {"study/a.dcm": "already_uploaded", "study/b.dcm": "uploaded/replaced"}
    assert near_side.run().statuses["study/b.dcm"] == "already_uploaded"


def test_that_can_not_be_sent_now_stays_lost(near_side: NearSide) -> None:
    path = near_side.put("study/a.dcm", instance("1.7"))
    near_side.put("study/b.dcm", instance("1.7", "other"))
    lost = near_side.run().row("study/a.dcm")
    body = path.read_bytes()
    path.write_bytes(b"")
    lose(near_side, lost)
    assert near_side.run().statuses["study/a.dcm"] == "changed/damaged"

    near_side.put("study/a.dcm", body)

    assert near_side.run().statuses == {"study/a.dcm": "uploaded/replaced", "study/b.dcm": "conflict"}


@pytest.mark.parametrize("name", ["default", "other"])
def test_is_of_one_campaign(near_side: NearSide, name: str) -> None:
    near_side.put_many(1)
    lost = near_side.run().row("study/0000")
    ledger = VerifiedObjects(near_side.settings().ledger_at, name)
    marked, _ = ledger.take_down([SentInstance(lost["sop_instance_uid"], lost["key"], lost["sha256"])])
    ledger.close()
    assert marked == (name == "default")
