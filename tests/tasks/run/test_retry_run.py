"""What the last run left is sent again by the ledger; the report is whole, the rest in it is as it was."""

import os
from collections.abc import Collection
from contextlib import closing
from hashlib import md5

import pytest

from tasks.audit.check import audit
from tasks.core.errors import UsageError
from tasks.core.models import StudyEntry
from tasks.core.selection import Selection
from tasks.ledger.retried_run import RetriedRun
from tasks.report.reader import read_summary
from tasks.run.engine import Engine, ingest
from tasks.run.retry_run import retry
from tasks.source.scan import just_file
from tests.conftest import Dicom, NearSide, Run
from tests.far_side import Deviation, FarSide, Request, Step, all_good, s3_error

ALL = Selection()


def again(near_side: NearSide, selection: Selection = ALL, **options: object) -> Run:
    return near_side.told(retry(near_side.settings(**options), selection, edges=near_side.edges))


@pytest.fixture
def first(near_side: NearSide, far_side: FarSide, dicom: Dicom) -> Run:
    """Stored, refused, throttled away, in conflict, cut off, and one whose directory is not there."""
    bodies = {
        "a/stored": dicom("1.1"),
        "b/refused": dicom("1.2", "refused"),
        "b/stored": dicom("1.3"),
        "b/cut": dicom("1.7")[:-40],
        "c/conflict": dicom("1.1", "other"),
        "d/cut": dicom("1.4")[:-40],
        "e/broken": dicom("1.5", "broken"),
    }
    for name, body in bodies.items():
        near_side.put(name, body)

    refusals = {
        md5(bodies["b/refused"], usedforsecurity=False).hexdigest(): s3_error(400, "InvalidRequest"),
        md5(bodies["e/broken"], usedforsecurity=False).hexdigest(): s3_error(500, "InternalError"),
    }

    def script(request: Request) -> Deviation | None:
        return refusals.get(request.md5) if request.step is Step.PUT else None

    far_side.script = script
    run = near_side.run(retries=("server=0",))
    assert run.statuses == LEFT
    far_side.script = all_good
    return run


LEFT = {
    "a/stored": "uploaded",
    "b/refused": "failed/refused",
    "b/stored": "uploaded",
    "b/cut": "invalid/truncated",
    "c/conflict": "conflict",
    "d/cut": "invalid/truncated",
    "e/broken": "failed/server",
}
STORED = {"a/stored": "already_uploaded", "b/stored": "already_uploaded"}


