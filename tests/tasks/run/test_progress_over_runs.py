"""What a person sees in a run that follows another one: through the engine, its ledger and its report."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from tasks.core.object_outcomes import ObjectOutcome
from tasks.core.progress import Progress
from tasks.run.engine import ingest
from tasks.run.registration import register
from tests.conftest import Dicom, NearSide
from tests.far_side import FarSide, Request, Step, interrupting, s3_error
from tests.pipeline_side import PipelineSide
from tests.processes import await_that


def seen_at_first_put(near_side: NearSide) -> dict[str, int]:
    """The counters of a run once it has listed everything and before anything is stored."""
    seen = dict[str, int]()

    @contextmanager
    def watch(progress: Progress) -> Iterator[None]:
        def script(request: Request) -> None:
            if request.step is Step.PUT and not seen:
                await_that(lambda: not progress.scanning)
                seen.update(progress.counters())

        near_side.far_side.script = script
        yield

    ingest(near_side.entries(), near_side.settings(), watch=watch, edges=near_side.edges)
    return seen


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def ledger(request: pytest.FixtureRequest) -> str:
    """Both know what an earlier run made of a file."""
    return str(request.getfixturevalue("postgresql").new_database()) if request.param == "PostgreSQL" else ""


def test_what_failed_has_failed_until_it_is_tried_again(
    near_side: NearSide, far_side: FarSide, dicom: Dicom
) -> None:
    """From the listing on, before the next run has sent a byte; what is stored is not stored twice."""
    near_side.put("study/good", dicom("1.1"))
    near_side.put("study/cut", dicom("1.2")[:-40])
    near_side.put("study/refused", dicom("1.3"))
    bad = dicom("1.3")
    far_side.script = lambda request: (
        s3_error(400, "InvalidRequest") if request.md5 == hashlib.md5(bad).hexdigest() else None
    )
    before = near_side.run()
    assert before.statuses == {
        "study/good": "uploaded",
        "study/cut": "invalid/truncated",
        "study/refused": "failed/refused",
    }
    seen = seen_at_first_put(near_side)
    assert (seen["files_listed"], seen["files_stored"], seen["files_failed"]) == (3, 0, 1)
    assert seen["files_held_back"] == 1
    assert seen["bytes_listed"] == len(dicom("1.1")) + len(bad) + len(dicom("1.2")) - 40
    assert len(dicom("1.1")) <= seen["bytes_done"] <= seen["bytes_listed"] - len(bad)


def test_a_run_goes_on_from_what_a_killed_one_has_stored(
    near_side: NearSide, far_side: FarSide, dicom: Dicom
) -> None:
    """Its files are done when they are listed, with their bytes, and are stored by nobody once more."""
    bodies = near_side.put_many(40)
    far_side.script = interrupting(4)
    near_side.run(parallel=1)
    stored = len(far_side.objects)
    assert 0 < stored < len(bodies), "else the test would hold for nothing"
    size = len(next(iter(bodies.values())))
    seen = seen_at_first_put(near_side)
    assert seen["files_done"] >= stored
    assert seen["bytes_done"] >= stored * size
    assert (seen["files_stored"], seen["bytes_stored"]) == (0, 0)
    assert (seen["files_listed"], seen["bytes_listed"]) == (40, 40 * size)


def test_what_can_not_be_walked_is_held_back_when_it_is_listed(near_side: NearSide, dicom: Dicom) -> None:
    near_side.put("study/good", dicom("1.1"))
    (near_side.archive / "study/nowhere").symlink_to("gone")
    counted: list[dict[str, int]] = []

    @contextmanager
    def watch(progress: Progress) -> Iterator[None]:
        yield
        counted.append(progress.counters())

    ingest(near_side.entries(), near_side.settings(), watch=watch, edges=near_side.edges)
    assert (counted[0]["files_done"], counted[0]["files_stored"], counted[0]["files_held_back"]) == (2, 1, 1)


def test_an_object_that_failed_has_failed_until_it_is_tried_again(side: PipelineSide, dicom: Dicom) -> None:
    """Of ingest: by its listing, before anything is asked of the registry."""
    side.put("good", dicom("1.1"))
    side.put("text", b"hello")
    side.run()
    side.put("new", dicom("1.2"))
    listed: list[dict[str, int]] = []

    @contextmanager
    def watch(progress: Progress) -> Iterator[None]:
        run = progress.count_object

        def count(outcome: ObjectOutcome, row: int | None = None) -> None:
            listed.append(progress.counters())
            run(outcome, row)

        with patch.object(Progress, "count_object", lambda _self, *more: count(*more)):
            yield
        listed.append(progress.counters())

    register(side.settings(), watch, edges=side.edges)
    sizes = [len(dicom("1.1")), len(b"hello"), len(dicom("1.2"))]
    first, last = listed[0], listed[-1]
    assert (first["files_listed"], first["files_done"], first["files_held_back"]) == (3, 1, 1)
    assert (first["bytes_listed"], first["bytes_done"]) == (sum(sizes), sizes[0])
    assert (last["files_done"], last["files_stored"], last["files_held_back"]) == (3, 1, 1)
    assert (last["bytes_done"], last["bytes_stored"]) == (sum(sizes), sizes[2])