class TestRetry:
    def test_sends_what_is_left_and_has_a_row_for_every_file(
        self, first: Run, near_side: NearSide, far_side: FarSide
    ) -> None:
        """Of a manifest that nobody has any more."""
        second = again(near_side)
        assert second.statuses == LEFT | STORED | {"b/refused": "uploaded", "e/broken": "uploaded"}
        assert second.summary.studies == first.summary.studies
        assert second.keys_told - set(second.summary.unused_keys) <= far_side.keys_handed_out
        assert audit(near_side.report_dir).faults == []
        assert near_side.run().statuses == second.statuses | dict.fromkeys(
            ("b/refused", "e/broken"), "already_uploaded"
        )

    @pytest.mark.parametrize(
        ("statuses", "reasons", "sent"),
        [
            (("failed",), (), ("b/refused", "e/broken")),
            (("failed",), ("server",), ("e/broken",)),
            ((), ("refused",), ("b/refused",)),
            (("failed", "conflict"), ("refused",), ("b/refused",)),
        ],
    )
    def test_leaves_all_that_is_not_chosen_as_it_was(
        self,
        first: Run,
        near_side: NearSide,
        dicom: Dicom,
        statuses: Collection[str],
        reasons: Collection[str],
        sent: Collection[str],
    ) -> None:
        """Also what has become right since: nobody looks at it."""
        near_side.put("d/cut", dicom("1.4"))
        near_side.put("b/cut", dicom("1.7"))
        second = again(near_side, Selection(statuses, reasons))
        assert second.statuses == LEFT | STORED | dict.fromkeys(sent, "uploaded")
        for name in {*LEFT} - {*sent}:
            assert {**second.row(name), "status": ""} == {**first.row(name), "status": ""}
        assert second.exit_code == 1

    def test_goes_on_from_a_retry(self, first: Run, near_side: NearSide) -> None:
        """Its report is the last run's now, and lacks nothing."""
        again(near_side, Selection(reasons=("refused",)))
        third = again(near_side, Selection(reasons=("server",)))
        assert third.statuses == LEFT | STORED | {"b/refused": "already_uploaded", "e/broken": "uploaded"}
        assert audit(near_side.report_dir).faults == []

    def test_finds_what_is_gone_and_what_is_new_in_a_study_that_it_walks(
        self, first: Run, near_side: NearSide, dicom: Dicom
    ) -> None:
        near_side.archive.joinpath("b/refused").unlink()
        near_side.put("b/new", dicom("1.6"))
        second = again(near_side, Selection(reasons=("refused",)))
        assert second.statuses == LEFT | STORED | {"b/refused": "missing/not_found", "b/new": "uploaded"}

    def test_of_nothing_that_is_chosen_makes_no_run(
        self, first: Run, near_side: NearSide, far_side: FarSide
    ) -> None:
        asked = len(far_side.requests)
        with pytest.raises(UsageError, match="left nothing that is chosen"):
            again(near_side, Selection(statuses=("too_large",)))
        with pytest.raises(UsageError, match="--status: there is nothing to send again that is uploaded"):
            again(near_side, Selection(statuses=("uploaded",)))
        assert (len(far_side.requests), read_summary(near_side.report_dir).run_id) == (
            asked,
            first.summary.run_id,
        )

    def test_walks_a_directory_that_was_not_there(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("a/1", dicom("1.1"))
        entries = [*near_side.entries(), StudyEntry(2, str(near_side.archive / "b"))]
        ingest(entries, near_side.settings(), edges=near_side.edges)
        near_side.put("b/2", dicom("1.2"))
        assert again(near_side).statuses == {"a/1": "already_uploaded", "b/2": "uploaded"}

    def test_of_one_file_sends_nothing_beside_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Which was sent by itself; its directory was nobody's business."""
        path = near_side.put("a/1", dicom("1.1"))
        near_side.put("a/2", dicom("1.2"))
        far_side.script = lambda request: s3_error(400, "X") if request.step is Step.PUT else None
        one = [StudyEntry(1, str(path.parent))]
        ingest(one, near_side.settings(), scan=just_file(path), edges=near_side.edges)
        far_side.script = all_good
        assert again(near_side).statuses == {"a/1": "uploaded"}

    def test_goes_on_from_a_run_that_was_stopped(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """What it had not tried, and directories that it had not walked."""
        for name in "abc":
            near_side.put(f"{name}/1", dicom(f"1.{ord(name)}"))
        far_side.script = lambda request: (
            s3_error(403, "InvalidAccessKeyId") if request.step is Step.PUT else None
        )
        engine = near_side.engine()
        first = near_side.told(engine.finish(UsageError("stopped")))
        assert {row["reason"] for row in first.rows.values()} == {"not_scanned"}
        far_side.script = all_good
        assert set(again(near_side).statuses.values()) == {"uploaded"}

    def test_keeps_the_root_of_the_run(self, near_side: NearSide, dicom: Dicom) -> None:
        """A link out of it is not followed by the next run either."""
        near_side.put("a/1", dicom("1.1"))
        near_side.put("outside", dicom("1.2"))
        os.symlink(near_side.archive / "outside", near_side.archive / "a/link")
        root = str(near_side.archive / "a")
        first = near_side.run(root=root)
        assert first.statuses["a/link"] == "unreadable/link_outside_root"
        second = again(near_side)
        assert (second.statuses["a/link"], second.summary.root) == (
            first.statuses["a/link"],
            first.summary.root,
        )

    def test_goes_on_from_a_run_that_was_killed(self, near_side: NearSide, dicom: Dicom) -> None:
        """What it had not walked is not attempted: chosen by that, or by no status at all."""
        near_side.put("a/1", dicom("1.1"))
        engine = near_side.engine()
        with engine.draining():
            pass
        engine.close()
        with pytest.raises(UsageError, match="left nothing that is chosen"):
            again(near_side, Selection(statuses=("failed",)))
        assert again(near_side, Selection(reasons=("not_scanned",))).statuses == {"a/1": "uploaded"}

    def test_of_a_run_that_is_not_the_last_any_more_is_refused(self, first: Run, near_side: NearSide) -> None:
        """Another was quicker; its rows would be lost."""
        settings = near_side.settings()
        with closing(RetriedRun(settings.ledger_at, "default", first.summary.run_id, (), ALL)) as retried:
            second = near_side.run()
            with pytest.raises(UsageError, match="A later run into this report directory has begun"):
                ingest(near_side.entries(), settings, edges=near_side.edges, retried=retried)
        assert read_summary(near_side.report_dir).run_id == second.summary.run_id
        assert audit(near_side.report_dir).faults == []

    @pytest.mark.parametrize("failed", ["a/1", "b/1"])
    def test_leaves_what_was_not_tried_when_that_is_not_chosen(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, failed: str
    ) -> None:
        """In a study that it walks, and in one that it takes over."""
        near_side.put(failed, dicom("1.2"))
        near_side.put("a/0", dicom("1.1"))
        engine = near_side.engine()
        far_side.script = lambda request: s3_error(400, "X") if request.step is Step.PUT else None
        with engine.draining():
            chunks = list(engine.scan())
            wanted = [([row for row in chunks[0][0] if row.path.endswith(failed)], [])]
            for batch_no in engine.plan(iter(wanted)):
                engine.upload(batch_no)
            rest = [([row for row in chunks[0][0] if not row.path.endswith(failed)], chunks[0][1])]
            list(engine.plan(iter(rest)))
        first = near_side.told(engine.finish())
        assert first.statuses == {failed: "failed/refused", "a/0": "not_attempted/stopped"}
        far_side.script = all_good
        second = again(near_side, Selection(statuses=("failed",)))
        assert second.statuses == {failed: "uploaded", "a/0": "not_attempted/stopped"}
        assert set(again(near_side).statuses.values()) == {"already_uploaded", "uploaded"}

    def test_that_was_stopped_is_gone_on_with_by_the_same_command(
        self, first: Run, near_side: NearSide
    ) -> None:
        """Though what it did not come to says not_attempted now."""
        of = Selection(statuses=("failed",))
        settings = near_side.settings()
        with closing(RetriedRun(settings.ledger_at, "default", first.summary.run_id, (), of)) as retried:
            engine = Engine(near_side.entries(), settings, edges=near_side.edges, retried=retried)
            with engine.draining():
                list(engine.plan(engine.scan()))
            stopped = near_side.told(engine.finish(UsageError("stopped")))
        assert {stopped.statuses[name] for name in ("b/refused", "e/broken")} == {"not_attempted/stopped"}
        second = again(near_side, of)
        assert second.statuses == LEFT | STORED | {"b/refused": "uploaded", "e/broken": "uploaded"}
